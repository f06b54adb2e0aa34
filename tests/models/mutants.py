"""Take one rule out of a script and let a state machine find it: a comparison that cannot fail proves nothing."""

from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from redis import Redis

from langgraph_rq.shared.connections import scripts


def assert_caught(
    redis_url: str,
    machine: Callable[[Redis, Mapping[str, scripts.Script]], RuleBasedStateMachine],
    script: scripts.Script,
    original: str,
    replacement: str,
    *,
    examples: int,
    steps: int = 40,
) -> None:
    """Fail unless `machine` goes red with `replacement` in the script's one place that says `original`.

    Scripts throw dice (`SRANDMEMBER`): a history that Hypothesis repeats may not go red again, which it calls flaky.
    """
    assert script.source.count(original) == 1
    mutant = scripts.make_script(script.name, script.source.replace(original, replacement))
    with Redis.from_url(redis_url) as client, pytest.raises((AssertionError, FlakyFailure)) as caught:
        run_state_machine_as_test(
            lambda: machine(client, {script.name: mutant}),
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=True,
                database=None,
                report_multiple_bugs=False,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    if isinstance(caught.value, FlakyFailure):
        assert caught.value.split(AssertionError)[1] is None
