"""The chat model inside a guarded one: its name and provider, its token bounds, and its output limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

from langgraph_rq.worker.guards.bounds import LIMIT_NAMES, input_bound, output_limit

OUTPUT_TOKENS = 1_024
"""The output limit given to a model that has none."""


@dataclass(frozen=True, slots=True)
class InnerModel:
    """A model with the retries of its SDK switched off."""

    model: BaseChatModel
    provider: str
    name: str
    output_tokens: int
    is_fallback: bool

    @classmethod
    def of(cls, model: BaseChatModel, *, is_fallback: bool) -> "InnerModel":
        """Read a model's name, provider and output limit."""
        model = _without_retries(model)
        about = model._get_ls_params()  # noqa: SLF001 - LangChain's own source for tracers
        name = str(about.get("ls_model_name") or getattr(model, "model", "") or model._llm_type)  # noqa: SLF001
        output_tokens = about.get("ls_max_tokens") or OUTPUT_TOKENS
        return cls(model, str(about.get("ls_provider") or "model"), name, output_tokens, is_fallback)

    def called(self, parameters: Mapping[str, Any]) -> str:
        """Return the name of the model that a call with these parameters reaches."""
        return self.name if self.is_fallback else str(parameters.get("model") or self.name)

    def bounds(self, messages: Sequence[BaseMessage], parameters: Mapping[str, Any]) -> tuple[int, int]:
        """Bound the input and output tokens of a call."""
        answers = parameters.get("n") or getattr(self.model, "n", None) or 1
        return input_bound(messages, parameters), (output_limit(parameters) or self.output_tokens) * answers

    def limited(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Add the output limit; for a fallback, drop `model`, which names another model than the fallback."""
        chosen = {name: value for name, value in parameters.items() if not (self.is_fallback and name == "model")}
        if output_limit(parameters):
            return chosen
        fields = type(self.model).model_fields
        name = (
            "max_tokens"
            if "max_tokens" in fields
            else next((one for one in LIMIT_NAMES if one in fields), "max_tokens")
        )
        return {**chosen, name: self.output_tokens}


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
            changed[name] = client.with_options(max_retries=0)
            changed[name.replace("root_", "")] = changed[name].chat.completions
    return model.model_copy(update=changed)
