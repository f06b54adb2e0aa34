"""The assistant's models: one guarded client per model, shared by all tasks of the process."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from openai import DefaultAsyncHttpxClient

from langgraph_rq.shared.settings import AssistantSettings, CallSettings, ModelSettings, load
from langgraph_rq.worker.calls.announced_models import note_choice
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.calls.model_call import CallLimits


@dataclass(frozen=True, slots=True)
class AssistantModels:
    """Guarded models, by name.

    Args:
        retried: With retries and one fallback model each.
        tried_once: Without retries or fallback.
    """

    retried: Mapping[str, BaseChatModel]
    tried_once: Mapping[str, BaseChatModel]


@asynccontextmanager
async def open_models(settings: AssistantSettings) -> AsyncIterator[AssistantModels]:
    """Build the models from the environment, with an HTTP client of the running loop.

    The library's default client is shared by the whole process and fails after the loop that first used it is closed.
    """
    note_choice([settings.simple_model, settings.medium_model, settings.complex_model])
    provider, limits = load(ModelSettings), CallLimits(**load(CallSettings).model_dump())
    names = (
        settings.simple_model,
        settings.medium_model,
        settings.complex_model,
        settings.fallback_model,
        settings.classifier_model,
    )
    async with DefaultAsyncHttpxClient() as http:
        models = {
            name: ChatOpenAI(
                model=name,
                api_key=provider.openai_api_key,
                base_url=provider.openai_base_url,
                max_completion_tokens=settings.max_output_tokens,
                http_async_client=http,
            )
            for name in dict.fromkeys(names)
        }
        yield guard_models(models, settings.fallback_model, limits)


def guard_models(models: Mapping[str, BaseChatModel], fallback: str, limits: CallLimits) -> AssistantModels:
    """Guard the models: each falls back to `fallback`, and `fallback` to any other model if there is one."""
    fallbacks = {name: [models[other] for other in (fallback, *models) if other != name][:1] for name in models}
    once = replace(limits, attempts=1)
    return AssistantModels(
        retried={name: guarded_chat_model(model, fallbacks[name], limits=limits) for name, model in models.items()},
        tried_once={name: guarded_chat_model(model, limits=once) for name, model in models.items()},
    )
