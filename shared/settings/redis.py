"""Settings of the connection to Redis."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator

from langgraph_rq.shared.connections.clients import check_url, leaves_host_in_plain
from langgraph_rq.shared.connections.masked_url import mask_url
from langgraph_rq.shared.connections.private_redis import private_url
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings.environment import Settings


def _check_redis_url(url: SecretStr) -> SecretStr:
    check_url(url.get_secret_value())
    return url


RedisUrl = Annotated[SecretStr, AfterValidator(_check_redis_url)]


class RedisSettings(Settings):
    """Where Redis is. Without REDIS_URL: your private one, which `langgraph-producer dev redis` runs."""

    redis_url: RedisUrl = Field(
        default_factory=lambda: SecretStr(private_url()),
        validation_alias="REDIS_URL",
        description="Redis for queue, results, breaker and budget",
    )
    checkpoint_redis_url: RedisUrl | None = Field(None, description="another Redis for checkpoints and the store")
    redis_timeout_s: float = Field(5.0, gt=0, description="give up on one Redis command after this time")
    # A worker keeps four of them for what it does most.
    redis_connections: int = Field(64, ge=8, description="connections of one process at most; further callers wait")
    unsafe_redis: bool = Field(
        default=False, description="accept a Redis that evicts keys or keeps no append-only file: tasks may be lost"
    )
    insecure_redis: bool = Field(
        default=False, description="accept plain redis:// to another host: any host on the way can read and write tasks"
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
                    f"{self.variable(name)}: expected rediss:// (TLS, verified) to another host, got: "
                    f"{mask_url(secret.get_secret_value())}; use rediss:// with ?ssl_ca_certs=FILE for a private CA, "
                    "or accept the risk with LGRQ_INSECURE_REDIS=true"
                )
        return self
