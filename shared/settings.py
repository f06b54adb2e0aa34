"""Settings from the environment, one small class per concern, read once at each entry point and passed on as values.

Our own names begin with `LGRQ_` and are strict: an unknown one is an error with a suggestion. Names that others own
(`REDIS_URL`, `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OTEL_*`) keep their names. Sources, the first wins: environment;
`NAME_FILE`, a file that holds the value; `.env` in the working directory; `/run/secrets/<name in lower case>`.
An empty value is as good as none; `none` takes a limit away.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableError

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.pricing import Rate
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.connections.clients import check_url, leaves_host_in_plain
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.queue.task_queue import QueueTimes
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.tasks import Priority, TaskLimits

PREFIX = "LGRQ_"
ENV_FILE = Path(".env")
LOCAL_SOCKET = Path(".data/redis/redis.sock")
"""The private Redis of `langgraph-producer dev redis`, used when REDIS_URL is not set."""
SECRETS = Path("/run/secrets")
_FILE = "_file"
_ENVELOPE_BYTES = 24_000
"""What a task's document may hold besides its input, metadata included."""


class _FileSource(EnvSettingsSource):
    """Values that stand in files named by `<NAME>_FILE`, as container platforms mount secrets."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        in_env_file = {name.lower(): path for name, path in _env_file().items()}
        given = {**in_env_file, **super()._load_env_vars()}
        names = [name.lower() for name in cast("type[Settings]", self.settings_cls).names()]
        return {name: _read_secret(name, Path(path)) for name in names if (path := given.get(name + _FILE))}


def _read_secret(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"{name.upper()}_FILE: expected a readable file, got: {path} ({reason})") from None


def _env_file() -> dict[str, str | None]:
    return dotenv_values(ENV_FILE) if ENV_FILE.is_file() else {}


def _check_redis_url(url: SecretStr) -> SecretStr:
    check_url(url.get_secret_value())
    return url


RedisUrl = Annotated[SecretStr, AfterValidator(_check_redis_url)]


class Settings(BaseSettings):
    """The base of every settings class: where values come from."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_ignore_empty=True,
        env_parse_none_str="none",
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the files named by `<NAME>_FILE` behind the environment itself."""
        return init_settings, env_settings, _FileSource(settings_cls), dotenv_settings, file_secret_settings

    @classmethod
    def names(cls) -> dict[str, str]:
        """Map each environment variable of this class to its field."""
        prefix = cls.model_config.get("env_prefix", "")
        fields = cls.model_fields.items()
        return {str(info.validation_alias or f"{prefix}{name}").upper(): name for name, info in fields}


class RedisSettings(Settings):
    """Where Redis is. Without REDIS_URL: the private one of this folder if it runs, else localhost."""

    redis_url: RedisUrl = Field(
        default_factory=lambda: SecretStr(
            f"unix://{LOCAL_SOCKET.resolve()}?db=0" if LOCAL_SOCKET.exists() else "redis://localhost:6379/0"
        ),
        validation_alias="REDIS_URL",
        description="Redis for queue, results, breaker and budget",
    )
    checkpoint_redis_url: RedisUrl | None = Field(
        None, description="another Redis for checkpoints, with the JSON and search modules"
    )
    redis_timeout_s: float = Field(5.0, gt=0, description="give up on one Redis command after this time")
    # A worker keeps four of them for what it does most.
    redis_connections: int = Field(64, ge=8, description="connections of one process at most; further callers wait")
    unsafe_redis: bool = Field(
        default=False, description="accept a Redis that evicts keys or keeps no append-only file: tasks may be lost"
    )
    insecure_redis: bool = Field(
        default=False, description="accept plain redis:// to another host: whoever is on the way reads and writes tasks"
    )
    submit_replicas: int = Field(
        0, ge=0, le=10, description="a submit is answered when so many replicas have the task; 0: the primary is enough"
    )
    submit_replicas_timeout_s: float = Field(1.0, gt=0, description="give up waiting for the replicas after this time")

    @model_validator(mode="after")
    def _refuse_plain_redis_elsewhere(self) -> "RedisSettings":
        for name in ("redis_url", "checkpoint_redis_url"):
            secret: SecretStr | None = getattr(self, name)
            if secret and not self.insecure_redis and leaves_host_in_plain(secret.get_secret_value()):
                raise SettingsError(
                    f"{_variable(type(self), name)}: expected rediss:// (TLS, verified) to another host, got: "
                    f"{mask_url(secret.get_secret_value())}; use rediss:// with ?ssl_ca_certs=FILE for a private CA, "
                    "or accept the risk with --insecure-redis or LGRQ_INSECURE_REDIS=true"
                )
        return self


class QueueSettings(Settings):
    """The queue's name and how long things are kept."""

    queue: str = Field("agent_tasks", pattern=r"^[A-Za-z0-9_-]+$", description="RQ queue of default priority")
    lease_s: float = Field(8.0, ge=1, description="a worker that is silent for this long is taken for dead")
    result_ttl_s: float = Field(3600.0, gt=0, description="keep results this long")
    events_ttl_s: float = Field(300.0, gt=0, description="keep a task's events this long after its end")
    idempotency_window_s: float = Field(604_800.0, gt=0, description="remember an ended task's id this long")
    user_tasks: int = Field(0, ge=0, description="tasks of one user in flight at most, in the whole fleet; 0: no limit")
    memory_percent: int = Field(85, ge=1, le=99, description="refuse tasks above this share of Redis' maxmemory")

    def times(self, input_bytes: int = 256_000) -> QueueTimes:
        """The queue's own view of these settings, in milliseconds and bytes."""
        return QueueTimes(
            lease_ms=round(self.lease_s * 1000),
            result_ms=round(self.result_ttl_s * 1000),
            events_ms=round(self.events_ttl_s * 1000),
            window_ms=round(self.idempotency_window_s * 1000),
            job_bytes=input_bytes + _ENVELOPE_BYTES,
            memory_percent=self.memory_percent,
            user_tasks=self.user_tasks,
        )

    def queues(self) -> list[str]:
        """The queues of all priorities, the most urgent first."""
        return [priority.queue(self.queue) for priority in Priority]


