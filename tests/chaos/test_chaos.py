"""A small version of the chaos table: few tasks, a lease of two seconds, and the same checker as `make chaos`."""

import pytest

from tests.chaos.run import SMALL, Run
from tests.chaos.scenarios.table import SCENARIOS
from tests.chaos.testbed.stage import open_stage

BRIEF = ("C31",)
"""Rows of an ordinary day, in every run of the suite."""
SMALL_TABLE = (
    *("C1", "C2", "C3", "C5", "C7", "C9", "C14", "C15", "C17"),
    *("C18", "C19", "C20", "C21", "C22", "C23", "C24", "C25", "C26", "C27", "C28", "C29", "C30", "C32"),
)


@pytest.fixture(scope="module")
def postgres_stage():
    with open_stage("postgres") as one:
        yield one


@pytest.fixture(scope="module")
def redis_stack_stage():
    with open_stage("redis-stack") as one:
        yield one


@pytest.fixture(scope="module")
def stage():
    with open_stage() as one:
        yield one


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["C1", "C3", "C25"])
def test_promises_hold_with_state_in_postgres_in(postgres_stage, name):
    postgres_stage.reset(SMALL.node_s)
    verdict = SCENARIOS[name](Run(postgres_stage, SMALL))
    assert verdict.violations == (), verdict.figures


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["C1", "C3"])
def test_promises_hold_with_state_in_redis_stack_in(redis_stack_stage, name):
    redis_stack_stage.reset(SMALL.node_s)
    verdict = SCENARIOS[name](Run(redis_stack_stage, SMALL))
    assert verdict.violations == (), verdict.figures


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [*BRIEF, *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL_TABLE)])
def test_promises_hold_in_the_small_version_of(stage, name):
    stage.reset(SMALL.node_s)
    verdict = SCENARIOS[name](Run(stage, SMALL))
    assert verdict.violations == (), verdict.figures
