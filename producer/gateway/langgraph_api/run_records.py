"""What a run was asked for, as its client said it: kept for as long as its thread is listed.

Keys:
    agent:run_record:<id>  string  JSON {assistant_id, metadata, kwargs, multitask_strategy}; a week
"""

import json
from collections.abc import Mapping
from typing import Any

from langgraph_rq.producer.gateway.dependencies import Caller
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import task_key

_KEPT_S = 7 * 86_400
_LONGEST_INPUT = 4_096
"""Bytes of an input that is kept with its run; a longer one is left out."""


async def remember_run(caller: Caller, run_id: str, record: Mapping[str, Any]) -> None:
    """Keep what is said of a run, before it is submitted."""
    kwargs = record["kwargs"]
    if len(json.dumps(kwargs.get("input"))) > _LONGEST_INPUT:
        kwargs = {**kwargs, "input": None}
    text = json.dumps({**record, "kwargs": kwargs}, separators=(",", ":"))
    await caller.client.redis.set(record_key(task_key(run_id, caller.tenant)), text, ex=_KEPT_S)


def read_record(text: bytes | None) -> dict[str, Any]:
    """Read it; empty if there is none, as of a task that another door submitted."""
    try:
        found = read_json(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def record_key(run: str) -> str:
    """Return the key of what is said of a run, by its id in Redis."""
    return f"agent:run_record:{run}"
