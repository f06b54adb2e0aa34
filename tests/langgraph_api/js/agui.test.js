// The client with which CopilotKit speaks to LangGraph works against our gateway, which GATEWAY_URL names.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import test from "node:test";

import { LangGraphAgent } from "@ag-ui/langgraph";
import { Client } from "@langchain/langgraph-sdk";

function agentOf(graphId) {
  const agent = new LangGraphAgent({
    deploymentUrl: process.env.GATEWAY_URL,
    graphId,
    langsmithApiKey: process.env.GATEWAY_KEY,
  });
  agent.threadId = randomUUID();
  return agent;
}

async function run(agent, input = {}) {
  const events = [];
  await agent.runAgent({ runId: randomUUID(), ...input }, { onEvent: ({ event }) => void events.push(event) });
  return events;
}

const say = (agent, content) => agent.setMessages([...agent.messages, { id: randomUUID(), role: "user", content }]);
const contents = (agent) => agent.messages.map((message) => message.content);

test("a conversation streams its tokens and goes on", async () => {
  const agent = agentOf("chat");
  say(agent, "hi");
  const events = await run(agent);
  const tokens = events.filter((event) => event.type === "TEXT_MESSAGE_CONTENT").map((event) => event.delta);
  assert.equal(tokens.join(""), "alpha beta gamma");
  assert.equal(events.at(-1).type, "RUN_FINISHED");
  say(agent, "more");
  await run(agent);
  assert.deepEqual(contents(agent), ["hi", "alpha beta gamma", "more", "alpha beta gamma"]);
});

test("a question is an event, and its answer goes on", async () => {
  const agent = agentOf("ask");
  agent.setState({ topic: "tea" });
  const events = await run(agent);
  const asked = events.find((event) => event.type === "CUSTOM" && event.name === "on_interrupt");
  assert.deepEqual(JSON.parse(asked.value), { question: "approve tea?" });
  await run(agent, { forwardedProps: { command: { resume: "yes" } } });
  assert.equal(agent.state.answer, "yes");
});

test("a run that is aborted stops", async () => {
  const agent = agentOf("slow");
  agent.setState({ name: "a", ticks: 600, tick_s: 0.1 });
  const onEvent = ({ event }) => {
    if (event.type === "STEP_STARTED" && event.stepName === "slow") agent.abortRun();
  };
  await agent.runAgent({ runId: randomUUID() }, { onEvent }).catch(() => {});
  const client = new Client({ apiUrl: process.env.GATEWAY_URL, apiKey: process.env.GATEWAY_KEY });
  let status;
  while (status !== "interrupted") [{ status }] = await client.runs.list(agent.threadId);
});
