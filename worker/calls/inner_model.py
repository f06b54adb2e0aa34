"""The chat model inside a guarded one: its name and provider, its token bounds, and its output limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

from langgraph_rq.worker.calls.provider_key import follow_environment
from langgraph_rq.worker.guards.call_size import LIMIT_NAMES, CallSize, measure_messages, output_limit

OUTPUT_TOKENS = 1_024
"""The output limit given to a model that has none."""


@dataclass(frozen=True, slots=True)
class InnerModel:
    """A model with the retries of its SDK switched off."""

    model: BaseChatModel
    provider: str
    name: str
    output_limit: int | None
    """The graph's own; None: the guards set one."""
    is_fallback: bool

    @classmethod
    def of(cls, model: BaseChatModel, *, is_fallback: bool) -> "InnerModel":
        """Read a model's name, provider and output limit."""
        model = _without_retries(model)
        about = model._get_ls_params()  # noqa: SLF001 - LangChain's own source for tracers
        name = str(about.get("ls_model_name") or getattr(model, "model", "") or model._llm_type)  # noqa: SLF001
        return cls(
            model, str(about.get("ls_provider") or "model"), name, about.get("ls_max_tokens") or None, is_fallback
        )

    def breaker(self, name: str) -> str:
        """Return the name of the breaker of this provider's model `name`."""
        return f"{self.provider}/{name}"

    def called(self, parameters: Mapping[str, Any]) -> str:
        """Return the name of the model that a call with these parameters reaches."""
        return self.name if self.is_fallback else str(parameters.get("model") or self.name)

    def size(self, messages: Sequence[BaseMessage], parameters: Mapping[str, Any]) -> CallSize:
        """Measure a call."""
        given = output_limit(parameters) or self.output_limit
        most = (given or OUTPUT_TOKENS) * self._answers(parameters)
        return CallSize(measure_messages(messages, parameters), most, is_default=not given)

    def limited(self, parameters: Mapping[str, Any], granted_tokens: int | None) -> dict[str, Any]:
        """Add the output limit; for a fallback, drop `model`, which names another model than the fallback.

        Args:
            parameters: Of the call.
            granted_tokens: What the budget had room for, if that is less than what was asked for.
        """
        chosen = {name: value for name, value in parameters.items() if not (self.is_fallback and name == "model")}
        if granted_tokens is not None:
            most = max(1, granted_tokens // self._answers(parameters))
            name = next((one for one in LIMIT_NAMES if isinstance(parameters.get(one), int)), self._limit_name)
            return {**chosen, name: most}
        if output_limit(parameters):
            return chosen
        return {**chosen, self._limit_name: self.output_limit or OUTPUT_TOKENS}

    def _answers(self, parameters: Mapping[str, Any]) -> int:
        return parameters.get("n") or getattr(self.model, "n", None) or 1

    @property
    def _limit_name(self) -> str:
        fields = type(self.model).model_fields
        if "max_tokens" in fields:
            return "max_tokens"
        return next((one for one in LIMIT_NAMES if one in fields), "max_tokens")


def _without_retries(model: BaseChatModel) -> BaseChatModel:
    """Copy a model with its SDK's retries off and usage in streams on, where it has such settings."""
    changed: dict[str, Any] = {}
    fields = type(model).model_fields
    if "max_retries" in fields:
        changed["max_retries"] = 0
    if "stream_usage" in fields:
        changed["stream_usage"] = True
    for name in ("root_client", "root_async_client"):
        client = getattr(model, name, None)
        if client is not None:
            changed[name] = client.with_options(max_retries=0, **follow_environment(client))
            changed[name.replace("root_", "")] = changed[name].chat.completions
    for name in ("_client", "_async_client"):  # ChatAnthropic's, made at its first call and kept
        client = model.__dict__.get(name)
        if client is not None and hasattr(client, "with_options"):
            changed[name] = client.with_options(max_retries=0)
    return model.model_copy(update=changed)
