"""All graphs of the suite, by what they show."""

from tests.langgraph.bench import Case
from tests.langgraph.graphs import agents, control, functional, states

CASES: dict[str, Case] = {**states.CASES, **control.CASES, **functional.CASES, **agents.CASES}
