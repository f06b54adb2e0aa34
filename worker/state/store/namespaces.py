"""The listing of namespaces that have items."""

from langgraph.store.base import ListNamespacesOp, MatchCondition

from langgraph_rq.worker.state.store.reading import Reading, StoreScanError, bounds
from langgraph_rq.worker.state.store.records import Namespace, read_namespace, write_namespace

_WILDCARD = "*"


async def list_namespaces(reading: Reading, op: ListNamespacesOp) -> list[Namespace]:
    """List namespaces in the order of their labels, cut to `max_depth`, each once.

    What a cut namespace has below it is skipped, so that the upper levels of a large store can be listed.

    Raises:
        StoreScanError: it would have to look at more than `scan_items` namespaces.
        ValueError: of its limit, offset, depth or conditions.
    """
    _check(op)
    conditions = op.match_conditions or ()
    prefix = _fixed_prefix(conditions)
    first, last = bounds(prefix)
    found: list[Namespace] = []
    is_more, seen = True, 0
    while is_more and len(found) < op.offset + op.limit:
        if seen > reading.scan_items:
            raise StoreScanError(reading.too_many("namespaces", prefix))
        reply = await reading.access.find(first, last)
        is_more, first = reply.is_more, b"(" + reply.last
        seen += len(reply.namespaces)
        for written, _ in reply.namespaces:
            namespace = read_namespace(written)
            if all(_matches(namespace, condition) for condition in conditions):
                cut = namespace[: op.max_depth]
                if not found or cut != found[-1]:
                    found.append(cut)
        if op.max_depth and found and read_namespace(reply.last)[: op.max_depth] == found[-1]:
            first = b"(" + write_namespace(found[-1]).encode() + b"\xff"
    return found[op.offset : op.offset + op.limit]


def _check(op: ListNamespacesOp) -> None:
    if op.limit < 0 or op.offset < 0 or (op.max_depth is not None and op.max_depth < 1):
        raise ValueError(
            "list_namespaces: expected limit and offset from 0 and max_depth from 1, "
            f"got: {op.limit}, {op.offset} and {op.max_depth}"
        )
    unknown = {condition.match_type for condition in op.match_conditions or ()} - {"prefix", "suffix"}
    if unknown:
        raise ValueError(f"list_namespaces: expected conditions on prefix or suffix, got: {', '.join(sorted(unknown))}")


def _fixed_prefix(conditions: tuple[MatchCondition, ...]) -> Namespace:
    """Return the labels that every match begins with."""
    fixed: list[str] = []
    for condition in conditions:
        if condition.match_type == "prefix":
            path = list(condition.path)
            labels = path[: path.index(_WILDCARD)] if _WILDCARD in path else path
            fixed = max(fixed, labels, key=len)
    return tuple(fixed)


def _matches(namespace: Namespace, condition: MatchCondition) -> bool:
    path = condition.path
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in {_WILDCARD, label} for label, wanted in zip(part, path, strict=True))
