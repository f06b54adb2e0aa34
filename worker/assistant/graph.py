"""The built-in graph: answers a question with a model chosen by the question's complexity.

    validate ──► classify ──► answer ──────────────────► finish
        │                       └─ no answer ► fallback ──►│
        └─ not a question ─────────────────────────────────┘

Input is `{query}`, output is `Answer`. If no model could answer, the output holds an apology and `task_error`, and the
worker ends the task as an error with a result.

All calls are guarded. `answer` calls the model for the question's complexity, then a fallback model; `fallback` calls
once more with a simpler prompt. Near the end of the budget the simple model answers every question, so that the budget
does not have to refuse. Without an answer:

- A refusal (budget, cancel, lost ownership, no Redis) is a BaseException: it propagates and ends the task.
- All breakers are open: the error propagates, and the task waits in the queue if its deadline allows. Nothing was paid
  for, and a late answer is better than an apology.
- A model was called and failed, or waiting would exceed the deadline: the simpler prompt, then the apology. The caller
  has already waited for the failed calls.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import openai
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict  # Python 3.11's own has no JSON schema

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.settings import AssistantSettings, BudgetSettings, load
from langgraph_rq.shared.strict_json import kind
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.assistant.models import AssistantModels, open_models
from langgraph_rq.worker.calls.model_call import describe
from langgraph_rq.worker.guards.refusals import ProviderUnavailableError
from langgraph_rq.worker.guards.task_guard import current_task
from langgraph_rq.worker.task.result import wait_for_provider

QUERY_BYTES = 8_000
"""The longest question, in UTF-8.

The default limit of a request is 10,000 tokens, and the guards reserve one token per byte of input. This limit, the
prompts below and `max_output_tokens` together fit into it; with a lower limit, long questions end as `budget_exceeded`.
"""

FAILURES = (ProviderUnavailableError, openai.OpenAIError, json.JSONDecodeError)
"""No model could be used, or one rejected the request itself (content filter, context length, a wrong key)."""

COMPLEXITIES = ("simple", "medium", "complex")

_CLASSIFY = (
    "Classify how complex the user's question is. Say one word: "
    "simple (one fact or one step), medium (an explanation) or complex (several steps, trade-offs or a design)."
)
_ANSWER = "You are a helpful assistant. Answer the user's question correctly and completely, in the user's language."
_FALLBACK = "Answer in a few sentences."
_APOLOGY = (
    "I am sorry, but I cannot answer your question at the moment because the language model is not available. "
    "Please try again in a few minutes."
)

_log = get_logger(__name__)


class Question(TypedDict):
    """The graph's input."""

    query: str


class Problem(TypedDict):
    """Why there is no answer: `type` is a `langgraph_rq.shared.errors.ErrorType`."""

    type: str
    message: str


class Answer(TypedDict):
    """The graph's output."""

    answer: str | None
    """The text for the user; None: the input was not a question."""
    degraded: bool
    """The answer is an apology."""
    task_metadata: dict[str, Any]
    """Added to the guards' own tokens, cost and model: complexity, downgraded, fallback_used (true after the simpler
    prompt), and model (None) if no model answered."""
    task_error: Problem | None
    """Becomes the error of the task's result."""


class Reply(TypedDict):
    """The models' answer: a text, or the reason why there is none."""

    text: str | None
    failure: str | None


