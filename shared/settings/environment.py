"""Reading settings from the environment: the base class, the sources of values, and the errors of wrong ones.

Sources, the first wins: environment; `NAME_FILE`, a file that holds the value; `.env` in the working directory;
`/run/secrets/<name in lower case>`. An empty value counts as not set; `none` removes a limit.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from io import StringIO
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableError
from pydantic_settings.sources.utils import parse_env_vars

from langgraph_rq.shared.connections.masked_url import mask_wrong_url
from langgraph_rq.shared.errors import SettingsError

PREFIX = "LGRQ_"
FILE_SUFFIX = "_file"
ENV_FILE = Path(".env")
SECRETS = Path("/run/secrets")
_CHOICES = re.compile(r"\^\(([a-z|]+)\)\$")
"""The pattern of a field that takes one of a few words."""

_log = logging.getLogger(__name__)


def read_env_file() -> dict[str, str | None]:
    """Read `.env` of the working directory; empty if there is none. Raises SettingsError: it cannot be read."""
    return read_variables(ENV_FILE) if ENV_FILE.is_file() else {}


def read_variables(file: Path) -> dict[str, str | None]:
    """Read a file of NAME=VALUE lines. Raises SettingsError: it cannot be read.

    Other programs read it too, so that a line which is no assignment is left out, with one warning per process.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"{file.absolute()}: expected a readable file of settings, got: {reason}") from None
    return dotenv_values(stream=StringIO(_assignments(file.resolve(), text)))


@lru_cache(maxsize=16)
def _assignments(file: Path, text: str) -> str:
    """Return the text of a file without the lines that are no assignments."""
    found = list(parse_stream(StringIO(text)))
    for one in found:
        if one.error:  # not shown: it may hold a secret
            _log.warning("%s: line %d: expected NAME=VALUE; it is ignored", file, one.original.line)
    return "".join(one.original.string for one in found if not one.error)


def file_of(variable: str) -> Path | None:
    """Return the file that holds the value of a variable; None: it comes from elsewhere, or from nowhere."""
    in_env_file = read_env_file()
    named = _given_as(f"{variable}_FILE", os.environ) or _given_as(f"{variable}_FILE", in_env_file)
    mounted = SECRETS / variable.lower()
    if _given_as(variable, os.environ):
        return None
    if named:
        return Path(named)
    return mounted if not _given_as(variable, in_env_file) and mounted.is_file() else None


def source_of(variable: str) -> str:
    """Say where the value of a variable comes from: environment, a file's path, or default."""
    if _given_as(variable, os.environ):
        return "environment"
    file = file_of(variable) or (ENV_FILE if _given_as(variable, read_env_file()) else None)
    return str(file) if file else "default"


def _given_as(name: str, values: Mapping[str, str | None]) -> str | None:
    """Return the value of a name, which may be written in any case; None: it has none, or an empty one."""
    return next((value for given, value in values.items() if value and given.upper() == name), None)


class _FileSource(EnvSettingsSource):
    """Values from the files that `<NAME>_FILE` names, as container platforms mount secrets."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        in_env_file = {name.lower(): path for name, path in read_env_file().items()}
        given = {**in_env_file, **super()._load_env_vars()}
        names = [name.lower() for name in cast("type[Settings]", self.settings_cls).names()]
        return {name: _read_secret(name, Path(path)) for name in names if (path := given.get(name + FILE_SUFFIX))}


def _read_secret(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"{name.upper()}_FILE: expected a readable file, got: {path} ({reason})") from None


class _EnvFileSource(DotEnvSettingsSource):
    """Values of `.env`."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return parse_env_vars(read_env_file(), self.case_sensitive, self.env_ignore_empty, self.env_parse_none_str)


class Settings(BaseSettings):
    """The base of every settings class: where values come from."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        env_parse_none_str="none",
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the files named by `<NAME>_FILE` behind the environment itself."""
        del dotenv_settings  # it would warn of a broken line each time that a class is read
        files = _FileSource(settings_cls), _EnvFileSource(settings_cls)
        return init_settings, env_settings, *files, file_secret_settings

    @model_validator(mode="after")
    def _refuse_empty_secrets(self) -> Self:
        """Refuse an empty file of a secret of ours: what the secret protects would be open, without a word."""
        for variable, field in self.names().items():
            value = getattr(self, field)
            if variable.startswith(PREFIX) and isinstance(value, SecretStr) and not value:
                raise SettingsError(f"{variable}: expected a secret, got: an empty file")
        return self

    @classmethod
    def names(cls) -> dict[str, str]:
        """Map each environment variable of this class to its field."""
        prefix = cls.model_config.get("env_prefix", "")
        fields = cls.model_fields.items()
        return {str(info.validation_alias or f"{prefix}{name}").upper(): name for name, info in fields}

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the environment variable of a field."""
        return next(variable for variable, name in cls.names().items() if name == field)


S = TypeVar("S", bound=Settings)


def load(settings: type[S], **overrides: Any) -> S:
    """Read one settings class; `overrides` (from a command line) win when not None.

    Raises:
        SettingsError: naming each variable with what was expected and what came.
    """
    try:
        return settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(problem, settings) for problem in error.errors())) from None
    except UnreadableError as error:
        raise SettingsError("; ".join(_explain_json(error, settings))) from None


def _explain(problem: ErrorDetails, settings: type[Settings]) -> str:
    place = str(problem["loc"][0])
    variable, field = next(
        (pair for pair in settings.names().items() if place.upper() in {pair[0], pair[1].upper()}), (place, place)
    )
    expected = problem["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    if choices := _CHOICES.fullmatch(problem.get("ctx", {}).get("pattern", "")):
        *others, last = choices[1].split("|")
        expected = f"expected {', '.join(others)} or {last}"
    elif "pattern" in problem.get("ctx", {}):
        expected = f"expected what matches {problem['ctx']['pattern']}"
    elif problem["type"] == "missing":
        expected = "expected a value"
    inside = "".join(f"{part}: " for part in problem["loc"][1:])
    hint = _hint(settings, field) if inside else ""
    return f"{variable}: {inside}{expected}{hint}, got: {_given(settings, field, problem['input'])}"


def _explain_json(error: UnreadableError, settings: type[Settings]) -> Iterator[str]:
    wrong = error.__cause__.doc if isinstance(error.__cause__, JSONDecodeError) else "no JSON"
    for variable, field in settings.names().items():
        if f'"{field}"' in str(error):
            yield f"{variable}: expected JSON{_hint(settings, field)}, got: {_given(settings, field, wrong)}"


def _hint(settings: type[Settings], field: str) -> str:
    """Return the example that the field's description ends with, after `as JSON: `."""
    _, has_example, example = (settings.model_fields[field].description or "").partition("as JSON: ")
    return f" such as {example}" if has_example else ""


def _given(settings: type[Settings], field: str, value: Any) -> str:
    info = settings.model_fields.get(field)
    if info is None or "SecretStr" not in str(info.annotation):
        return str(value)
    return mask_wrong_url(str(value)) if field.endswith("redis_url") else "***"
