"""Security: permissions, data that leaves the system, and evidence of tampering."""

import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from redis.exceptions import AuthenticationError, RedisError

from langgraph_rq.producer.cli.audit import verify_log
from langgraph_rq.producer.doctor.finding import Check, Finding, failed, passed, warned
from langgraph_rq.producer.doctor.system import System
from langgraph_rq.shared.budget.answers import show_amount
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.settings import RedactionSettings, TaskSettings, load
from langgraph_rq.shared.telemetry.audit import STREAM

_SKEW_WARN_S = 1.0
_OLDEST = {"Redis": (7, 0), "Valkey": (7, 2)}
_ANCHORS_LAG = timedelta(minutes=1)


def input_is_validated(_system: System) -> Finding:
    """Unknown fields are always refused; sizes are settings."""
    tasks = load(TaskSettings)
    if tasks.input_bytes > 10_000_000:
        return warned(f"inputs up to {tasks.input_bytes:,} bytes are taken", "lower LGRQ_INPUT_BYTES")
    return passed(f"inputs up to {tasks.input_bytes:,} bytes, {tasks.input_depth} levels deep, no unknown fields")


def output_is_filtered(_system: System) -> Finding:
    """A model may repeat personal data or a secret that it was shown."""
    mode = load(RedactionSettings).mode
    if mode == "off":
        return warned("personal data and secrets in answers are delivered", "set LGRQ_REDACTION_MODE to mask or refuse")
    return passed(f"personal data and secrets in answers: {mode}")


def audit_log_is_intact(system: System) -> Finding:
    """Entries are signed and chained: a change shows."""
    telemetry = system.telemetry
    if telemetry.audit_key is None and system.client.exists(STREAM):
        return warned(
            "there is an audit log, which was not checked: no key here",
            "run the doctor with the gateway's LGRQ_AUDIT_KEY_FILE",
        )
    if telemetry.audit_key is None:
        return warned("there is no audit log", "set LGRQ_AUDIT_KEY_FILE, the same for gateway and workers")
    found = verify_log(system.client, telemetry)
    faults = [one for one in found.faults if telemetry.audit_worker_key or not one.is_workers]
    if faults:
        return failed(
            f"the audit log was changed: {len(faults)} faults", "langgraph-producer audit --verify names them"
        )
    if telemetry.audit_worker_key is None:
        reason = "the workers' part of the audit log was not checked" if found.faults else "one key signs the audit log"
        return warned(reason, "give workers LGRQ_AUDIT_WORKER_KEY_FILE, and the doctor too, outside of the producers")
    if found.behind and _is_long_ago(found.anchored_at):
        return warned(
            f"the last {found.behind} entries of the audit log are not anchored", "start a worker that has the key"
        )
    return passed(f"the chains of {found.writers} writers verify")


def _is_long_ago(anchored_at: datetime | None) -> bool:
    return anchored_at is None or datetime.now(UTC) - anchored_at > _ANCHORS_LAG


def tasks_are_signed(system: System) -> Finding:
    """Without signatures a client that may write to Redis acts for every tenant."""
    keys = load(TaskSettings).keys()
    if keys is None:
        return warned("tasks are not signed: a stolen producer acts for every tenant", "set LGRQ_TASK_KEYS_FILE")
    lines = system.gateway.keys.get_secret_value().split() if system.gateway.keys else []
    missing = sorted({line.partition(":")[0] for line in lines if ":" in line} - {*keys.tenants})
    if missing:
        return failed(
            f"no key signs the tasks of {', '.join(missing)}", "add lines tenant:key id:key to LGRQ_TASK_KEYS"
        )
    return passed(f"tasks of {', '.join(keys.tenants)} are signed")


def users_are_limited(system: System) -> Finding:
    """One user must not spend the budget of all."""
    budget = system.budget
    if budget.user_daily_tokens is None and budget.user_daily_cost_nano_usd is None:
        return failed("a user may spend the whole day's budget", "langgraph-producer budget set user 100000")
    limits = [f"{budget.user_daily_tokens:,} tokens"] if budget.user_daily_tokens else []
    limits += [show_amount(budget.user_daily_cost_nano_usd, "cost")] if budget.user_daily_cost_nano_usd else []
    return passed(f"a user may spend {' and '.join(limits)} a day")


