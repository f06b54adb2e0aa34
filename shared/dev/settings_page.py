"""Write docs/configuration.md from the settings classes: `make config-docs`.

A test compares the page with what this prints, so that it cannot fall behind.
"""

import inspect
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from langgraph_rq.shared.settings import ALL, Settings

_HEAD = """\
# Configuration

<!-- Written by `make config-docs` from shared/settings/. Change it there. -->

Every part reads the same variables; each needs only some of them. Sources, the first wins:

1. the command line, where an option says so,
2. the environment,
3. `NAME_FILE`, a file that holds the value, as container platforms mount secrets,
4. `.env` in the working directory,
5. `/run/secrets/<name in lower case>`.

An empty value is as good as none; `none` takes a limit away. An unknown `LGRQ_` name is an error with a suggestion, a
line of `.env` that is no assignment a warning with its number.
`langgraph-worker --settings` prints what is in force, with secrets masked. Give secrets as files: an environment is
shown by `docker inspect` and inherited by every child process.

The names that others own keep their meaning: `REDIS_URL`, `OPENAI_API_KEY`, `OPENAI_BASE_URL`, and OpenTelemetry's
`OTEL_*`.

`REDIS_URL` takes `redis://`, `rediss://` (TLS, verified; `?ssl_ca_certs=FILE` names a private CA), `unix://`, and for
Sentinel `redis+sentinel://user:password@host:port,host:port/service/db` or `rediss+sentinel://`, with
`sentinel_username` and `sentinel_password` as options. Plain `redis://` to another host is refused unless
`LGRQ_INSECURE_REDIS` says otherwise.
"""


def page() -> str:
    """Answer the page as Markdown."""
    return "\n".join([_HEAD, *(line for settings in ALL for line in _section(settings))])


def _section(settings: type[Settings]) -> Iterator[str]:
    title, *more = (inspect.getdoc(settings) or "").rstrip(".").split(". ")
    yield f"## {title}"
    yield ""
    if more:
        yield f"{'. '.join(more)}."
        yield ""
    yield "| Variable | Default | Range | Meaning |"
    yield "|---|---|---|---|"
    for variable, field in settings.names().items():
        info = settings.model_fields[field]
        yield f"| `{variable}` | {_default(info)} | {_range(info)} | {_cell(info.description or '')} |"
    yield ""


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None and info.annotation is not None and _is_secret(info):
        return "found, see above" if "redis" in (info.description or "").lower() else "none"
    value: Any = info.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    return f"`{value:.10g}`" if isinstance(value, float) else f"`{_cell(str(value))}`"


def _is_secret(info: FieldInfo) -> bool:
    return SecretStr in {info.annotation, *get_args(info.annotation)} or "SecretStr" in str(info.annotation)


def _range(info: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(limit, name):,}"
        for limit in info.metadata
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    found += [f"`{_cell(limit.pattern)}`" for limit in info.metadata if getattr(limit, "pattern", None)]
    return ", ".join(found) or ("a secret" if _is_secret(info) else "")


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    sys.stdout.write(page())
