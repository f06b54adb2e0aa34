"""Run the gateway under uvicorn until it is asked to end."""

import signal
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from langgraph_rq.producer.client.transport.event_feed import READERS
from langgraph_rq.producer.gateway.app import create_app
from langgraph_rq.producer.gateway.connections import Connections, affordable, new_loop
from langgraph_rq.shared.garbage_collection import tune_garbage_collection
from langgraph_rq.shared.settings import GatewaySettings, RedactionSettings, RedisSettings, load, refuse_taken_port
from langgraph_rq.shared.telemetry.logs import configure
from langgraph_rq.shared.telemetry.tracer_provider import exported_spans

_OTHER_FILES = 64
"""Modules, logs, the listening socket, and connections that were accepted and not yet looked at."""


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
    refuse_taken_port(settings)
    configure(redactor=load(RedactionSettings).redactor())
    config = server_config(create_app(settings, redis_url), settings)
    # uvicorn ends gracefully, then raises the signal again for the handler before its own.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    tune_garbage_collection()
    with exported_spans():
        GatewayServer(config).run()


def server_config(app: FastAPI, settings: GatewaySettings) -> uvicorn.Config:
    """Say how uvicorn serves the application, within what this process may open."""
    others = _OTHER_FILES + READERS + 1 + load(RedisSettings).redis_connections
    connections = Connections(
        most=affordable(settings.connections, others), head_s=settings.head_s, stalled_s=settings.stalled_s
    )
    protocol: Any = connections.protocol
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol,
        loop=f"{new_loop.__module__}:{new_loop.__name__}",
        ws="none",
        backlog=connections.backlog,
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=round(settings.drain_s),
    )


def _exit(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)
