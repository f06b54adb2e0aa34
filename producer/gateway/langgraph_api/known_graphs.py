"""The graphs of the assistants that runs were started with lately, so that a run need not look its own up."""

import time

_KEPT_S = 10.0
"""A graph that is forgotten meanwhile is refused when the run is submitted."""


class KnownGraphs:
    """Graphs by what they were asked for by: an assistant's id or their name."""

    def __init__(self) -> None:
        self._graphs: dict[str, tuple[str, float]] = {}

    def add(self, assistant: str, graph: str) -> None:
        """Remember a graph that was found."""
        self._graphs[assistant] = graph, time.monotonic() + _KEPT_S

    def get(self, assistant: str) -> str | None:
        """Return the graph; None: look it up."""
        graph, until = self._graphs.get(assistant, (None, 0.0))
        return graph if time.monotonic() < until else None
