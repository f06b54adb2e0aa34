"""The checker of the chaos runs, on histories made by hand: a sound one passes, and each broken promise is named."""

from dataclasses import replace

import pytest

from tests.chaos.checking.checker import Blackout, Rules, check, restarts_s
from tests.chaos.checking.history import Event, FinalTask, History, PaidCall, read_events, record

NODES = ("one", "two", "three")
RULES = Rules(steps=[NODES])
DONE = FinalTask("success", steps=NODES)


def _events(*more):
    return (
        Event("invoked", "t", at=1),
        Event("ok", "t", at=2),
        Event("claimed", "t", 1, pid=7, at=3),
        *(Event("admitted", "t", 1, pid=7, at=4 + i, detail="allow") for i in range(3)),
        Event("wrote", "t", 1, pid=7, at=9),
        *more,
    )


def _calls(*nodes, epoch=1, pid=7, at=4.5, task="t"):
    return tuple(PaidCall(task, node, epoch, pid, at + i) for i, node in enumerate(nodes))


SOUND = History(_events(), _calls(*NODES), {"t": DONE}, {})
CRASHED = History(
    (
        *_events(),
        Event("struck", pid=7, at=6, detail="kill -9"),
        Event("claimed", "t", 2, pid=8, at=14),
        *(Event("admitted", "t", 2, pid=8, at=15 + i, detail="allow") for i in range(2)),
    ),
    _calls("one", "two") + _calls("two", "three", epoch=2, pid=8, at=15.5),
    {"t": replace(DONE, epoch=2, crashes=1)},
    {},
)


def _kinds(history, rules=RULES):
    return check(history, rules).kinds


def test_sound_history_is_passed():
    assert check(SOUND, RULES).violations == ()


def test_crash_may_cost_the_node_in_flight():
    verdict = check(CRASHED, RULES)
    assert verdict.violations == ()
    assert verdict.figures["paid again"] == 1


def test_attempt_that_redis_has_forgotten_may_be_made_again_and_only_there():
    forgotten = replace(
        SOUND,
        events=(*SOUND.events, Event("wrote", "t", 1, pid=8, at=19)),
        calls=SOUND.calls + _calls("one", "two", pid=8, at=15.5),
    )
    assert {"duplicated", "repaid"} <= _kinds(forgotten)
    assert not {"duplicated", "repaid"} & _kinds(forgotten, replace(RULES, forgets=True))


def test_node_in_flight_is_paid_again_only_where_a_crash_is_expected():
    assert _kinds(CRASHED, replace(RULES, repaid_per_crash=0)) == {"repaid"}


def test_answered_submit_that_is_not_known_any_more_is_lost():
    assert _kinds(replace(SOUND, final={})) == {"lost"}


def test_end_without_a_result_is_lost():
    assert _kinds(replace(SOUND, final={"t": replace(DONE, ends=0)})) == {"lost"}


def test_task_without_an_end_is_stuck():
    assert _kinds(replace(SOUND, final={"t": replace(DONE, state="running")})) == {"stuck"}


def test_refused_submit_whose_task_is_known_is_unexpected_but_not_after_another_that_was_answered():
    final = {"t": DONE, "u": DONE}
    refused = (*SOUND.events, Event("invoked", "u", at=1), Event("refused", "u", at=2))
    assert _kinds(replace(SOUND, events=refused, final=final)) == {"unexpected"}
    assert not _kinds(replace(SOUND, events=(*refused, Event("ok", "u", at=3)), final=final))


def test_task_whose_keys_another_program_has_written_is_not_judged_but_what_is_left_of_it_is():
    written = replace(SOUND, final={"t": replace(DONE, state="error", steps=())})
    assert _kinds(written) == {"unexpected"}
    assert not _kinds(written, replace(RULES, overwritten={"t"}))
    assert _kinds(replace(written, left={"agent:open": 1}), replace(RULES, overwritten={"t"})) == {"stuck"}


def test_what_is_left_in_redis_is_stuck():
    assert _kinds(replace(SOUND, left={"agent:own:*": 1})) == {"stuck"}


def test_submit_whose_answer_was_lost_may_have_come_to_nothing():
    unknown = (*_events(), Event("invoked", "u", at=1), Event("unknown", "u", at=2))
    verdict = check(replace(SOUND, events=unknown), RULES)
    assert verdict.violations == ()
    assert verdict.figures["recovered"] == 0


def test_submit_whose_answer_was_lost_and_that_ran_is_recovered():
    unknown = tuple(replace(event, kind="unknown") if event.kind == "ok" else event for event in _events())
    verdict = check(replace(SOUND, events=unknown), RULES)
    assert verdict.violations == ()
    assert verdict.figures["recovered"] == 1


