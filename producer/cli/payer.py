"""The options that name a tenant or a user, refused where no task can have such a name."""

from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from langgraph_rq.shared.errors import InvalidInputError, Violation
from langgraph_rq.shared.explaining import EXPECTED
from langgraph_rq.shared.tasks import Name, Tenant


class _TaskName(click.ParamType[str]):
    """What a field of a task may hold.

    Args:
        name: The field.
        kind: Its type.
    """

    def __init__(self, name: str, kind: Any) -> None:
        self.name = name
        self._adapter: TypeAdapter[str] = TypeAdapter(kind)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        del ctx
        try:
            return self._adapter.validate_python(value)
        except ValidationError:
            option = param.opts[0] if param else self.name
            raise InvalidInputError(Violation(option, EXPECTED[self.name], repr(value)[:60])) from None


TENANT = _TaskName("tenant", Tenant)
USER = _TaskName("user_id", Name)
