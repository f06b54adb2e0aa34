"""Infrastructure: do tasks survive, and are they protected on the way?"""

from collections.abc import Mapping
from ipaddress import ip_address
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import ResponseError

from langgraph_rq.producer.doctor.finding import Check, Finding, failed, passed, warned
from langgraph_rq.producer.doctor.system import System
from langgraph_rq.shared.announcements.state_kept import StateKept
from langgraph_rq.shared.connections.clients import leaves_host_in_plain
from langgraph_rq.shared.settings import ALL, QueueSettings, load

_HEADROOM_PERCENT = 70
_DAYS_WARN, _DAYS_FAIL = 14, 2
_HTTP = ("OPENAI_BASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def redis_persists(system: System) -> Finding:
    """Tasks and checkpoints must survive a restart of Redis."""
    return _persists(system, system.client, system.info, "Redis")


def checkpoints_persist(system: System) -> Finding:
    """Checkpoints are what a killed worker's tasks continue from."""
    return _persists(system, system.checkpoint_client, system.checkpoint_info, "the checkpoints' Redis")


def _persists(system: System, client: Redis, info: Mapping[str, Any], what: str) -> Finding:
    if not info.get("aof_enabled"):
        return _replicated(info, system.redis.submit_replicas, what)
    if info.get("aof_last_write_status") != "ok":
        return failed(f"{what} cannot write its append-only file", "look at its disk and its log")
    if _version(info) <= _REPLAYS_AS_DEFAULT and not _reads_back_everything(client):
        return failed(
            f"up to Redis 8.4 {what} loses at a restart what scripts wrote: it reads its append-only file as the user "
            "`default`, who may not do that",
            "let `default` be off, with every right: user default off resetpass ~* &* +@all",
        )
    return passed(f"{what} keeps an append-only file")


def _replicated(info: Mapping[str, Any], wanted: int, what: str) -> Finding:
    """Judge a Redis without an append-only file, as managed services run it."""
    connected = int(info.get("connected_slaves", 0))
    if not wanted:
        return failed(
            f"{what} keeps no append-only file: a restart loses every task",
            "CONFIG SET appendonly yes, or where that cannot be set, replicas and LGRQ_SUBMIT_REPLICAS=1 everywhere",
        )
    if connected < wanted:
        return failed(
            f"{what} keeps no append-only file, and {connected} of the {wanted} replicas that submits wait for are "
            "connected: a restart loses every task",
            "connect replicas",
        )
    return warned(
        f"{what} keeps no append-only file: if the primary dies, results and checkpoints of its last moments are lost "
        "and their tasks run again; if it and all replicas restart at once, every task is lost",
        "put the replicas elsewhere than the primary, or CONFIG SET appendonly yes",
    )


_REPLAYS_AS_DEFAULT = (8, 4)
"""The last version that drops, at its start, what scripts wrote and the user `default` may not do."""


def _version(info: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])


def _reads_back_everything(client: Redis) -> bool:
    try:
        answers: list[Any] = [client.acl_dryrun("default", *command) for command in _WRITTEN]
    except ResponseError:  # not ours to ask, where users are your own or a provider keeps them
        return True
    return all(answer in {b"OK", "OK"} for answer in answers)


_WRITTEN = (("SET", "any", ""), ("HSET", "any", "a", ""), ("ZADD", "any", 0, "a"), ("XADD", "any", "*", "a", ""))


def threads_are_in_one_place(system: System) -> Finding:
    """A conversation has a history in each place of its workers, and ends where another secret is needed."""
    places: dict[str, set[StateKept]] = {}
    for worker in system.fleet.workers:
        for graph in worker.graphs:
            places.setdefault(graph, set()).add(worker.state_kept)
    torn = {graph: kept for graph, kept in places.items() if not all(a.fits(b) for a, b in combinations(kept, 2))}
    if torn:
        graph = min(torn)
        kept = sorted(str(one) for one in torn[graph] if one.place)
        others = f", and of {len(torn) - 1} other graphs" if len(torn) > 1 else ""
        return failed(
            f"the workers of {graph}{others} keep threads in different places, or encrypt them with different secrets: "
            f"{'; '.join(kept)}",
            "give all of them the same LGRQ_STATE, LGRQ_STATE_URL, LGRQ_STATE_KEY, LGRQ_CHECKPOINTS and "
            "LGRQ_CHECKPOINT_REDIS_URL",
        )
    return passed("all workers of a graph keep its threads in one place")


def redis_evicts_nothing(system: System) -> Finding:
    """An evicted key is a lost task."""
    wrong = {
        str(info.get("maxmemory_policy"))
        for info in (system.info, system.checkpoint_info)
        if info.get("maxmemory_policy") != "noeviction"
    }
    if wrong:
        return failed(
            f"maxmemory-policy is {', '.join(wrong)}: Redis will throw tasks away",
            "CONFIG SET maxmemory-policy noeviction",
        )
    return passed("maxmemory-policy is noeviction")


def redis_frees_in_background(system: System) -> Finding:
    """An input, a result or a stream of megabytes that expires must not hold up every command."""
    try:
        answers = [client.config_get(_LAZY) for client in (system.client, system.checkpoint_client)]
    except ResponseError:  # not ours to ask, where users are your own or a provider keeps them
        return passed(f"not known: this user of Redis may not read {_LAZY}, an administrator may")
    if any(value in {b"no", "no"} for answer in answers for value in answer.values()):
        return warned(f"{_LAZY} is no: large keys that expire hold every command up", f"CONFIG SET {_LAZY} yes")
    return passed("what expires is freed in the background")


