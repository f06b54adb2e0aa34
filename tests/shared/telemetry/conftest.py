"""Logs that a test reads."""

import logging

import pytest
import structlog

from langgraph_rq.shared.telemetry import logs
from tests.log_lines import Lines


@pytest.fixture
def restored():
    """Leave logging as other tests want it."""
    root, level, handlers = logging.getLogger(), logging.getLogger().level, logging.getLogger().handlers
    yield
    logs.bind(**dict.fromkeys(logs.bound()))
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs.reset()


@pytest.fixture
def lines(restored) -> Lines:
    out = Lines()
    logs.configure("info", stream=out)
    return out
