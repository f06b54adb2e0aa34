"""The built-in graph: a question in, an answer out, from a model chosen by how hard the question is.

    validate ──► classify ──► answer ──────────────────► finish
        │                       └─ no answer ► fallback ──►│
        └─ not a question ─────────────────────────────────┘

Input is `{query}`. Output is `Answer`: when no model could answer it carries a polite text and `task_error`, by which
the worker ends the task as an error that still has something to show. Only what says that the provider failed is
caught. A refusal of ours (budget, breaker, cancel) derives from BaseException and ends the run.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import openai
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict  # Python 3.11's own has no JSON schema

from shared.errors import ErrorType
from shared.logs import get_logger
from shared.safe_json import kind
from shared.settings import AssistantSettings, ModelSettings, load

QUERY_CHARS = 20_000
"""Longest question: about half of what one task may spend."""

SDK_RETRIES = 2
"""Of the OpenAI client, for connection errors, 408, 409, 429 and 5xx."""

PROVIDER_ERRORS = (openai.OpenAIError, json.JSONDecodeError)
"""What a failing provider looks like: an error reply, no connection, a timeout, a body that is not JSON."""

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
    """Why there is no answer: `type` is a `shared.errors.ErrorType`."""

    type: str
    message: str


class Answer(TypedDict):
    """The graph's output."""

    answer: str | None
    """What to show to the user; None when the input was no question."""
    degraded: bool
    """The answer is an apology."""
    task_metadata: dict[str, Any]
    """For the result's metadata: complexity, model (None: nobody answered), fallback_used, input_, output_tokens."""
    task_error: Problem | None
    """For the result's error."""


class Reply(TypedDict):
    """What a model answered."""

    model: str
    text: str | None
    failure: str | None
    """Why there is no text."""
    is_fallback: bool


class Usage(TypedDict):
    """The tokens of all calls so far."""

    input_tokens: int
    output_tokens: int


class AssistantState(Answer):
    """What the nodes share: few keys, because each key that a node writes is a document in Redis.

    Every key is written before it is read, so that a thread's earlier question leaves no trace.

    Key         Writer                                  Reader
    query       caller, validate (stripped)             classify, answer, fallback
    problem     validate                                the way to classify, finish
    complexity  classify                                answer, finish
    usage       validate, classify, answer, fallback    classify, answer, fallback, finish
    reply       answer, fallback                        the way to fallback, fallback, finish
    The keys of `Answer` are written by finish and read by the caller.
    """

    query: str
    problem: Problem | None
    complexity: Literal["simple", "medium", "complex"]
    usage: Usage
    reply: Reply


@dataclass(frozen=True, slots=True)
class Assistant:
    """The nodes. `models` holds one client per model, shared by all tasks of the process."""

    settings: AssistantSettings
    models: Mapping[str, BaseChatModel]

    async def validate(self, state: AssistantState) -> dict[str, Any]:
        """Refuse what is no question."""
        query: Any = state["query"]
        usage: Usage = {"input_tokens": 0, "output_tokens": 0}
        return {
            "query": query.strip() if isinstance(query, str) else "",
            "problem": _problem(query),
            "usage": usage,
        }

    async def classify(self, state: AssistantState) -> dict[str, Any]:
        """Ask the cheap model how hard the question is; without a usable reply it counts as medium."""
        reply, usage = await self._ask(state, self.settings.classifier_model, _CLASSIFY)
        return {"complexity": read_complexity(reply["text"]), "usage": usage}

    async def answer(self, state: AssistantState) -> dict[str, Any]:
        """Ask the model that the complexity calls for."""
        reply, usage = await self._ask(state, self._model_for(state["complexity"]), _ANSWER)
        return {"reply": reply, "usage": usage}

    async def fallback(self, state: AssistantState) -> dict[str, Any]:
        """Ask another model, more simply; the same one only where all are the same."""
        failed = state["reply"]["model"]
        others = (name for name in (self.settings.fallback_model, *self.models) if name != failed)
        reply, usage = await self._ask(state, next(others, failed), _FALLBACK)
        return {"reply": {**reply, "is_fallback": True}, "usage": usage}

    async def finish(self, state: AssistantState) -> Answer:
        """Say what was done, and apologise when nobody answered."""
        metadata: dict[str, Any] = {**state["usage"]}
        if state["problem"]:
            return {"answer": None, "degraded": False, "task_metadata": metadata, "task_error": state["problem"]}
        reply = state["reply"]
        metadata |= {"complexity": state["complexity"], "fallback_used": reply["is_fallback"]}
        if reply["text"] is not None:
            metadata["model"] = reply["model"]
            return {"answer": reply["text"], "degraded": False, "task_metadata": metadata, "task_error": None}
        error: Problem = {
            "type": ErrorType.PROVIDER_UNAVAILABLE.value,
            "message": f"no model could answer; the last one, {reply['model']}: {reply['failure']}",
        }
        metadata["model"] = None
        return {"answer": _APOLOGY, "degraded": True, "task_metadata": metadata, "task_error": error}

    def _model_for(self, complexity: str) -> str:
        by_complexity = {"simple": self.settings.simple_model, "complex": self.settings.complex_model}
        return by_complexity.get(complexity, self.settings.medium_model)

    async def _ask(self, state: AssistantState, model: str, system: str) -> tuple[Reply, Usage]:
        """Ask one model once, and add what it used."""
        text, failure, usage = None, None, state["usage"]
        try:
            message = await self.models[model].ainvoke([SystemMessage(system), HumanMessage(state["query"])])
        except PROVIDER_ERRORS as error:
            failure = _describe(error)
            _log.warning("model_call.failed", model=model, error=failure)
        else:
            text = message.text.strip() or None
            failure = None if text else "its answer was empty"
            usage = _add(usage, message.usage_metadata)
        return {"model": model, "text": text, "failure": failure, "is_fallback": False}, usage


