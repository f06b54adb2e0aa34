// LangGraph's stock SDK for JavaScript runs graphs through our gateway, which GATEWAY_URL names.

import assert from "node:assert/strict";
import test from "node:test";

import { Client } from "@langchain/langgraph-sdk";

const client = new Client({ apiUrl: process.env.GATEWAY_URL, apiKey: process.env.GATEWAY_KEY });
const HI = { messages: [{ role: "user", content: "hi" }] };

async function collect(parts) {
  const collected = [];
  for await (const part of parts) collected.push(part);
  return collected;
}

test("a run is created, joined and listed, and its thread has its state", async () => {
  const { thread_id } = await client.threads.create({ metadata: { topic: "javascript" } });
  const run = await client.runs.create(thread_id, "chat", { input: HI, metadata: { source: "test" } });
  const values = await client.runs.join(thread_id, run.run_id);
  assert.deepEqual(values.steps, ["prepare", "model", "finish"]);
  const [listed] = await client.runs.list(thread_id);
  assert.deepEqual([listed.run_id, listed.status, listed.metadata.source], [run.run_id, "success", "test"]);
  assert.equal((await client.runs.get(thread_id, run.run_id)).status, "success");
  const thread = await client.threads.get(thread_id);
  assert.deepEqual([thread.status, thread.values], ["idle", values]);
  const found = await client.threads.search({ metadata: { topic: "javascript" } });
  assert.deepEqual(found.map((one) => one.thread_id), [thread_id]);
});

test("a stream has every mode, and can be joined from its beginning and after any event", async () => {
  const { thread_id } = await client.threads.create();
  const streamMode = ["values", "updates", "messages-tuple", "custom"];
  let runId;
  const onRunCreated = (run) => (runId = run.run_id);
  const heard = await collect(client.runs.stream(thread_id, "chat", { input: HI, streamMode, onRunCreated }));
  assert.deepEqual(new Set(heard.map((part) => part.event)), new Set(["metadata", "values", "updates", "messages", "custom", "end"]));
  const messages = heard.filter((part) => part.event === "messages").map((part) => part.data[0]);
  const pieces = messages.filter((message) => message.type === "AIMessageChunk").map((message) => message.content);
  assert.equal(pieces.join(""), "alpha beta gamma");
  const again = await collect(client.runs.joinStream(thread_id, runId, { lastEventId: "-1" }));
  assert.deepEqual(again, heard);
  const rest = await collect(client.runs.joinStream(thread_id, runId, { lastEventId: heard[4].id }));
  assert.deepEqual(rest, heard.slice(5));
});

test("events of a subgraph carry its namespace", async () => {
  const parts = await collect(
    client.runs.stream(null, "nested", { input: { value: 1 }, streamMode: "updates", streamSubgraphs: true }),
  );
  assert.ok(parts.some((part) => /^updates\|child:[0-9a-f-]+$/.test(part.event)));
});

test("a question interrupts the thread, and its answer resumes it", async () => {
  const { thread_id } = await client.threads.create();
  const asked = await client.runs.wait(thread_id, "ask", { input: { topic: "tea" } });
  assert.deepEqual(asked.__interrupt__.map((one) => one.value), [{ question: "approve tea?" }]);
  const interrupted = await client.threads.get(thread_id);
  assert.equal(interrupted.status, "interrupted");
  assert.deepEqual(Object.values(interrupted.interrupts).flat().map((one) => one.value), [{ question: "approve tea?" }]);
  const answered = await client.runs.wait(thread_id, "ask", { command: { resume: "yes" } });
  assert.deepEqual([answered.answer, answered.steps], ["yes", ["before", "ask", "after"]]);
});

