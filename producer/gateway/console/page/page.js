// The page of the gateway: asks, follows the events of one task, and shows what else goes on. No library, no build step.

const REFRESH_MS = 3000;
const RETRY_MS = 1000;
const SHORT = 30;
const element = (id) => document.getElementById(id);

let following = null; // {taskId, stop: AbortController} of the task that is shown
let listed = ""; // what the recent tasks show

function headers(more = {}) {
  const key = sessionStorage.getItem("key");
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers) }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The gateway cannot be reached.");
  });
  element("key-form").hidden = response.status !== 401;
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const error = new Error(problem.detail || `The gateway answered ${response.status}.`);
    error.status = response.status;
    throw error;
  }
  return response;
}

// --- one task -------------------------------------------------------------------------------------------------------

function show(taskId, state) {
  following?.stop.abort();
  following = { taskId, stop: new AbortController() };
  element("task").hidden = false;
  element("task-id").textContent = taskId ?? "";
  for (const id of ["nodes", "answer", "facts", "elapsed", "reason"]) element(id).replaceChildren();
  element("problem").hidden = true;
  showState(state);
  return following;
}

function showState(state) {
  element("state").textContent = state === "pending" ? "queued" : state;
  element("state").className = `state ${state}`;
  const isOpen = state === "pending" || state === "running";
  element("cancel").hidden = !isOpen || !following?.taskId;
  element("answer").classList.toggle("streaming", state === "running" && element("answer").textContent !== "");
}

async function showReason(waits) {
  const { taskId } = following;
  element("reason").textContent = "";
  if (!waits || !taskId) return;
  const { reason } = await (await ask(`/tasks/${taskId}`)).json();
  if (following.taskId === taskId) element("reason").textContent = reason ?? "";
}

function showProblem(text) {
  element("problem").textContent = text;
  element("problem").hidden = false;
}

const told = {
  state({ state, attempt, waits_for }) {
    showState(state);
    showReason(waits_for).catch(() => {}); // it may have ended meanwhile, or the gateway is away
    refresh();
    following.waited ||= Boolean(waits_for);
    if (attempt > 1 && !following.waited) element("facts").textContent = `Attempt ${attempt}: the worker before was lost.`;
  },
  node({ node, phase, error }) {
    if (phase === "start") {
      const item = document.createElement("li");
      item.textContent = node;
      item.dataset.node = node;
      element("nodes").append(item);
      element("answer").replaceChildren(); // what a node says belongs to it
      return;
    }
    const item = [...element("nodes").children].filter((one) => one.dataset.node === node).at(-1);
    const said = element("answer").textContent;
    item?.classList.add(error ? "failed" : "done");
    if (item && said && said.length <= SHORT) {
      item.textContent = `${node}: ${said}`; // a step, such as a classification, not the answer
      element("answer").replaceChildren();
    }
  },
  messages({ message }) {
    const parts = Array.isArray(message.content) ? message.content.map((part) => part.text ?? "") : [message.content ?? ""];
    if (message.type !== "AIMessageChunk") return;
    element("answer").append(parts.join(""));
    showState("running");
  },
  end({ state, result }) {
    showState(state);
    element("reason").textContent = "";
    showResult(state, result);
    refresh();
  },
};

function showResult(state, document_) {
  element("answer").classList.remove("streaming");
  if (!document_) {
    element("facts").textContent = "Its result is not kept any more.";
    return;
  }
  const { result, error, metadata } = document_;
  const questions = result?.__interrupt__;
  if (questions) element("answer").textContent = `Waits for an answer:\n${questions.map((one) => text(one.value)).join("\n")}`;
  else if (result !== null) element("answer").textContent = text(result?.answer ?? result);
  if (error) showProblem(`${error.type.replaceAll("_", " ")}: ${error.message}`);
  else if (state === "cancelled") showProblem("It was stopped.");
  const facts = [`${(metadata.run_ms / 1000).toFixed(2)} s`];
  if (metadata.model) facts.unshift(metadata.model);
  if (metadata.input_tokens) facts.push(`${metadata.input_tokens} + ${metadata.output_tokens} tokens${metadata.usage_estimated ? " (estimated)" : ""}`);
  if (metadata.cost_usd) facts.push(`$${metadata.cost_usd.toFixed(6)}`);
  if (metadata.fallback_used) facts.push("fallback");
  if (metadata.attempts > 1) facts.push(`${metadata.attempts} attempts`);
  element("facts").textContent = facts.join(" · ");
}

const text = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

