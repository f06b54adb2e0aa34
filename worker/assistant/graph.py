"""The built-in graph: a question in, an answer out, from a model chosen by how hard the question is.

    validate ──► classify ──► answer ──────────────────► finish
        │                       └─ no answer ► fallback ──►│
        └─ not a question ─────────────────────────────────┘

Input is `{query}`. Output is `Answer`: when no model could answer it carries a polite text and `task_error`, by which
the worker ends the task as an error that still has something to show.

All calls are guarded. `answer` asks the model that the complexity calls for, then another one; `fallback` asks more
simply, once. Near the end of the budget the simple model answers everything, before the budget refuses. What happens
when there is no answer:

- A refusal (budget, cancel, lost ownership, no Redis) is a BaseException: it passes through and ends the run.
- The breakers let no model be called: the error passes through too, and the task waits its turn in the queue, while
  its deadline allows. Nothing was paid for, and a real answer later is worth more than an apology now.
- A model was called and failed, or waiting would pass the deadline: the simpler prompt, then the apology. Who has
  waited for calls already is told at once.
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
from langgraph_rq.worker.guards.guards import current_task
from langgraph_rq.worker.guards.model_call import describe
from langgraph_rq.worker.guards.refusals import ProviderUnavailableError
from langgraph_rq.worker.task.result import wait_for_provider_s

QUERY_BYTES = 8_000
"""Longest question, in UTF-8.

A request may use 10,000 tokens by default, and the guards count a token per byte of its input, as no tokenizer makes
more. So this, our prompts and `max_output_tokens` fit together; who lowers that limit gets `budget_exceeded` instead.
"""

FAILURES = (ProviderUnavailableError, openai.OpenAIError, json.JSONDecodeError)
"""No model could be used, or one refused the request itself (content filter, context length, a wrong key)."""

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
    """What to show to the user; None when the input was no question."""
    degraded: bool
    """The answer is an apology."""
    task_metadata: dict[str, Any]
    """What the guards cannot know: complexity, downgraded, fallback_used (true after the simpler prompt), and model
    (None) where nobody answered. Tokens and costs they count themselves."""
    task_error: Problem | None
    """For the result's error."""


class Reply(TypedDict):
    """What the models answered: a text, or why there is none."""

    text: str | None
    failure: str | None


class AssistantState(Answer):
    """What the nodes share: few keys, because each key that a node writes is a document in Redis.

    Every key is written before it is read, so that a thread's earlier question leaves no trace.

    Key         Writer                                  Reader
    query       caller, validate (stripped)             classify, answer, fallback
    problem     validate                                the way to classify, finish
    complexity  classify                                answer, finish
    downgraded  classify                                answer, finish
    reply       answer, fallback                        the way to fallback, finish
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
        settings: Which model does what.
        models: Under the names that the settings give them.
        downgrade_permille: So full a limit of the budget may be before the simple model answers everything.
    """

    settings: AssistantSettings
    models: AssistantModels
    downgrade_permille: int

    async def validate(self, state: AssistantState) -> dict[str, Any]:
        """Refuse what is no question."""
        query: Any = state["query"]
        query = query.strip() if isinstance(query, str) else query
        return {"query": query if isinstance(query, str) else "", "problem": _problem(query)}

    async def classify(self, state: AssistantState) -> dict[str, Any]:
        """Ask the cheap model, once, how hard the question is; without a usable reply it counts as medium."""
        reply = await _ask(self.models.tried_once[self.settings.classifier_model], _CLASSIFY, state["query"])
        complexity = read_complexity(reply["text"])
        task = current_task.get()
        is_near_the_end = task is not None and task.budget_permille >= self.downgrade_permille
        downgraded = is_near_the_end and self._model_for(complexity) != self.settings.simple_model
        return {"complexity": complexity, "downgraded": downgraded}

    async def answer(self, state: AssistantState) -> dict[str, Any]:
        """Ask the model that the complexity and the budget call for, and another one behind it."""
        name = self.settings.simple_model if state["downgraded"] else self._model_for(state["complexity"])
        return {"reply": await _ask(self.models.retried[name], _ANSWER, state["query"], may_wait=True), "metadata": {}}

    async def fallback(self, state: AssistantState) -> dict[str, Any]:
        """Ask the fallback model, more simply."""
        reply = await _ask(self.models.tried_once[self.settings.fallback_model], _FALLBACK, state["query"])
        return {"reply": reply, "metadata": {"fallback_used": True} if reply["text"] else {"model": None}}

    async def finish(self, state: AssistantState) -> Answer:
        """Say what was done, and apologise when nobody answered."""
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
    """Ask a guarded model; with `may_wait`, what the task can wait for in the queue is raised."""
    try:
        message = await model.ainvoke([SystemMessage(system), HumanMessage(query)])
    except FAILURES as error:
        task = current_task.get()
        if may_wait and task and task.deadline_at and wait_for_provider_s(error, task.deadline_at) is not None:
            raise
        failure = str(error) if isinstance(error, ProviderUnavailableError) else describe(error)
        _log.warning("model_call.failed", error=failure)
        return {"text": None, "failure": failure}
    text = message.text.strip() or None
    return {"text": text, "failure": None if text else "its answer was empty"}


def read_complexity(text: str | None) -> Literal["simple", "medium", "complex"]:
    """Find the one label in what the classifier said; none, or several, count as medium."""
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
    """Make the assistant from the environment; its clients live as long as the worker."""
    settings = load(AssistantSettings)
    async with open_models(settings) as models:
        yield build(Assistant(settings, models, 10 * load(BudgetSettings).downgrade_percent))


# Async, though they await nothing: LangGraph sends a sync function to a thread, which costs more than the decision.
async def _after_validate(state: AssistantState) -> str:
    return "finish" if state["problem"] else "classify"


async def _after_answer(state: AssistantState) -> str:
    return "fallback" if state["reply"]["text"] is None else "finish"


def _problem(query: Any) -> Problem | None:
    """Say what is wrong with a question, without repeating it."""
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
