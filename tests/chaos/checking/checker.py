"""Judge a history: a pure function from recorded events to violations, modelled on Jepsen's total-queue checker.

    lost         a submit was answered, and the task has no end
    stuck        the task is known, or something of it is left in Redis, and it has no end
    duplicated   more than one end of a task was written
    unexpected   a task that was never submitted or was refused, or an end that is not the one expected
    garbled      the graph's output does not list each node once, in order
    repaid       a model call was paid again, and it was not the one node in flight at a crash
    false reap   a crash was charged although no fault had hit the owner
    late call    a model call began after a cancel was accepted, after the lease of its worker had ended, or, but for
                 probes, while the breaker was open
    for ever     a key has no time to live, and is none of those that stay
    swept        the safety net below the queue found something
Recovered, a submit without answer whose task ran, is a figure and no violation.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tests.chaos.checking.history import Event, FinalTask, History

TERMINAL = {"success", "error", "timeout", "cancelled", "interrupted"}


@dataclass(frozen=True, slots=True)
class Blackout:
    """A worker process that must not start a call between two instants."""

    pid: int
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Rules:
    """What a scenario expects.

    Args:
        steps: Lists of nodes that a finished graph may output.
        states: Terminal states that are in order.
        poisoned: Tasks that must end as poisoned, and no others.
        failing: Tasks that must end as another error -> its type.
        repaid_per_crash: Nodes that may be paid again each time a task moves.
        crashes: Whether a crash may be charged at all.
        repays_failed: Whether a call may be made again that the provider let fail.
        blackouts: When which worker must be silent.
        swept: Whether the sweeper may have work.
        forgets: Whether Redis may forget its last moments: what was written then may be done, paid and written again.
        overwritten: Tasks with a key of their own that another program has written: they are not judged.
    """

    steps: Collection[tuple[str, ...]] = ()
    states: Collection[str] = ("success",)
    poisoned: Collection[str] = ()
    failing: Mapping[str, str] = field(default_factory=dict)
    repaid_per_crash: int = 1
    crashes: bool = True
    repays_failed: bool = False
    blackouts: Sequence[Blackout] = ()
    swept: bool = False
    forgets: bool = False
    overwritten: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that was broken."""

    kind: str
    task: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The violations and figures of a run."""

    violations: tuple[Violation, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def kinds(self) -> set[str]:
        """The kinds of promises that were broken."""
        return {violation.kind for violation in self.violations}


def check(history: History, rules: Rules) -> Verdict:
    """Judge a history by the rules of its scenario."""
    history = _without(history, rules.overwritten)
    by_kind: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(history.events, key=lambda event: event.at):
        by_kind[event.kind].append(event)
    violations = [
        *_ends(history, by_kind, rules),
        *_payments(history, by_kind, rules),
        *_reaps(history, by_kind, rules),
        *_late_calls(history, by_kind, rules),
    ]
    if not rules.swept:
        violations += [Violation("swept", event.task) for event in by_kind["swept"]]
    return Verdict(tuple(violations), _figures(history, by_kind, violations))


def _without(history: History, tasks: Collection[str]) -> History:
    return replace(
        history,
        events=tuple(event for event in history.events if event.task not in tasks),
        calls=tuple(call for call in history.calls if call.task not in tasks),
        final={task: last for task, last in (history.final or {}).items() if task not in tasks},
    )


def _ends(history: History, by_kind: Mapping[str, list[Event]], rules: Rules) -> Iterator[Violation]:
    """Check that every answered submit has one end, the expected one, and that no other task has any."""
    final = history.final or {}
    invoked = {event.task for event in by_kind["invoked"]}
    answered = {event.task for event in by_kind["ok"]}
    refused = {event.task for event in by_kind["refused"]} - answered
    written = Counter(event.task for event in by_kind["wrote"])
    for task in sorted(answered - final.keys()):
        yield Violation("lost", task, "it is not known any more")
    for task, last in final.items():
        if task not in invoked or task in refused:
            yield Violation("unexpected", task, f"it was {'refused' if task in refused else 'never submitted'}")
        if last.state not in TERMINAL:
            yield Violation("stuck", task, f"it is {last.state}")
            continue
        if last.ends == 0:
            yield Violation("lost", task, f"it is {last.state} without a result")
        if max(last.ends, 0 if rules.forgets else written[task]) > 1:
            yield Violation("duplicated", task, f"{last.ends} results")
        yield from _expected(task, last, rules)
    for event in by_kind["start"]:
        if event.task not in invoked:
            yield Violation("unexpected", event.task, "it ran and was never submitted")
    for key, number in (history.left or {}).items():
        yield Violation("stuck", "", f"{number} left in {key}")


def _expected(task: str, last: FinalTask, rules: Rules) -> Iterator[Violation]:
    if (last.error == "poisoned") != (task in rules.poisoned):
        yield Violation("unexpected", task, f"poisoned: {last.error == 'poisoned'}")
    elif task in rules.failing:
        if last.error != rules.failing[task]:
            yield Violation("unexpected", task, f"it ended as {last.state}: {last.error}")
    elif task not in rules.poisoned and last.state not in rules.states:
        yield Violation("unexpected", task, f"it ended as {last.state}: {last.error}")
    if last.state == "success" and last.steps not in rules.steps:
        yield Violation("garbled", task, f"{last.steps}")


def _payments(history: History, by_kind: Mapping[str, list[Event]], rules: Rules) -> Iterator[Violation]:
    """A task that moves pays again for the node in flight at most: its last one so far."""
    attempts: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for call in sorted(history.calls, key=lambda call: call.at):
        if rules.repays_failed and call.fault:
            continue
        attempts[call.task][call.epoch].append(call.node)
    for task, epochs in attempts.items():
        paid: list[str] = []
        for epoch in sorted(epochs):
            nodes = epochs[epoch]
            again = [node for node in nodes if node in paid]
            if len(set(nodes)) < len(nodes) and not rules.forgets:  # two workers may have the same attempt then
                yield Violation("repaid", task, f"attempt {epoch} called {nodes}")
            elif rules.forgets:
                continue
            elif len(again) > rules.repaid_per_crash or any(node != paid[-1] for node in again):
                yield Violation("repaid", task, f"attempt {epoch} called {again} again after {paid}")
            paid += nodes
    asked = Counter((event.task, event.epoch) for event in by_kind["admitted"])
    for (task, attempt), number in Counter((call.task, call.epoch) for call in history.calls).items():
        if by_kind["admitted"] and number > asked[task, attempt]:
            yield Violation("late call", task, f"attempt {attempt} called without being admitted")


def _reaps(history: History, by_kind: Mapping[str, list[Event]], rules: Rules) -> Iterator[Violation]:
    """A crash may be charged only where a fault hit the owner, or where the owner is unknown."""
    struck = {event.pid for event in by_kind["struck"]}
    owners = {(event.task, event.epoch): event.pid for event in by_kind["claimed"]}
    for task, last in (history.final or {}).items():
        pids = (owners.get((task, epoch)) for epoch in range(1, last.epoch + 1))
        charged = sum(pid is None or pid in struck for pid in pids) if struck and rules.crashes else 0
        if last.crashes > charged:
            yield Violation("false reap", task, f"{last.crashes} crashes, {charged} of them by a fault")


def _late_calls(history: History, by_kind: Mapping[str, list[Event]], rules: Rules) -> Iterator[Violation]:
    accepted = {event.task: event.at for event in reversed(by_kind["cancelled"])}
    for event in by_kind["admitted"]:
        if event.at > accepted.get(event.task, float("inf")):
            yield Violation("late call", event.task, "after its cancel was accepted")
    for opened in by_kind["opened"]:
        closed_at = next((event.at for event in by_kind["closed"] if event.at > opened.at), float("inf"))
        for event in by_kind["admitted"]:
            if event.detail == "allow" and opened.at < event.at < closed_at:
                yield Violation("late call", event.task, "while the breaker was open")
    for blackout in rules.blackouts:
        for call in history.calls:
            if call.pid == blackout.pid and blackout.since < call.at < blackout.until:
                yield Violation("late call", call.task, f"{call.at - blackout.since:.2f} s after its lease had ended")


def restarts_s(events: Sequence[Event]) -> list[float]:
    """Return, sorted, how long each task in flight of a struck process took until it ran elsewhere."""
    ended = {event.task: event.at for event in events if event.kind == "wrote"}
    claims: dict[str, list[Event]] = defaultdict(list)
    starts: dict[tuple[str, int], float] = {}
    for event in sorted(events, key=lambda event: event.at):
        if event.kind == "claimed":
            claims[event.task].append(event)
        elif event.kind == "start":
            starts.setdefault((event.task, event.epoch), event.at)
    hit = {event.pid: event.at for event in sorted(events, key=lambda event: -event.at) if event.kind == "struck"}
    took = []
    for task, owned in claims.items():
        for before, after in pairwise(owned):
            struck_at = hit.get(before.pid)
            if struck_at and before.at <= struck_at < after.at and struck_at < ended.get(task, after.at + 1):
                took.append(starts.get((task, after.epoch), after.at) - struck_at)
    return sorted(took)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the sorted `values` are; 0 when there are none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _figures(
    history: History, by_kind: Mapping[str, list[Event]], violations: Sequence[Violation]
) -> Mapping[str, float]:
    final = history.final or {}
    broken = Counter(violation.kind for violation in violations)
    unknown = {event.task for event in by_kind["unknown"]} - {event.task for event in by_kind["ok"]}
    paid = Counter((call.task, call.node) for call in history.calls if call.fault is None)
    took = restarts_s(history.events)
    figures: dict[str, float] = {
        "submitted": len({event.task for event in by_kind["ok"]}),
        "ended": sum(last.state in TERMINAL for last in final.values()),
        "lost": broken["lost"],
        "stuck": broken["stuck"],
        "duplicated": broken["duplicated"],
        "unknown": len(unknown),
        "recovered": len(unknown & {task for task, last in final.items() if last.state in TERMINAL}),
        "crashes charged": sum(last.crashes for last in final.values()),
        "false reaps": broken["false reap"],
        "calls paid": sum(paid.values()),
        "paid again": sum(number - 1 for number in paid.values()),
        "fenced": len(by_kind["fenced"]),
        "swept": len(by_kind["swept"]),
        "struck": len({event.pid for event in by_kind["struck"]}),
    }
    if took:
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            figures[f"restart {name} s"] = round(percentile(took, share), 2)
    return figures
