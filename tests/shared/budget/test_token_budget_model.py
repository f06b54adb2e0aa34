"""The budget in Redis and the budget in plain Python answer alike, whatever happens to them."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis import Redis

from tests.models.token_budget_machine import BudgetMachine


@pytest.mark.parametrize("examples", [25, pytest.param(80, marks=pytest.mark.slow)])
def test_any_history_leaves_redis_and_the_model_in_the_same_state(redis_url, examples):
    with Redis.from_url(redis_url) as client:
        run_state_machine_as_test(
            lambda: BudgetMachine(client, {}),
            settings=settings(
                max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