class TaskSettings(Settings):
    """What is refused at the door, and how large a result may be."""

    input_bytes: int = Field(256_000, ge=1, description="largest input of a task")
    input_depth: int = Field(32, ge=1, le=100, description="deepest nesting of a task's input")
    max_deadline_s: float = Field(86_400.0, gt=0, description="longest deadline of a task")
    max_attempts: int = Field(10, ge=1, description="largest max_attempts of a task")
    result_bytes: int = Field(1_000_000, ge=1, description="largest result of a task")

    def limits(self) -> TaskLimits:
        """The wire contract's own view of these settings."""
        return TaskLimits(
            input_bytes=self.input_bytes,
            depth=self.input_depth,
            deadline_s=self.max_deadline_s,
            attempts=self.max_attempts,
        )


class WorkerSettings(Settings):
    """One worker process."""

    worker_concurrency: int = Field(100, ge=1, le=10_000, description="tasks in flight per process")
    worker_processes: int = Field(1, ge=1, le=256, description="worker processes")
    config: Path = Field(Path("langgraph.json"), description="the langgraph.json that names the graphs")
    checkpoints: bool = Field(default=True, description="keep checkpoints in Redis")
    drain_s: float = Field(30.0, ge=0, description="a worker that is asked to end waits so long for what runs")
    thread_ttl_s: float = Field(604_800.0, gt=0, description="keep the checkpoints of a thread this long")
    checkpoint_ttl_s: float = Field(60.0, gt=0, description="keep those of a task without thread this long after it")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error")


class ModelSettings(Settings):
    """The model provider; names and meaning are OpenAI's own."""

    openai_api_key: SecretStr | None = Field(
        None, validation_alias="OPENAI_API_KEY", description="key of the model API"
    )
    openai_base_url: str | None = Field(
        None, validation_alias="OPENAI_BASE_URL", description="another OpenAI-compatible API"
    )


class CallSettings(Settings):
    """A guarded model call: how often and how long it is tried."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_CALL_")

    attempts: int = Field(3, ge=1, le=20, description="tries per model, the first included")
    timeout_s: float = Field(60.0, gt=0, description="give up on one try after this time")
    longest_wait_s: float = Field(2.0, ge=0, description="who would have to wait longer goes to the next model")


class BreakerSettings(Settings):
    """The circuit breaker of each model; all workers must agree."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_BREAKER_")

    failure_threshold: int = Field(5, ge=1, description="failures in a row that open it")
    window_s: float = Field(10.0, ge=0, description="window of the failure rate; 0: only failures in a row count")
    min_calls: int = Field(20, ge=1, description="calls in the window before the rate counts")
    failure_rate: float = Field(0.5, gt=0, le=1, description="share of failed calls in the window that opens it")
    open_s: float = Field(30.0, gt=0, description="first open time; each failed probe doubles it")
    max_open_s: float = Field(300.0, gt=0, description="longest open time")
    max_cooldown_s: float = Field(120.0, gt=0, description="longest pause that a provider's Retry-After can ask for")

    def limits(self, call_timeout_s: float = 60.0) -> BreakerLimits:
        """The breaker's own view of these settings; a probe may take as long as a call, and 5 s."""
        return BreakerLimits(**self.model_dump(), probe_lease_s=call_timeout_s + 5.0)


