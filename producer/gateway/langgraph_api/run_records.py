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
_LONGEST = 16_000
"""Characters of a record; of a longer one what may be long is left out."""
_LONG = ("input", "command", "context", "config")


async def remember_run(caller: Caller, run_id: str, record: Mapping[str, Any]) -> None:
    """Keep what is said of a run, before it is submitted."""
    text = json.dumps(record, separators=(",", ":"))
    if len(text) > _LONGEST:
        short = {name: value for name, value in record["kwargs"].items() if name not in _LONG}
        text = json.dumps({**record, "kwargs": short}, separators=(",", ":"))
    if len(text) > _LONGEST:
        text = json.dumps({"graph": record["graph"]})
    await caller.client.redis.set(record_key(task_key(run_id, caller.tenant)), text, ex=_KEPT_S)


async def forget_run(caller: Caller, run_id: str) -> None:
    """Forget what is said of a run that was not taken."""
    await caller.client.redis.delete(record_key(task_key(run_id, caller.tenant)))


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
