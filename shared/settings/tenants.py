"""Settings of what each tenant may do and hold."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from langgraph_rq.shared.queue.shares import Share
from langgraph_rq.shared.settings.environment import Settings
from langgraph_rq.shared.tasks import DEFAULT_TENANT


class TenantSettings(Settings):
    """Each tenant but `default`, which is the operator's own; an API key may say otherwise for its tenant."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_TENANT_")

    rate: str | None = Field("6000/minute", description="tasks of one tenant through the gateway; none: no limit")
    open_tasks: int | None = Field(50_000, ge=1, description="tasks of one tenant that have not ended; none: no limit")
    held_bytes: int | None = Field(
        None, ge=1, description="bytes of Redis for one tenant's tasks and results; none: no limit"
    )
    calls: int | None = Field(
        None, ge=1, description="model calls of one tenant in flight, for the workers; none: no limit"
    )
    memory_percent: int = Field(
        70, ge=1, le=99, description="above this share of maxmemory refuse tenants that hold more than an equal part"
    )
    priorities: str = Field(
        "default,low",
        pattern="^(high|default|low)(,(high|default|low))*$",
        description="priorities of one tenant's tasks through the gateway",
    )

    def share(self, tenant: str) -> Share:
        """The queue's own view of these settings for one tenant."""
        if tenant == DEFAULT_TENANT:
            return Share(memory_percent=self.memory_percent)
        return Share(self.open_tasks or 0, self.held_bytes or 0, self.memory_percent)
