"""Settings from the environment: one small class per concern, read once at each entry point and passed on as values.

Names of ours begin with `LGRQ_` and are strict: an unknown one is an error with a suggestion. Names that others own
(`REDIS_URL`, `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OTEL_*`) keep their names. Start with `environment`, which reads
them; `catalogue` lists all classes.
"""

from langgraph_rq.shared.connections.masked_url import mask_url
from langgraph_rq.shared.settings.catalogue import ALL, effective, refuse_unknown_names
from langgraph_rq.shared.settings.environment import Settings, load
from langgraph_rq.shared.settings.gateway import CorsSettings, DashboardSettings, GatewaySettings, refuse_taken_port
from langgraph_rq.shared.settings.guards import BreakerSettings, BudgetSettings, PaceSettings
from langgraph_rq.shared.settings.models import AssistantSettings, CallSettings, ModelSettings
from langgraph_rq.shared.settings.redis import RedisSettings
from langgraph_rq.shared.settings.tasks import QueueSettings, TaskSettings
from langgraph_rq.shared.settings.telemetry import RedactionSettings, TelemetrySettings
from langgraph_rq.shared.settings.tenants import TenantSettings
from langgraph_rq.shared.settings.worker import StateSettings, WorkerSettings

__all__ = [
    "ALL",
    "AssistantSettings",
    "BreakerSettings",
    "BudgetSettings",
    "CallSettings",
    "CorsSettings",
    "DashboardSettings",
    "GatewaySettings",
    "ModelSettings",
    "PaceSettings",
    "QueueSettings",
    "RedactionSettings",
    "RedisSettings",
    "Settings",
    "StateSettings",
    "TaskSettings",
    "TelemetrySettings",
    "TenantSettings",
    "WorkerSettings",
    "effective",
    "load",
    "mask_url",
    "refuse_taken_port",
    "refuse_unknown_names",
]