def redis_user_has_a_role(system: System) -> Finding:
    """Each part has a Redis user of its own; none is anonymous."""
    who: Any = system.client.acl_whoami()
    name = who.decode() if isinstance(who, bytes) else str(who)
    if name == "default":
        return failed(
            "this connects as Redis' default user, who may do everything", "use the users of deploy/redis/users.acl"
        )
    if _admits_without_password(system):
        return failed("Redis lets anybody in without a password", "load deploy/redis/users.acl: it turns `default` off")
    return passed(f"this connects as {name}, and no client gets in without a password")


def _admits_without_password(system: System) -> bool:
    url = system.redis.redis_url.get_secret_value()
    scheme, _, rest = url.partition("://")
    with open_sync(f"{scheme}://{rest.rpartition('@')[2]}", connections=1) as anonymous:
        try:
            return bool(anonymous.ping())
        except AuthenticationError:
            return False
        except RedisError as error:
            return "authenticat" not in str(error).lower()


def dashboard_is_protected(system: System) -> Finding:
    """rq-dashboard shows every job; the stock one also lets every visitor requeue and delete."""
    if system.urls.dashboard is None:
        return warned("not checked", "give --dashboard URL, so that it is asked")
    status, _ = system.get(f"{system.urls.dashboard}/")
    if status != 401:
        return failed(f"the dashboard answered {status} without a password", "start it by langgraph-producer dashboard")
    return passed("the dashboard asks for a password")


def gateway_asks_for_keys(system: System) -> Finding:
    """An API key says which tenant is asking."""
    if system.gateway.without_keys:
        return failed("the gateway lets everybody in", "give it LGRQ_GATEWAY_KEYS_FILE; langgraph-producer new-key")
    if system.urls.gateway is None:
        return warned("not checked", "give --gateway URL, so that it is asked")
    status, _ = system.get(f"{system.urls.gateway}/usage")
    if status != 401:
        return failed(f"the gateway answered {status} without a key", "give it LGRQ_GATEWAY_KEYS_FILE")
    return passed("the gateway asks for an API key")


def clocks_agree(system: System) -> Finding:
    """Deadlines use Redis' clock only, but logs, traces and certificates do not."""
    asked_at = time.time()
    answer: Any = system.client.time()
    skew_s = abs((asked_at + time.time()) / 2 - (int(answer[0]) + int(answer[1]) / 1e6))
    if skew_s > _SKEW_WARN_S:
        return warned(f"this clock and Redis' are {skew_s:.1f} s apart", "run NTP on both hosts")
    return passed(f"this clock and Redis' are {skew_s * 1000:.0f} ms apart")


def versions_are_supported(system: System) -> Finding:
    """What we were tested with."""
    # Valkey also says the version of Redis that it speaks like.
    name = "Valkey" if "valkey_version" in system.info else "Redis"
    server = str(system.info.get(f"{name.lower()}_version", "0"))
    if tuple(int(part) for part in server.split(".")[:2]) < _OLDEST[name]:
        return failed(f"{name} {server} is too old", "use Redis 8 or Valkey 9")
    rq = _installed("rq")
    if rq and not rq.startswith("3.0."):
        return failed(f"rq {rq}: we rely on the key layout of 3.0", "pip install 'rq==3.0.*'")
    ours = f"{name} {server}, langgraph-rq {_installed('langgraph-rq')}"
    return passed(f"{ours}, rq {rq}" if rq else ours)


def _installed(name: str) -> str | None:
    """Return the version of a package; None: it is not here, as rq is not where only the client is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


CHECKS: dict[str, Check] = {
    "input validation": input_is_validated,
    "output filter": output_is_filtered,
    "audit log": audit_log_is_intact,
    "signed tasks": tasks_are_signed,
    "limits per user": users_are_limited,
    "Redis roles": redis_user_has_a_role,
    "API keys": gateway_asks_for_keys,
    "dashboard": dashboard_is_protected,
    "clocks": clocks_agree,
    "versions": versions_are_supported,
}
