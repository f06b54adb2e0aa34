"""The commands that follow, cancel, resume and continue tasks, and those of the HTTP gateway."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import click

from langgraph_rq.producer.cli.views.output import (
    EXIT_CODES,
    json_option,
    refuse_timeout_alone,
    warn_without_worker,
    write_results,
    write_warnings_once,
)
from langgraph_rq.producer.client.client import Client
from langgraph_rq.producer.client.reading.lookup import Receipt
from langgraph_rq.producer.client.resume import MISSING
from langgraph_rq.producer.gateway.admission.api_keys import make_key
from langgraph_rq.shared import terminal
from langgraph_rq.shared.errors import InvalidInputError, MissingExtraError, Violation
from langgraph_rq.shared.queue.events import BEGINNING, is_place
from langgraph_rq.shared.settings import GatewaySettings, load
from langgraph_rq.shared.telemetry.tracer_provider import exported_spans

_EXIT_CODES = """
\b
Exit codes:
  0  done
  2  the input is wrong
  3  Redis cannot be reached
  4  no such task
"""
_wait_option = click.option("--wait", is_flag=True, help="Wait for the result and write it.")
_timeout_option = click.option(
    "--timeout", "timeout_s", type=float, metavar="SECONDS", help="With --wait: stop waiting after this time."
)


@click.command(epilog=_EXIT_CODES)
@click.argument("task_id")
@click.option("--after", default=BEGINNING, metavar="ID", help="Go on after the event of this id.")
@json_option
def events(task_id: str, *, after: str, as_json: bool) -> None:
    """Follow the events of a task until it has ended.

    \b
    Examples:
      langgraph-producer events 7541897b-8dcb-4539-ad83-7db3f43609a3
      langgraph-producer events --json TASK_ID | jq -r 'select(.type == "messages").data.message.content'
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    if not is_place(after):
        raise InvalidInputError(Violation("--after", "the id of an event", after))
    with Client() as client:
        for event in client.events(task_id, after):
            if as_json:
                terminal.write_json(f'{{"id":"{event.id}","type":"{event.type}","data":{event.text}}}')
            else:
                terminal.write(f"{event.id}  {event.type:<8}  {event.text}")


@click.command(epilog=_EXIT_CODES)
@click.argument("task_ids", nargs=-1, required=True)
@json_option
def cancel(task_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Stop tasks: from now on no model call of them starts. Writes the state in which each is now."""
    with Client() as client:
        for task_id in task_ids:
            state = client.cancel(task_id)
            terminal.write({"task_id": task_id, "state": state} if as_json else state.value)


@click.command(epilog=EXIT_CODES)
@click.argument("task_id")
@click.argument("value", required=False)
@click.option("--answer", "answers", multiple=True, metavar="ID=VALUE", help="To one of several open questions.")
@_wait_option
@_timeout_option
@json_option
def resume(
    task_id: str, value: str | None, *, answers: Iterable[str], wait: bool, timeout_s: float | None, as_json: bool
) -> None:
    """Answer the questions of an interrupted task; writes the id of the task that continues its thread.

    VALUE is JSON, or a text where it is none; left out for a task that stopped at a breakpoint. The same answer again
    is the same task.

    \b
    Examples:
      langgraph-producer resume TASK_ID yes --wait
      langgraph-producer resume TASK_ID '{"approved": true}'
      langgraph-producer resume TASK_ID --answer 9f2c4be1d0a7431f8e5b6a7c8d9e0f11=yes
    """  # noqa: D301
    refuse_timeout_alone(timeout_s, wait=wait)
    by_id = dict(_split(answer) for answer in answers) or None
    write_warnings_once()
    with exported_spans(is_required=False), Client() as client:
        receipt = client.resume(task_id, MISSING if value is None else _read(value), answers=by_id)
        _write_receipts(client, [receipt], timeout_s, wait=wait, as_json=as_json)


@click.command("continue", epilog=EXIT_CODES)
@click.argument("task_ids", nargs=-1, required=True)
@_wait_option
@_timeout_option
@json_option
def continue_(task_ids: tuple[str, ...], *, wait: bool, timeout_s: float | None, as_json: bool) -> None:
    """Continue tasks that failed, timed out or were cancelled; writes the ids of the tasks that do.

    Each goes on from its last checkpoint: nodes that have finished do not run again. Continued again, it is the same
    task.

    \b
    Examples:
      langgraph-producer continue TASK_ID --wait
      langgraph-producer tasks --state error --limit 5000 --json | jq -r .task_id | xargs langgraph-producer continue
    """  # noqa: D301
    refuse_timeout_alone(timeout_s, wait=wait)
    write_warnings_once()
    with exported_spans(is_required=False), Client() as client:
        _write_receipts(client, map(client.continue_, task_ids), timeout_s, wait=wait, as_json=as_json)


@click.command(epilog="\b\nExit codes:\n  0  asked to end\n  2  a setting is wrong")
@click.option("--host", help="Address to listen on (default: 127.0.0.1).")
@click.option("--port", type=int, help="Port to listen on (default: 8080).")
@click.option("--without-keys", is_flag=True, default=None, help="Serve this machine only, without API keys.")
def serve(*, host: str | None, port: int | None, without_keys: bool | None) -> None:
    """Serve the HTTP API, and a page for people at /.

    \b
    Examples:
      langgraph-producer serve --without-keys
      LGRQ_GATEWAY_KEYS_FILE=keys.txt langgraph-producer serve --host 0.0.0.0

    SIGTERM and SIGINT let requests end; event streams are closed, so that their clients go on elsewhere.
    """  # noqa: D301
    for module in ("fastapi", "uvicorn"):
        if find_spec(module) is None:
            raise MissingExtraError("serve", "api", module)
    settings = load(GatewaySettings, host=host, port=port, without_keys=without_keys)
    # Only this command needs them; all others stay quick.
    from langgraph_rq.producer.gateway.server import serve as serve_gateway  # noqa: PLC0415

    serve_gateway(settings)


@click.command("new-key", epilog="\b\nExit codes:\n  0  done\n  2  the input is wrong")
@click.argument("tenant")
@json_option
def new_key(tenant: str, *, as_json: bool) -> None:
    """Make an API key for TENANT: the key itself, which is shown once, and the line to keep of it.

    \b
    Example:
      langgraph-producer new-key acme
    """  # noqa: D301
    key, line = make_key(tenant)
    if as_json:
        terminal.write({"key": key, "line": line})
    else:
        terminal.write(f"key, for {tenant} only:                 {key}")
        terminal.write(f"line for LGRQ_GATEWAY_KEYS_FILE: {line}")


def _write_receipts(
    client: Client, receipts: Iterable[Receipt], timeout_s: float | None, *, wait: bool, as_json: bool
) -> None:
    waited: dict[str, str | None] = {}
    for receipt in receipts:
        if receipt.reason and receipt.reason not in waited.values():
            warn_without_worker(receipt.reason)
        waited[receipt.task_id] = receipt.reason
        if not wait:
            terminal.write(asdict(receipt) if as_json else receipt.task_id)
    if wait:
        write_results(client, list(waited), timeout_s, set(filter(None, waited.values())), as_json=as_json)


def _split(answer: str) -> tuple[str, Any]:
    id_, separator, value = answer.partition("=")
    if not separator:
        raise InvalidInputError(Violation("--answer", "ID=VALUE", answer))
    return id_, _read(value)


def _read(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
    except RecursionError as error:
        raise InvalidInputError(Violation("VALUE", "JSON", str(error))) from None