// EventSource cannot send a key, so the stream is read here; a broken one goes on after its last event.
async function follow({ taskId, stop }) {
  let last = null;
  while (!stop.signal.aborted) {
    try {
      const more = last ? { "Last-Event-ID": last } : {};
      const response = await ask(`/tasks/${taskId}/events`, { headers: more, signal: stop.signal });
      if (response.status === 204) return;
      for await (const event of events(response.body)) {
        if (stop.signal.aborted) return;
        last = event.id ?? last;
        told[event.type]?.(JSON.parse(event.data));
        if (event.type === "end") return;
      }
    } catch (error) {
      if (stop.signal.aborted) return;
      if (error.status === 404 || error.status === 401) {
        showProblem(error.message);
        return;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = {};
      for (const line of block.split("\n")) {
        const [, name, content] = /^(id|event|data): (.*)$/.exec(line) ?? [];
        if (name) event[name === "event" ? "type" : name] = content;
      }
      if (event.data) yield event;
    }
  }
}

async function submit() {
  const body = { input: { query: element("query").value }, stream: ["messages"] };
  element("send").disabled = true;
  try {
    const response = await ask("/tasks", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const { task_id: taskId, state } = await response.json();
    follow(show(taskId, state));
    refresh();
  } catch (error) {
    show(null, "error");
    showProblem(error.message);
  } finally {
    element("send").disabled = false;
  }
}

// --- the fleet and the recent tasks ---------------------------------------------------------------------------------

async function refresh() {
  try {
    const [usage, recent] = await Promise.all([ask("/usage"), ask("/tasks?limit=10")]);
    showFleet(await usage.json());
    showRecent((await recent.json()).tasks);
  } catch {
    for (const id of ["depth", "workers", "tokens", "cost", "breakers"]) element(id).textContent = "–";
  }
}

function showFleet({ queued_tasks: queued, open_tasks: open, workers, tokens, cost_nano_usd: cost, breakers }) {
  element("depth").textContent = open ? `${open} open${queued === null ? "" : `, ${queued} waiting`}` : "empty";
  for (const id of ["workers", "breakers"]) element(id).parentElement.hidden = workers === null; // of tenants
  element("workers").textContent = workers || "none";
  element("tokens").textContent = tokens.limit
    ? `${tokens.used.toLocaleString()} of ${tokens.limit.toLocaleString()}`
    : tokens.used.toLocaleString();
  element("tokens-meter").hidden = !tokens.limit;
  element("tokens-meter").value = tokens.limit ? (tokens.used + tokens.held) / tokens.limit : 0;
  element("cost").textContent = `$${(cost.used / 1e9).toFixed(4)}` + (cost.limit ? ` of $${(cost.limit / 1e9).toFixed(2)}` : "");
  const failing = breakers.filter(({ state }) => state !== "closed");
  element("breakers").textContent = failing.length
    ? failing.map(({ name, state }) => `${name} ${state.replace("_", " ")}`).join(", ")
    : breakers.length ? "all reachable" : "not used today";
}

function showRecent(tasks) {
  element("none").hidden = tasks.length > 0;
  element("recent").hidden = tasks.length === 0;
  const changed = JSON.stringify(tasks.map(({ task_id: id, state }) => [id, state]));
  if (changed === listed) return; // a row that is replaced loses the focus
  listed = changed;
  element("recent").tBodies[0].replaceChildren(...tasks.map(row));
}

function row(task) {
  const tr = document.createElement("tr");
  const state = document.createElement("span");
  state.className = `state ${task.state}`;
  state.textContent = task.state === "pending" ? "queued" : task.state;
  const id = document.createElement("button");
  id.type = "button";
  id.className = "link";
  id.append(document.createElement("code"));
  id.firstChild.textContent = task.task_id;
  for (const content of [state, id, when(new Date(task.submitted_at))]) {
    tr.insertCell().append(content);
  }
  tr.addEventListener("click", () => {
    follow(show(task.task_id, task.state));
    element("task").scrollIntoView({ block: "nearest" });
  });
  return tr;
}

const when = (at) =>
  at.toDateString() === new Date().toDateString() ? at.toLocaleTimeString() : at.toLocaleString([], { dateStyle: "short", timeStyle: "short" });

// --- what the reader does -------------------------------------------------------------------------------------------

element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
element("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element("ask").requestSubmit();
});
element("cancel").addEventListener("click", () => {
  ask(`/tasks/${following.taskId}`, { method: "DELETE" }).catch((error) => showProblem(error.message));
});
element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", element("key").value.trim());
  element("key").value = "";
  refresh();
});

refresh();
setInterval(() => {
  if (!document.hidden) refresh();
}, REFRESH_MS);
