"""Settings of the HTTP gateway and of the dashboard."""

import os
import re
import socket
from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings.environment import Settings

_ORIGIN = re.compile(r"https?://[^/?#\s@]+")


class GatewaySettings(Settings):
    """The HTTP gateway."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_GATEWAY_")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65_535, description="port to listen on; 0: a free one")
    keys: SecretStr | None = Field(None, description="API keys, a line tenant:sha256 each; usually from a file")
    without_keys: bool = Field(default=False, description="let everybody on this machine in, as the default tenant")
    metrics_key: SecretStr | None = Field(None, description="what /metrics asks for as a key; none: it is open")
    rate: str | None = Field("600/minute", description="tasks of one user; none: no limit")
    open_tasks: int = Field(100_000, ge=1, description="take no further task while so many have not ended")
    heartbeat_s: float = Field(15.0, gt=0, description="time between heartbeats of an event stream without events")
    connections: int = Field(5_000, ge=16, description="connections of one process, as far as it may open files")
    streams: int = Field(2_500, ge=1, description="open event streams of one process")
    tenant_streams: int = Field(500, ge=1, description="open event streams of one tenant in one process")
    head_s: float = Field(10.0, gt=0, description="close a connection on which no request has begun after this time")
    body_s: float = Field(30.0, gt=0, description="refuse a request whose body has not arrived after this time")
    stalled_s: float = Field(60.0, gt=0, description="close a connection that takes nothing of its answer for so long")
    drain_s: float = Field(10.0, ge=0, description="a gateway that is asked to end waits so long for its requests")
    ping_model: bool = Field(default=False, description="readiness asks the model API, at most every 30 s")
    tls_cert: Path | None = Field(None, description="certificate chain as PEM; with the key: HTTPS only")
    tls_key: Path | None = Field(None, description="its private key as PEM")

    @model_validator(mode="after")
    def _refuse_half_a_certificate(self) -> "GatewaySettings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("LGRQ_GATEWAY_TLS_CERT and LGRQ_GATEWAY_TLS_KEY: expected both or none, got: one")
        return self


class CorsSettings(Settings):
    """Web pages of other origins that may call the HTTP gateway."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_CORS_")

    origins: str | None = Field(
        None, description="separated by commas, such as https://chat.example.org; * is all, with API keys only"
    )

    def list_origins(self, *, is_keyless: bool) -> list[str]:
        """List them; none if none may.

        Raises:
            SettingsError: one is no origin, or it is every one and there are no keys.
        """
        found = [origin.strip() for origin in (self.origins or "").split(",") if origin.strip()]
        for origin in found:
            if origin == "*" and is_keyless:
                raise SettingsError(
                    "LGRQ_CORS_ORIGINS: expected the origins of your own pages: without API keys any web page that "
                    "is open could spend money; got: *"
                )
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"LGRQ_CORS_ORIGINS: expected origins such as https://chat.example.org (no path), got: {origin}"
                )
        return found


def refuse_taken_port(settings: "GatewaySettings | DashboardSettings") -> None:
    """Listen for a moment where a server is about to.

    Raises:
        SettingsError: another program has the port, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror  # below 0: of a name
        raise SettingsError(
            f"{settings.variable('port')}: expected a port to listen on, got: {settings.host}:{settings.port} "
            f"({reason}); choose another with --port"
        ) from None


class DashboardSettings(Settings):
    """The dashboard of queues, jobs and workers."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_DASHBOARD_")

    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(9181, ge=1, le=65_535, description="its port")
    password: SecretStr | None = Field(None, description="of the user admin; without it one is made up and printed")
