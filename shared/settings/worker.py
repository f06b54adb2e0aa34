"""Settings of a worker process."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from langgraph_rq.shared.settings.environment import Settings


class WorkerSettings(Settings):
    """One worker process."""

    worker_concurrency: int = Field(100, ge=1, le=10_000, description="tasks in flight per process")
    worker_input_bytes: int = Field(
        256_000_000, ge=1, description="a process claims nothing while the inputs of its tasks are larger than this"
    )
    waiting_attempts: int = Field(
        500,
        ge=0,
        le=10_000,
        description="attempts of a process that have paid for calls and keep them in memory while they wait",
    )
    worker_processes: int = Field(1, ge=1, le=256, description="worker processes")
    config: Path = Field(Path("langgraph.json"), description="the langgraph.json that names the graphs")
    require_auth: bool = Field(
        default=False, description="refuse a langgraph.json with auth, which has no effect here, instead of a warning"
    )
    checkpoints: bool = Field(default=True, description="keep checkpoints in Redis")
    answer_journal: bool = Field(
        default=False,
        description="keep the answers of chat models until the checkpoint behind their node: "
        "a crash or a wait pays for none twice",
    )
    state: Literal["redis", "redis-stack", "postgres"] = Field(
        "redis",
        description="where state is kept: redis needs no modules; redis-stack needs JSON and search and is not fenced; "
        "postgres needs LGRQ_STATE_URL and the extra of that name",
    )
    store_scan_items: int = Field(
        10_000, ge=1, description="the most items, or namespaces, that one search of the store looks at"
    )
    store_index: Literal["scan", "vector-sets"] = Field(
        "scan",
        description="how the store searches by meaning: scan compares all embeddings and needs nothing; vector-sets "
        "needs LGRQ_STATE=redis on Redis 8.0 or later, and no LGRQ_STATE_KEY",
    )
    stream_usage: bool = Field(
        default=True, description="let unchanged ChatOpenAI models ask for the usage of their streams"
    )
    drain_s: float = Field(30.0, ge=0, description="a worker that is asked to end waits so long for what runs")
    cancel_grace_s: float = Field(
        5.0,
        ge=0.1,
        description="a run that is cancelled or late gets so long to end before it is abandoned",
    )
    thread_ttl_s: float = Field(604_800.0, gt=0, description="keep the checkpoints of a thread this long")
    thread_keep: int = Field(
        100, ge=0, description="keep so many of the newest checkpoints of a thread and namespace; 0: all"
    )
    checkpoint_ttl_s: float = Field(
        60.0, gt=0, description="keep the checkpoints of a task without thread this long after its success"
    )
    error_detail: str = Field(
        "frames",
        pattern="^(class|message|frames)$",
        description="what is recorded of an exception that ends a task: class, message, or frames as well",
    )
    node_cache_ttl_s: float = Field(
        86_400.0,
        ge=0,
        description="share the results of nodes with a CachePolicy, so long at most; 0: each process caches its own",
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error")


class StateSettings(Settings):
    """What is kept of the graphs' state: checkpoints and the store; all workers must agree."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_STATE_")

    types: str = Field(
        "",
        description="further classes that state may hold: module:Class,module:Class; those of the graphs' schemas may",
    )
    key: SecretStr | None = Field(
        None,
        description="secrets that encrypt state, separated by commas: the first writes, all read; plain: no encryption",
    )
    url: SecretStr | None = Field(
        None,
        description="Postgres for LGRQ_STATE=postgres: postgresql://user:password@host/database?sslmode=verify-full",
    )
    connections: int = Field(
        16, ge=2, description="connections of one process to Postgres at most; further callers wait"
    )
