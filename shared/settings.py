"""Settings from the environment, one small class per concern, read once at each entry point and passed on as values.

Our own names begin with `LGRQ_` and are strict: an unknown one is an error with a suggestion. Names that others own
(`REDIS_URL`, `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OTEL_*`) keep their names. Sources, the first wins: environment;
`NAME_FILE`, a file that holds the value; `.env` in the working directory; `/run/secrets/<name in lower case>`.
"""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from shared.embedded_redis import LOCAL_SOCKET
from shared.errors import SettingsError
from shared.task_queue import QueueTimes
from shared.tasks import Priority, TaskLimits

PREFIX = "LGRQ_"
SECRETS = Path("/run/secrets")
_OWNED_BY_TESTS = {"LGRQ_REMOVE"}