class BudgetSettings(Settings):
    """Hard limits on tokens and money; all workers must agree. `none`: no limit."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_BUDGET_")

    request_tokens: int | None = Field(10_000, ge=1, description="tokens of one model call, input and output")
    daily_tokens: int | None = Field(1_000_000, ge=1, description="tokens of all workers per day")
    daily_usd: Decimal | None = Field(None, gt=0, description="US dollars of all workers per day")
    user_daily_tokens: int | None = Field(None, ge=1, description="tokens of one user per day")
    user_daily_usd: Decimal | None = Field(None, gt=0, description="US dollars of one user per day")
    task_tokens: int | None = Field(None, ge=1, description="tokens of one task")
    task_usd: Decimal | None = Field(None, gt=0, description="US dollars of one task")
    utc_offset_s: int = Field(0, ge=-43_200, le=50_400, description="the day begins so far east of UTC")
    downgrade_percent: int = Field(
        90, ge=1, le=100, description="above this share of a limit the assistant answers with the simple model"
    )
    prices: dict[str, tuple[Decimal, Decimal]] = Field(
        default_factory=dict,
        description='US dollars per million tokens, input and output, as JSON: {"my-model": [0.5, 1.5]}',
    )

    def limits(self) -> BudgetLimits:
        """The budget's own view of these settings, in nano-dollars."""
        return BudgetLimits(
            request_tokens=self.request_tokens,
            daily_tokens=self.daily_tokens,
            daily_cost_nano_usd=_nano(self.daily_usd),
            user_daily_tokens=self.user_daily_tokens,
            user_daily_cost_nano_usd=_nano(self.user_daily_usd),
            task_tokens=self.task_tokens,
            task_cost_nano_usd=_nano(self.task_usd),
            utc_offset_s=self.utc_offset_s,
        )

    def rates(self) -> dict[str, Rate]:
        """The prices that come before the bundled ones."""
        return {model: Rate(*rate) for model, rate in self.prices.items()}


def _nano(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * 10**9)


class AssistantSettings(Settings):
    """The built-in assistant."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_ASSISTANT_")

    classifier_model: str = Field("gpt-4o-mini", description="says how complex a question is")
    simple_model: str = Field("gpt-4o-mini", description="answers simple questions")
    medium_model: str = Field("gpt-4o", description="answers medium questions")
    complex_model: str = Field("gpt-4o", description="answers complex questions")
    fallback_model: str = Field("gpt-4o-mini", description="answers, with a simpler prompt, when the first one failed")
    max_output_tokens: int = Field(1_000, ge=1, description="longest answer")


class TelemetrySettings(Settings):
    """What a worker tells, to whom. Traces are switched on by OpenTelemetry's own OTEL_EXPORTER_OTLP_ENDPOINT."""

    metrics_port: int | None = Field(
        None, ge=1, le=65_535, description="a worker's port for metrics and probes; more processes take the next ports"
    )
    metrics_host: str = Field("0.0.0.0", description="the address that this port is on")  # noqa: S104 - Prometheus is elsewhere
    audit_key: SecretStr | None = Field(None, description="signs the audit log; without it there is none")
    audit_days: int = Field(90, ge=1, le=3_650, description="keep the audit log this long")
    alert_webhook_url: SecretStr | None = Field(None, description="budget alerts are posted here, over https only")
    alert_webhook_hosts: list[str] = Field(default_factory=list, description="hosts that it may be on, as JSON")
    alert_webhook_key: SecretStr | None = Field(None, description="signs what is posted")


