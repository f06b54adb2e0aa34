"""The budget in Redis and the budget in plain Python answer alike, whatever happens to them."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis import Redis

from tests.models.token_budget_machine import BudgetMachine


def test_any_history_leaves_redis_and_the_model_in_the_same_state(redis_url):
    with Redis.from_url(redis_url) as client:
        run_state_machine_as_test(
            lambda: BudgetMachine(client, {}),
            settings=settings(
                max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