def _add(usage: Usage, used: UsageMetadata | None) -> Usage:
    if used is None:
        return usage
    return {
        "input_tokens": usage["input_tokens"] + used["input_tokens"],
        "output_tokens": usage["output_tokens"] + used["output_tokens"],
    }


def read_complexity(text: str | None) -> Literal["simple", "medium", "complex"]:
    """Find the one label in what the classifier said; none, or several, count as medium."""
    found = {word for word in re.findall(r"[a-z]+", (text or "").lower()) if word in COMPLEXITIES}
    return found.pop() if len(found) == 1 else "medium"


def chat_model(
    name: str, settings: AssistantSettings, provider: ModelSettings, http: openai.DefaultAsyncHttpxClient
) -> BaseChatModel:
    """Make the client of one model; the only place where one is made.

    `http` belongs to the running loop. The library's own default is one client for the whole process, which fails
    once the loop that first used it is closed.
    """
    return ChatOpenAI(
        model=name,
        api_key=provider.openai_api_key,
        base_url=provider.openai_base_url,
        timeout=settings.timeout_s,
        max_completion_tokens=settings.max_output_tokens,
        max_retries=SDK_RETRIES,
        stream_usage=True,
        http_async_client=http,
    )


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
    settings, provider = load(AssistantSettings), load(ModelSettings)
    names = dict.fromkeys(
        (
            settings.simple_model,
            settings.medium_model,
            settings.complex_model,
            settings.fallback_model,
            settings.classifier_model,
        )
    )
    async with openai.DefaultAsyncHttpxClient() as http:
        models = {name: chat_model(name, settings, provider, http) for name in names}
        yield build(Assistant(settings, models))


# Async, though they await nothing: LangGraph sends a sync function to a thread, which costs more than the decision.
async def _after_validate(state: AssistantState) -> str:
    return "finish" if state["problem"] else "classify"


async def _after_answer(state: AssistantState) -> str:
    return "fallback" if state["reply"]["text"] is None else "finish"


def _problem(query: Any) -> Problem | None:
    """Say what is wrong with a question, without repeating it."""
    if not isinstance(query, str):
        got = kind(query)
    elif not query.strip():
        got = "nothing"
    elif len(query) > QUERY_CHARS:
        got = f"{len(query):,} characters"
    else:
        return None
    expected = f"a text of 1 to {QUERY_CHARS:,} characters"
    return {"type": ErrorType.INVALID_INPUT.value, "message": f"query: expected {expected}, got: {got}"}


def _describe(error: Exception) -> str:
    """Say what failed without the provider's own words, which may quote the question or the key."""
    status = f" (HTTP {error.status_code})" if isinstance(error, openai.APIStatusError) else ""
    return f"{type(error).__name__}{status}"
