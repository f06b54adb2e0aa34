"""Whether the model API answers: asked only when the operator wants it, and not often."""

import asyncio
import time
from urllib.error import URLError
from urllib.request import Request, urlopen

from langgraph_rq.producer.gateway.answers import PartAnswer

_KEPT_S = 30.0
_TIMEOUT_S = 5.0
_DEFAULT_URL = "https://api.openai.com/v1"


class ModelPing:
    """Asks the model API for its list of models, which costs nothing, at most every `_KEPT_S`."""

    def __init__(self, url: str | None, key: str | None) -> None:
        self._request = Request(  # noqa: S310 - the operator's own setting
            f"{(url or _DEFAULT_URL).rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"}
        )
        self._asked_at = -_KEPT_S
        self._answer = PartAnswer(ready=False, detail="not asked yet")
        self._asking = asyncio.Lock()

    async def ask(self) -> PartAnswer:
        """Say whether the API answered, now or a while ago."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= _KEPT_S:
                self._answer = await asyncio.to_thread(self._ask)
                self._asked_at = time.monotonic()
        return self._answer

    def _ask(self) -> PartAnswer:
        try:
            with urlopen(self._request, timeout=_TIMEOUT_S) as response:  # noqa: S310
                return PartAnswer(ready=response.status == 200, detail=f"HTTP {response.status}")
        except (URLError, OSError, ValueError) as error:
            return PartAnswer(ready=False, detail=type(error).__name__)
