"""rq-dashboard as it can be left running: it only looks, asks for a password, and unpickles nothing.

The stock dashboard listens on all addresses without a password, unpickles the fields of whatever job it shows, which
runs any code that a writer to Redis put there, and has buttons that change the queues behind our scripts' back. Here
JSON is the only serializer in the process, nothing but reading is answered, data are shown as text, and Redis is asked
through a client of our own, so that TLS and Sentinel work and no page shows a URL with a password.
"""

import secrets
from typing import Any

from flask import Flask, Response, g, request
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from rq import serializers
from rq.exceptions import DeserializationError
from rq_dashboard import web  # type: ignore[import-untyped]

from langgraph_rq.producer.dashboard.door import Door
from langgraph_rq.producer.dashboard.escaping import EscapedTemplates
from langgraph_rq.producer.dashboard.jobs import corrected
from langgraph_rq.shared.redaction import Redactor

_CHANGES_ON_GET = "rq_dashboard.requeue_all"
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


def make_app(client: Redis, shown_url: str, password: str, redactor: Redactor) -> Flask:
    """Make the web application; `shown_url` is what its pages say about Redis, `redactor` masks errors."""
    _never_unpickle()
    web.config.serializer = _Json
    web.from_url = lambda _url, **_options: (None, client)
    app = Flask("rq_dashboard")
    app.config.update(RQ_DASHBOARD_REDIS_URL=(shown_url,), RQ_DASHBOARD_DISABLE_DELETE=True, DEPRECATED_OPTIONS=[])
    app.jinja_env.add_extension(EscapedTemplates)
    app.jinja_env.globals["csp_nonce"] = _nonce
    app.before_request(Door(password).ask)
    app.before_request(_refuse_changes)
    app.after_request(corrected(client, redactor))
    app.after_request(_harden)
    app.register_error_handler(RedisError, _redis_failed)
    app.register_error_handler(DeserializationError, _not_json)
    app.register_blueprint(web.blueprint)
    web.setup_rq_connection(app)
    return app


class _Json:
    dumps = staticmethod(serializers.JSONSerializer.dumps)

    @staticmethod
    def loads(data: bytes) -> Any:
        """Read JSON; anything else is shown as nothing, so that it hides no other job."""
        try:
            return serializers.JSONSerializer.loads(data)
        except ValueError:
            return None


def _never_unpickle() -> None:
    """Take pickle out of this process: many places in RQ fall back to it when no serializer is given."""
    serializers.DefaultSerializer.loads = _Json.loads
    serializers.DefaultSerializer.dumps = _Json.dumps


def _refuse_changes() -> Response | None:
    if request.method in {"GET", "HEAD"} and request.endpoint != _CHANGES_ON_GET:
        return None
    return Response("this dashboard only looks: use `langgraph-producer`\n", 405, {"Allow": "GET, HEAD"})


def _nonce() -> str:
    """Return the nonce of this response, without which its page runs no script."""
    if "nonce" not in g:
        g.nonce = secrets.token_urlsafe(16)
    return str(g.nonce)


def _harden(response: Response) -> Response:
    response.headers.update(_HEADERS)
    response.headers["Content-Security-Policy"] = _POLICY.format(nonce=_nonce())
    return response


def _redis_failed(error: Any) -> Response:
    reason = "Redis refused to answer" if isinstance(error, ResponseError) else "Redis is away"
    return Response(f"{reason}: {error}\n", 503, {"Retry-After": "5"}, mimetype="text/plain")


def _not_json(_error: Any) -> Response:
    return Response("this job's data is not JSON: it is not shown\n", 422, mimetype="text/plain")
