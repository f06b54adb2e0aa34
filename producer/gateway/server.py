"""Run the gateway under uvicorn until it is asked to end."""

import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from langgraph_rq.producer.gateway.app import create_app
from langgraph_rq.shared.settings import GatewaySettings, RedactionSettings, load
from langgraph_rq.shared.telemetry.logs import configure


class GatewayServer(uvicorn.Server):
    """uvicorn that ends open event streams first: their clients go on at another process after their last event."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what would never end by itself, then as uvicorn does."""
        app = self.config.app
        assert isinstance(app, FastAPI)
        app.state.gateway.client.end_waits()
        await super().shutdown(sockets)


def serve(settings: GatewaySettings, redis_url: str | None = None) -> None:
    """Serve on `settings.host` and `settings.port`; SIGTERM and SIGINT let requests end."""
    configure(redactor=load(RedactionSettings).redactor())
    app = create_app(settings, redis_url)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=round(settings.drain_s),
    )
    # uvicorn ends gracefully, then raises the signal again for the handler before its own.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    GatewayServer(config).run()


def _exit(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)