_LAZY = "lazyfree-lazy-expire"


def redis_has_headroom(system: System) -> Finding:
    """Running tasks must be able to end when the queue grows."""
    limit, used = int(system.info.get("maxmemory", 0)), int(system.info.get("used_memory", 0))
    if not limit:
        return warned(
            "Redis has no maxmemory: it grows until the system kills it",
            "set maxmemory to about 60 % of the host's memory",
        )
    percent = 100 * used // limit
    refuses = load(QueueSettings).memory_percent
    if percent >= refuses:
        return failed(f"{percent} % of maxmemory used: submits are refused from {refuses} %", "raise maxmemory")
    if percent >= _HEADROOM_PERCENT:
        return warned(f"{percent} % of maxmemory used: submits are refused from {refuses} %", "raise maxmemory")
    return passed(f"{percent} % of maxmemory used")


def memory_lasts(system: System) -> Finding:
    """A Redis that is full refuses tasks: there must be time to make room."""
    refuses = load(QueueSettings).memory_percent
    return _lasts(system, system.client, system.info, "Redis", refuses, "submits are refused")


def checkpoint_memory_lasts(system: System) -> Finding:
    """A Redis of checkpoints that is full stops all tasks."""
    if system.redis.checkpoint_redis_url is None:
        return passed("they are in the Redis of the queue")
    what = "the checkpoints' Redis"
    return _lasts(system, system.checkpoint_client, system.checkpoint_info, what, 100, "it takes no more")


def _lasts(system: System, client: Redis, info: Mapping[str, Any], what: str, most: int, then: str) -> Finding:
    """Estimate when a Redis has used so many percent of its memory, and what happens then."""
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    per_day = system.memory_growth(client, used)
    if per_day is None:
        return warned(f"not known yet how fast {what} fills up", "ask again 6 hours after the first worker was started")
    grows = f"{what[0].upper()}{what[1:]} has grown by {per_day / 1e6:,.1f} MB within a day"
    if per_day <= 0:
        return passed(f"{what[0].upper()}{what[1:]} has not grown within a day")
    if not limit:
        return passed(grows)
    days = max(0.0, limit * most / 100 - used) / per_day
    estimate = f"{grows}: at that pace {then} in {days:,.1f} days, at {most} % of maxmemory"
    if days < _DAYS_WARN:
        found = failed if days < _DAYS_FAIL else warned
        return found(estimate, "raise maxmemory, or shorten what is kept: see docs/explanation/memory.md")
    return passed(estimate)


def secrets_come_from_files(system: System) -> Finding:
    """An environment is shown by `docker inspect`, in crash reports and to every child process."""
    secret = {
        name
        for settings in ALL
        for name, field in settings.names().items()
        if "SecretStr" in str(settings.model_fields[field].annotation)
    }
    found = sorted(name for name in secret if _holds_secret(name, system.environ.get(name, "")))
    if found:
        return failed(
            f"plain secret in the environment: {', '.join(found)}",
            f"put it into a file and name that: {found[0]}_FILE=/run/secrets/{found[0].lower()}",
        )
    return passed("no secret in the environment")


def _holds_secret(name: str, value: str) -> bool:
    return ("password=" in value or "@" in value) if name.endswith("_URL") else bool(value)


def submits_are_rate_limited(system: System) -> Finding:
    """One user in a loop must not fill the queue for all."""
    if system.gateway.rate is None:
        return failed("the gateway has no rate limit", "set LGRQ_GATEWAY_RATE, for example 600/minute")
    return passed(f"at most {system.gateway.rate} tasks of one user")


def connections_use_tls(system: System) -> Finding:
    """What leaves the host can be read on the way."""
    problems = []
    for name, secret in (("REDIS_URL", system.redis.redis_url), ("checkpoints", system.redis.checkpoint_redis_url)):
        if secret and leaves_host_in_plain(secret.get_secret_value()):
            problems.append(f"{name} is plain redis:// to another host")
    plain = [name for name in _HTTP if _is_plain_http_elsewhere(system.environ.get(name, ""))]
    problems += [
        f"{name} is plain http:// to another host" for name in plain if not _is_container(system.environ[name])
    ]
    gateway = system.gateway
    if not _is_here(gateway.host) and gateway.tls_cert is None:
        problems.append(f"the gateway listens on {gateway.host} without a certificate")
    if problems:
        return failed(
            "; ".join(problems), "use rediss:// and https://, and set LGRQ_GATEWAY_TLS_CERT and LGRQ_GATEWAY_TLS_KEY"
        )
    if plain:
        return warned(
            f"plain http:// to a container: {', '.join(plain)}",
            "keep that network on this host, or use https:// there too",
        )
    return passed("every connection that leaves the host is TLS")


def _is_container(url: str) -> bool:
    """Say whether the host is a bare name, as containers of one network have."""
    host = urlsplit(url).hostname or ""
    return "." not in host and ":" not in host


def _is_plain_http_elsewhere(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_here(parts.hostname or "")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


CHECKS: dict[str, Check] = {
    "tasks persist": redis_persists,
    "checkpoints persist": checkpoints_persist,
    "threads in one place": threads_are_in_one_place,
    "nothing is evicted": redis_evicts_nothing,
    "freed in the background": redis_frees_in_background,
    "memory head-room": redis_has_headroom,
    "memory growth": memory_lasts,
    "memory growth of checkpoints": checkpoint_memory_lasts,
    "secrets from files": secrets_come_from_files,
    "rate limiting": submits_are_rate_limited,
    "TLS": connections_use_tls,
}
