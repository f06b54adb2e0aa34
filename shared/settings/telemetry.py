"""Settings of metrics, audit log, alerts, and the redaction of personal data."""

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.settings.environment import Settings
from langgraph_rq.shared.signing import SHORTEST_KEY


class TelemetrySettings(Settings):
    """Metrics, audit log and alerts. Traces are enabled by OpenTelemetry's own OTEL_EXPORTER_OTLP_ENDPOINT."""

    metrics_port: int | None = Field(
        None, ge=1, le=65_535, description="a worker's port for metrics and probes; more processes take the next ports"
    )
    metrics_host: str = Field("0.0.0.0", description="the address that this port is on")  # noqa: S104 - Prometheus is elsewhere
    audit_key: SecretStr | None = Field(
        None, description="signs the audit log, 32 characters or more; without it there is no audit log"
    )
    audit_worker_key: SecretStr | None = Field(
        None, description="signs the workers' part of the audit log and its anchors; not for producers"
    )
    audit_days: int = Field(90, ge=1, le=3_650, description="keep the audit log this long")
    alert_webhook_url: SecretStr | None = Field(None, description="budget alerts are posted here, over https only")
    alert_webhook_hosts: list[str] = Field(
        default_factory=list, description="hosts that the webhook may be on, as JSON"
    )
    alert_webhook_key: SecretStr | None = Field(None, description="signs what is posted")

    @model_validator(mode="after")
    def _refuse_short_keys(self) -> "TelemetrySettings":
        for name in ("audit_key", "audit_worker_key"):
            key: SecretStr | None = getattr(self, name)
            if key and len(key.get_secret_value()) < SHORTEST_KEY:
                raise SettingsError(
                    f"{self.variable(name)}: expected {SHORTEST_KEY} characters or more, got: "
                    f"{len(key.get_secret_value())}; `openssl rand -hex 32` writes such a key"
                )
        return self

    @property
    def workers_audit_key(self) -> str | None:
        """The key with which a worker signs; None: it writes no audit log."""
        key = self.audit_worker_key or self.audit_key
        return key.get_secret_value() if key else None


class RedactionSettings(Settings):
    """What becomes of personal data and secrets in results and streamed tokens; in logs they are always masked."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_REDACTION_")

    mode: str = Field("off", pattern="^(off|mask|refuse)$", description="off, mask, or refuse to deliver such a result")
    patterns: dict[str, str] = Field(
        default_factory=dict, description='own regular expressions (RE2) as JSON: {"case": "CASE-[0-9]{6}"}'
    )
    phone_region: str | None = Field("US", pattern="^[A-Z]{2}$", description="country of phone numbers without a code")

    def redactor(self) -> Redactor:
        """Make what masks results and logs alike. Raises SettingsError: a pattern cannot be used."""
        try:
            return Redactor(self.patterns, self.phone_region)
        except ValueError as error:
            raise SettingsError(f"LGRQ_REDACTION_PATTERNS: {error}") from None