test("an earlier checkpoint is forked, with another input and with the same", async () => {
  const { thread_id } = await client.threads.create();
  await client.runs.wait(thread_id, "chat", { input: HI });
  const history = await client.threads.getHistory(thread_id);
  const beginning = history.at(-1).checkpoint;
  const edited = await client.runs.wait(thread_id, "chat", {
    input: { messages: [{ role: "user", content: "edited" }] },
    checkpoint: beginning,
  });
  assert.deepEqual(edited.messages.map((one) => one.content), ["edited", "alpha beta gamma"]);
  const beforeModel = history.find((state) => state.next[0] === "model").checkpoint;
  const again = await client.runs.wait(thread_id, "chat", { input: null, checkpoint: beforeModel });
  assert.deepEqual(again.messages.map((one) => one.content), ["hi", "alpha beta gamma"]);
  const forks = (await client.threads.getHistory(thread_id, { limit: 100 })).filter(
    (state) => state.parent_checkpoint?.checkpoint_id === beforeModel.checkpoint_id,
  );
  assert.equal(forks.length, 2);
});

test("the state is updated as a node would", async () => {
  const { thread_id } = await client.threads.create();
  await client.runs.wait(thread_id, "ask", { input: { topic: "tea" } });
  await client.threads.updateState(thread_id, { values: { answer: "by hand" }, asNode: "ask" });
  const { values, next } = await client.threads.getState(thread_id);
  assert.deepEqual([values.answer, next], ["by hand", ["after"]]);
});

test("a running run is cancelled", async () => {
  const { thread_id } = await client.threads.create();
  const input = { name: "a", ticks: 600, tick_s: 0.1 };
  const { run_id } = await client.runs.create(thread_id, "slow", { input });
  await client.runs.cancel(thread_id, run_id, true);
  assert.equal((await client.runs.get(thread_id, run_id)).status, "interrupted");
});

test("runs without threads are made at once, with the fields of a batch in the SDK's own case", async () => {
  const payload = { assistantId: "slow", input: { name: "a", ticks: 600, tick_s: 0.1 }, streamMode: ["updates"] };
  const [{ kwargs }, { run_id }] = await client.runs.createBatch([payload, { ...payload, metadata: { n: 2 } }]);
  assert.deepEqual(kwargs.stream_mode, ["updates"]);
  assert.ok(run_id);
  await client.runs.cancelMany({ status: "all" });
});

test("a run that is cancelled says why, and its state is read with what was selected", async () => {
  const { thread_id } = await client.threads.create();
  const { run_id } = await client.runs.create(thread_id, "slow", { input: { name: "a", ticks: 600, tick_s: 0.1 } });
  await client.runs.cancel(thread_id, run_id, true, "interrupt", { reason: "no longer wanted" });
  assert.equal((await client.threads.get(thread_id)).error.message, "no longer wanted");
  const { checkpoint } = await client.threads.getState(thread_id);
  const select = ["values.name"];
  assert.deepEqual(await client.threads.getState(thread_id, checkpoint, { select }), { values: { name: "a" } });
  const byId = await client.threads.getState(thread_id, checkpoint.checkpoint_id, { select });
  assert.deepEqual(byId, { values: { name: "a" } });
});

test("assistants are the graphs that workers serve, with their drawing and their schemas", async () => {
  const [assistant] = await client.assistants.search({ graphId: "chat" });
  const { nodes } = await client.assistants.getGraph(assistant.assistant_id);
  assert.deepEqual(nodes.map((node) => node.id), ["__start__", "prepare", "model", "finish", "__end__"]);
  const schemas = await client.assistants.getSchemas("chat");
  assert.ok("messages" in schemas.state_schema.properties);
});

test("what does not exist and what is not served are errors that say so", async () => {
  const nobody = "00000000-0000-4000-8000-000000000000";
  await assert.rejects(client.threads.get(nobody), /404.*not found/s);
  await assert.rejects(client.runs.create(nobody, "chat", { input: HI }), /404.*not found/s);
  await assert.rejects(client.runs.wait(null, "chat", { input: HI, afterSeconds: -1 }), /422.*after_seconds/s);
});
