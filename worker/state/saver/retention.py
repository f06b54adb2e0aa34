"""Which checkpoints of a thread may be dropped, and which of its values with them. No Redis in here.

- What a kept checkpoint needs to rebuild a delta channel is kept: its ancestors up to the nearest one that has a value
  of every such channel.
- Each call of a subgraph makes a namespace, `<node>:<id>`. It goes with the checkpoint of the root graph in which the
  call was made. The namespace of a subgraph with `checkpointer=True` has no id, and lives as long as the thread.
- A value goes with the last checkpoint that names its version.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from langgraph_rq.worker.state.saver.ids import task_name
from langgraph_rq.worker.state.saver.records import Header, value_field

Place = tuple[str, str]
"""Namespace and id of a checkpoint."""

_PER_CALL = ":"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to drop: places of checkpoints, and fields of values."""

    places: list[Place]
    values: list[bytes]


def all_but_newest(
    headers: Mapping[Place, Header], keep: int, namespaces: Iterable[str] | None = None, task_id: str = ""
) -> set[Place]:
    """Return the places of all but the `keep` newest checkpoints of each namespace; None: of all namespaces.

    The one on which the task `task_id` began is kept, too: the task may be rolled back.
    """
    wanted = None if namespaces is None else set(namespaces)
    by_namespace: dict[str, list[str]] = {}
    for namespace, checkpoint_id in headers:
        if wanted is None or namespace in wanted:
            by_namespace.setdefault(namespace, []).append(checkpoint_id)
    unwanted = {
        (namespace, one) for namespace, ids in by_namespace.items() for one in sorted(ids)[: max(0, len(ids) - keep)]
    }
    if task_id:
        own = of_task(headers, task_id)
        for namespace, ids in by_namespace.items():
            unwanted.discard((namespace, max((one for one in ids if (namespace, one) not in own), default="")))
    return unwanted


def of_runs(headers: Mapping[Place, Header], runs: Iterable[str]) -> set[Place]:
    """Return the places of the checkpoints that runs have written."""
    wanted = set(runs)
    return {place for place, (*_, run, _) in headers.items() if run in wanted}


def of_task(headers: Mapping[Place, Header], task_id: str) -> set[Place]:
    """Return the places of the checkpoints that a task has written."""
    wanted = task_name(task_id)
    return {place for place, (*_, task) in headers.items() if task == wanted}


def plan(headers: Mapping[Place, Header], unwanted: set[Place]) -> Plan:
    """Choose what to drop: of `unwanted` what nothing that is kept depends on, and what belongs to it."""
    dropped = unwanted - _needed(headers, unwanted)
    roots = {checkpoint_id for namespace, checkpoint_id in dropped if not namespace}
    dropped |= {place for place, header in headers.items() if _PER_CALL in place[0] and header[3] in roots}
    return Plan(sorted(dropped), sorted(_values_of(headers, dropped)))


def _needed(headers: Mapping[Place, Header], unwanted: set[Place]) -> set[Place]:
    """Return the unwanted ancestors from which delta channels of kept checkpoints are rebuilt."""
    needed: set[Place] = set()
    for place, (parent, _, unseeded, *_) in headers.items():
        if place in unwanted:
            continue
        missing, above = set(unseeded), (place[0], parent)
        while missing and (header := headers.get(above)):
            if above in unwanted:
                needed.add(above)
            elif missing <= set(header[2]):
                break  # the ancestor is kept, and needs the same
            missing &= set(header[2])
            above = (above[0], header[0])
    return needed


def _values_of(headers: Mapping[Place, Header], dropped: set[Place]) -> set[bytes]:
    """Return the fields of values that only dropped checkpoints name."""
    fields: dict[bool, set[bytes]] = {True: set(), False: set()}
    for place, (_, names, *_) in headers.items():
        fields[place in dropped].update(value_field(place[0], name) for name in names)
    return fields[True] - fields[False]