class AssistantState(Answer):
    """The nodes' state. It has few keys, because each key that a node writes is a document in Redis.

    Every key is written before it is read, so that an earlier question of the thread has no influence.

    Key         Writer                                  Reader
    query       caller, validate (stripped)             classify, answer, fallback
    problem     validate                                edge to classify, finish
    complexity  classify                                answer, finish
    downgraded  classify                                answer, finish
    reply       answer, fallback                        edge to fallback, finish
    metadata    answer, fallback                        finish
    The keys of `Answer` are written by finish and read by the caller.
    """

    query: str
    problem: Problem | None
    complexity: Literal["simple", "medium", "complex"]
    downgraded: bool
    reply: Reply
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Assistant:
    """The nodes.

    Args:
        settings: The models' names by task.
        models: The models by name.
        downgrade_permille: Fill level of the tightest budget limit from which the simple model answers everything.
    """

    settings: AssistantSettings
    models: AssistantModels
    downgrade_permille: int

    async def validate(self, state: AssistantState) -> dict[str, Any]:
        """Reject an input that is not a question."""
        query: Any = state["query"]
        query = query.strip() if isinstance(query, str) else query
        return {"query": query if isinstance(query, str) else "", "problem": _problem(query)}

    async def classify(self, state: AssistantState) -> dict[str, Any]:
        """Classify the question with one call of the cheap model; without a usable label it counts as medium."""
        reply = await _ask(self.models.tried_once[self.settings.classifier_model], _CLASSIFY, state["query"])
        complexity = read_complexity(reply["text"])
        task = current_task.get()
        is_near_the_end = task is not None and task.budget_permille >= self.downgrade_permille
        downgraded = is_near_the_end and self._model_for(complexity) != self.settings.simple_model
        return {"complexity": complexity, "downgraded": downgraded}

    async def answer(self, state: AssistantState) -> dict[str, Any]:
        """Call the model for the question's complexity and the budget's fill level, then its fallback."""
        name = self.settings.simple_model if state["downgraded"] else self._model_for(state["complexity"])
        return {"reply": await _ask(self.models.retried[name], _ANSWER, state["query"], may_wait=True), "metadata": {}}

    async def fallback(self, state: AssistantState) -> dict[str, Any]:
        """Call the fallback model with a simpler prompt."""
        reply = await _ask(self.models.tried_once[self.settings.fallback_model], _FALLBACK, state["query"])
        return {"reply": reply, "metadata": {"fallback_used": True} if reply["text"] else {"model": None}}

    async def finish(self, state: AssistantState) -> Answer:
        """Write the output: the answer or an apology, and the metadata."""
        if state["problem"]:
            return {"answer": None, "degraded": False, "task_metadata": {}, "task_error": state["problem"]}
        reply = state["reply"]
        metadata = {"complexity": state["complexity"], "downgraded": state["downgraded"], **state["metadata"]}
        if reply["text"] is not None:
            return {"answer": reply["text"], "degraded": False, "task_metadata": metadata, "task_error": None}
        error: Problem = {
            "type": ErrorType.PROVIDER_UNAVAILABLE.value,
            "message": f"no model could answer: {reply['failure']}",
        }
        return {"answer": _APOLOGY, "degraded": True, "task_metadata": metadata, "task_error": error}

    def _model_for(self, complexity: str) -> str:
        by_complexity = {"simple": self.settings.simple_model, "complex": self.settings.complex_model}
        return by_complexity.get(complexity, self.settings.medium_model)


async def _ask(model: BaseChatModel, system: str, query: str, *, may_wait: bool = False) -> Reply:
    """Call a guarded model; with `may_wait`, raise an error for which the task can wait in the queue."""
    try:
        message = await model.ainvoke([SystemMessage(system), HumanMessage(query)])
    except FAILURES as error:
        task = current_task.get()
        if may_wait and task and task.deadline_at and wait_for_provider(error, task.deadline_at):
            raise
        failure = str(error) if isinstance(error, ProviderUnavailableError) else describe(error)
        _log.warning("model_call.failed", error=failure)
        return {"text": None, "failure": failure}
    text = message.text.strip() or None
    return {"text": text, "failure": None if text else "its answer was empty"}


def read_complexity(text: str | None) -> Literal["simple", "medium", "complex"]:
    """Find the one label in the classifier's text; none or several count as medium."""
    found = {word for word in re.findall(r"[a-z]+", (text or "").lower()) if word in COMPLEXITIES}
    return found.pop() if len(found) == 1 else "medium"


def build(assistant: Assistant) -> StateGraph[AssistantState, None, Question, Answer]:
    """Connect the nodes."""
    builder = StateGraph(AssistantState, input_schema=Question, output_schema=Answer)
    for node in (assistant.validate, assistant.classify, assistant.answer, assistant.fallback, assistant.finish):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "validate")
    builder.add_conditional_edges("validate", _after_validate, ["classify", "finish"])
    builder.add_edge("classify", "answer")
    builder.add_conditional_edges("answer", _after_answer, ["fallback", "finish"])
    builder.add_edge("fallback", "finish")
    builder.add_edge("finish", END)
    return builder


@asynccontextmanager
async def graph() -> AsyncIterator[StateGraph[AssistantState, None, Question, Answer]]:
    """Build the assistant from the environment; its clients are closed at the worker's end."""
    settings = load(AssistantSettings)
    async with open_models(settings) as models:
        yield build(Assistant(settings, models, 10 * load(BudgetSettings).downgrade_percent))


# Async although they await nothing: LangGraph runs a sync function in a thread, which costs more than the function.
async def _after_validate(state: AssistantState) -> str:
    return "finish" if state["problem"] else "classify"


async def _after_answer(state: AssistantState) -> str:
    return "fallback" if state["reply"]["text"] is None else "finish"


def _problem(query: Any) -> Problem | None:
    """Return the reason to reject a question, without quoting it."""
    if not isinstance(query, str):
        got = kind(query)
    elif not query:
        got = "nothing"
    elif (n := len(query.encode(errors="replace"))) > QUERY_BYTES:
        got = f"{n:,} bytes"
    else:
        return None
    expected = f"a text of 1 to {QUERY_BYTES:,} bytes"
    return {"type": ErrorType.INVALID_INPUT.value, "message": f"query: expected {expected}, got: {got}"}
