"""The dashboard's app for a test, which restores what the app patches in RQ."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from flask import Flask
from redis import Redis
from rq.serializers import DefaultSerializer
from rq_dashboard import web

from langgraph_rq.producer.dashboard.app import make_app
from langgraph_rq.shared.redaction import Redactor


@contextmanager
def dashboard_app(client: Redis, shown_url: str, password: str) -> Iterator[Flask]:
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (DefaultSerializer, "loads"),
            (DefaultSerializer, "dumps"),
            (web.config, "serializer"),
            (web, "from_url"),
        ):
            patch.setattr(owner, name, getattr(owner, name))
        yield make_app(client, shown_url, password, Redactor())