@pytest.mark.parametrize("history", [
    replace(SOUND, final={"t": replace(DONE, ends=2)}),
    replace(SOUND, events=_events(Event("wrote", "t", 2, pid=8, at=10))),
], ids=["in Redis", "by two workers"])  # fmt: skip
def test_second_result_is_a_duplicate(history):
    assert _kinds(history) == {"duplicated"}


def test_task_that_was_never_submitted_is_unexpected():
    assert _kinds(replace(SOUND, final={"t": DONE, "ghost": DONE})) == {"unexpected"}
    assert _kinds(replace(SOUND, events=_events(Event("start", "ghost", 1, at=5)))) == {"unexpected"}


def test_end_that_the_scenario_does_not_allow_is_unexpected():
    failed = FinalTask("error", error="graph_error")
    assert _kinds(replace(SOUND, final={"t": failed})) == {"unexpected"}


def test_innocent_that_was_poisoned_is_unexpected():
    poisoned = {"t": FinalTask("error", error="poisoned")}
    assert _kinds(replace(SOUND, final=poisoned)) == {"unexpected"}
    assert _kinds(replace(SOUND, final=poisoned), replace(RULES, poisoned={"t"})) == set()


def test_killer_that_was_not_poisoned_is_unexpected():
    assert _kinds(SOUND, replace(RULES, poisoned={"t"})) == {"unexpected"}


@pytest.mark.parametrize("steps", [("one", "three"), ("one", "two", "two", "three"), ()])
def test_graph_whose_steps_are_not_each_there_once_is_garbled(steps):
    assert _kinds(replace(SOUND, final={"t": replace(DONE, steps=steps)})) == {"garbled"}


def test_node_that_had_ended_before_the_crash_must_not_be_paid_again():
    admitted = tuple(Event("admitted", "t", 2, pid=8, at=15 + i, detail="allow") for i in range(3))
    again = _calls("one", "two") + _calls("one", "two", "three", epoch=2, pid=8, at=15.5)
    assert _kinds(replace(CRASHED, events=CRASHED.events + admitted, calls=again)) == {"repaid"}


def test_same_node_twice_in_one_attempt_is_paid_again():
    calls = SOUND.calls + _calls("three", at=8)
    assert "repaid" in _kinds(replace(SOUND, calls=calls))


def test_crash_charged_while_no_fault_hit_the_owner_is_a_false_reap():
    quiet = tuple(event for event in CRASHED.events if event.kind != "struck")
    elsewhere = (*quiet, Event("struck", pid=99, at=6, detail="kill -9"))
    assert _kinds(replace(CRASHED, events=quiet)) == {"false reap"}
    assert _kinds(replace(CRASHED, events=elsewhere)) == {"false reap"}


def test_crash_is_a_false_reap_where_none_is_expected():
    assert "false reap" in _kinds(CRASHED, replace(RULES, crashes=False))


def test_call_that_was_not_admitted_is_late():
    events = tuple(event for event in SOUND.events if event.kind != "admitted" or event.at < 6)
    assert _kinds(replace(SOUND, events=events)) == {"late call"}


def test_call_admitted_after_a_cancel_was_accepted_is_late():
    assert _kinds(replace(SOUND, events=_events(Event("cancelled", "t", at=5.5, detail="running")))) == {"late call"}
    assert _kinds(replace(SOUND, events=_events(Event("cancelled", "t", at=6.5, detail="running")))) == set()


def test_call_after_the_end_of_the_lease_is_late():
    assert _kinds(SOUND, replace(RULES, blackouts=[Blackout(7, 6, 20)])) == {"late call"}
    assert _kinds(SOUND, replace(RULES, blackouts=[Blackout(8, 6, 20), Blackout(7, 7, 20)])) == set()


def test_call_other_than_a_probe_while_the_breaker_is_open_is_late():
    opened = (Event("opened", at=5.5), Event("closed", at=7))
    assert _kinds(replace(SOUND, events=_events(*opened))) == {"late call"}
    probes = tuple(replace(event, detail="probe") if event.at == 6 else event for event in _events(*opened))
    assert _kinds(replace(SOUND, events=probes)) == set()


def test_work_for_the_sweeper_is_a_violation():
    assert _kinds(replace(SOUND, events=_events(Event("swept", "t", at=8)))) == {"swept"}


def test_restart_is_counted_from_the_fault_to_the_next_node():
    events = (*CRASHED.events, Event("start", "t", 2, pid=8, at=15, detail="two"))
    unfinished = [event for event in events if event.kind != "wrote"]
    assert restarts_s(unfinished) == [9.0]


def test_events_of_several_files_are_read_without_a_line_that_a_kill_cut_short(tmp_path, monkeypatch):
    monkeypatch.setenv("CHAOS_HISTORY", str(tmp_path))
    record("ok", "t", 1, detail="first")
    (tmp_path / "99.jsonl").write_text('{"kind": "ok", "task": "u"}\n{"kind": "o')
    assert {event.task for event in read_events(tmp_path)} == {"t", "u"}
