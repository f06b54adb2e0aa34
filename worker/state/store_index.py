"""`store.index` of langgraph.json: the embeddings by which the store is searched."""

from contextlib import AsyncExitStack
from typing import Any

from langchain_core.embeddings import Embeddings
from langgraph.store.base import ensure_embeddings

from langgraph_rq.worker.calls.guarded_embeddings import guarded_embeddings
from langgraph_rq.worker.graphs.graphs import load_attribute
from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, LanggraphJson

_OPENAI = "openai:"


async def read_index(config: LanggraphJson, stack: AsyncExitStack) -> dict[str, Any] | None:
    """Return `store.index` with what makes the embeddings in place of its name; None: there is no index.

    A LangChain `Embeddings` is guarded; a plain function may call a model or not, and its author has to guard it.

    Args:
        config: The langgraph.json.
        stack: Closes the embeddings' connections.

    Raises:
        GraphLoadError: `dims` or `embed` is missing, or the function does not load.
        ImportError, ValueError: the model is not known, or its package not installed.
    """
    if config.store_index is None:
        return None
    index = dict(config.store_index)
    if not {"dims", "embed"} <= index.keys():
        raise GraphLoadError(f"{config.path}: store.index: expected dims and embed, got: {', '.join(index) or 'none'}")
    embed = str(index["embed"])
    if embed.startswith(_OPENAI):
        made: Any = await _openai(embed.removeprefix(_OPENAI), stack)
    elif "/" in embed:
        made = load_attribute(config, embed, f"store.index.embed ({embed})")
    else:
        made = ensure_embeddings(embed)
    index["embed"] = guarded_embeddings(made) if isinstance(made, Embeddings) else made
    return index


async def _openai(model: str, stack: AsyncExitStack) -> Embeddings:
    # Importing these takes a second of boot time, which few graphs need.
    from langchain_openai import OpenAIEmbeddings  # noqa: PLC0415
    from openai import DefaultAsyncHttpxClient  # noqa: PLC0415

    http = await stack.enter_async_context(DefaultAsyncHttpxClient())
    # Counting tokens would download tables at the first use; the provider rejects a text that is too long.
    return OpenAIEmbeddings(model=model, check_embedding_ctx_length=False, http_async_client=http)
