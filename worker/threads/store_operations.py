"""What requests do with the store: its verbs, for the tenant that asks."""

from collections.abc import Mapping
from typing import Any

from langgraph.store.base import NOT_PROVIDED, BaseStore, Item, SearchItem

from langgraph_rq.shared.budget.token_budget import Payer
from langgraph_rq.shared.tasks import DEFAULT_TENANT, tenant_of
from langgraph_rq.shared.threads.requests import Operation, Request
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.state.store.store import Store


async def run_on_store(store: BaseStore | None, guards: Guards, request: Request) -> Any:
    """Run one verb; embeddings that it needs are paid for by the tenant.

    Args:
        store: The one that graphs get, if they bring none of their own.
        guards: Admit calls of models.
        request: One about the store. It has an asyncio task of its own.

    Returns:
        An item or None, a list of items, a list of namespaces, or None of what writes.

    Raises:
        LookupError: there is no store.
        ValueError: an argument is wrong, or the project's own store is asked for a tenant's items.
    """
    tenant = tenant_of(request.thread)
    if store is None:
        raise LookupError("this worker has no store")
    if tenant != DEFAULT_TENANT and not isinstance(store, Store):
        raise ValueError(f"{type(store).__name__} does not tell tenants apart: only LGRQ_STATE=redis does")
    current_task.set(TaskGuard(guards, payer=Payer(tenant=tenant)))
    arguments = request.arguments
    match request.operation:
        case Operation.STORE_GET:
            found = await store.aget(_namespace(arguments), arguments["key"], refresh_ttl=arguments.get("refresh_ttl"))
            return found and _item(found)
        case Operation.STORE_PUT:
            ttl = arguments.get("ttl")
            return await store.aput(
                _namespace(arguments),
                arguments["key"],
                arguments["value"],
                arguments.get("index"),
                ttl=NOT_PROVIDED if ttl is None else ttl,
            )
        case Operation.STORE_DELETE:
            return await store.adelete(_namespace(arguments), arguments["key"])
        case Operation.STORE_SEARCH:
            return [_item(one) for one in await store.asearch(tuple(arguments["namespace_prefix"]), **_rest(arguments))]
        case Operation.STORE_NAMESPACES:
            return [list(one) for one in await store.alist_namespaces(**arguments)]
        case _:
            raise ValueError(f"operation: expected one on the store, got: {request.operation}")


def _namespace(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(arguments["namespace"])


def _rest(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "namespace_prefix"}


def _item(item: Item) -> dict[str, Any]:
    """Write an item as LangGraph's API does; one that was searched for with its score."""
    score = {"score": item.score} if isinstance(item, SearchItem) else {}
    return {
        "namespace": list(item.namespace),
        "key": item.key,
        "value": item.value,
        "created_at": item.created_at.isoformat(timespec="microseconds"),
        "updated_at": item.updated_at.isoformat(timespec="microseconds"),
        **score,
    }