class RedactionSettings(Settings):
    """What becomes of personal data and secrets in results and streamed tokens; in logs they are always masked."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_REDACTION_")

    mode: str = Field("off", pattern="^(off|mask|refuse)$", description="off, mask, or refuse to deliver such a result")
    patterns: dict[str, str] = Field(
        default_factory=dict, description='own regular expressions as JSON: {"case": "CASE-[0-9]{6}"}'
    )
    phone_region: str | None = Field("US", pattern="^[A-Z]{2}$", description="country of phone numbers without a code")

    def redactor(self) -> Redactor:
        """Make what masks results and logs alike. Raises SettingsError: a pattern cannot be used."""
        try:
            return Redactor(self.patterns, self.phone_region)
        except ValueError as error:
            raise SettingsError(f"LGRQ_REDACTION_PATTERNS: {error}") from None


class GatewaySettings(Settings):
    """The HTTP gateway."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_GATEWAY_")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65_535, description="port to listen on; 0: a free one")
    keys: SecretStr | None = Field(None, description="API keys, a line tenant:sha256 each; usually from a file")
    without_keys: bool = Field(default=False, description="let everybody on this machine in, as the default tenant")
    rate: str | None = Field("600/minute", description="tasks of one user; none: no limit")
    open_tasks: int = Field(100_000, ge=1, description="take no further task while so many have not ended")
    heartbeat_s: float = Field(15.0, gt=0, description="a silent event stream shows this often that it lives")
    drain_s: float = Field(10.0, ge=0, description="a gateway that is asked to end waits so long for its requests")
    ping_model: bool = Field(default=False, description="readiness asks the model API, at most every 30 s")
    tls_cert: Path | None = Field(None, description="certificate chain as PEM; with the key: HTTPS only")
    tls_key: Path | None = Field(None, description="its private key as PEM")

    @model_validator(mode="after")
    def _refuse_half_a_certificate(self) -> "GatewaySettings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("LGRQ_GATEWAY_TLS_CERT and LGRQ_GATEWAY_TLS_KEY: expected both or none, got: one")
        return self


class DashboardSettings(Settings):
    """The dashboard of queues, jobs and workers."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_DASHBOARD_")

    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(9181, ge=1, le=65_535, description="its port")
    password: SecretStr | None = Field(None, description="of the user admin; without it one is made up and printed")


ALL: tuple[type[Settings], ...] = (
    RedisSettings,
    QueueSettings,
    TaskSettings,
    WorkerSettings,
    ModelSettings,
    CallSettings,
    BreakerSettings,
    BudgetSettings,
    AssistantSettings,
    TelemetrySettings,
    RedactionSettings,
    GatewaySettings,
    DashboardSettings,
)

S = TypeVar("S", bound=Settings)


def load(settings: type[S], **overrides: Any) -> S:
    """Read one settings class; `overrides` (from a command line) win when not None.

    Raises:
        SettingsError: naming each variable with what was expected and what came.
    """
    try:
        return settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(problem, settings) for problem in error.errors())) from None
    except UnreadableError as error:
        variables = [name for name, field in settings.names().items() if f'"{field}"' in str(error)]
        raise SettingsError(f"{', '.join(variables)}: expected JSON") from None


def _variable(settings: type[Settings], field: str) -> str:
    return next(variable for variable, name in settings.names().items() if name == field)


def _explain(problem: ErrorDetails, settings: type[Settings]) -> str:
    place = str(problem["loc"][0])
    variable, field = next(
        (pair for pair in settings.names().items() if place.upper() in {pair[0], pair[1].upper()}), (place, place)
    )
    info = settings.model_fields.get(field)
    value = "***" if info and "SecretStr" in str(info.annotation) else problem["input"]
    expected = problem["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    return f"{variable}: {expected}, got: {value}"


def refuse_unknown_names(environ: Mapping[str, str] = os.environ) -> None:
    """Refuse `LGRQ_` names that nobody reads, in the environment and in `.env`, with a suggestion.

    Raises:
        SettingsError: naming each.
    """
    known = {name for settings in ALL for name in settings.names()}
    given = [*environ, *_env_file()]
    problems = [
        f"{name}: unknown setting" + (f" (did you mean {close[0]}?)" if close else "")
        for name in dict.fromkeys(given)
        if name.upper().startswith(PREFIX) and name.upper().removesuffix(_FILE.upper()) not in known
        for close in [get_close_matches(name.upper(), known, n=1)]
    ]
    if problems:
        raise SettingsError("; ".join(problems))


def effective(settings: Iterable[Settings]) -> Iterator[tuple[str, str, str]]:
    """Yield (variable, value, description) for people, with secrets masked."""
    for one in settings:
        for variable, field in one.names().items():
            value = getattr(one, field)
            if isinstance(value, SecretStr):
                value = mask_url(value.get_secret_value()) if field.endswith("_url") else "***"
            yield variable, "" if value is None else str(value), type(one).model_fields[field].description or ""


def mask_url(url: str) -> str:
    """Hide the credentials of a URL."""
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    masked = f"{scheme}{separator}***@{host}" if at and credentials else url
    return re.sub(r"(password=)[^&]*", r"\1***", masked)
