"""Terms by which threads are found: the pairs at the top of their metadata, and the graph of their newest run.

A term is an index only: whether a thread matches is decided by its row.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any

MOST_TERMS = 16
"""Pairs of one thread that are listed; one with more is listed under `OVERFLOW` besides."""
MOST_GROUPS = 16
OVERFLOW = "more"
"""The term of threads that have more pairs than are listed."""
_GRAPH = "graph:"
"""Before the graph of a thread's newest run, as list_run in thread_rows.lua writes it."""


def terms_of(metadata: Mapping[str, Any]) -> list[str]:
    """Return the terms of a thread's metadata."""
    terms = [_pair(name, metadata[name]) for name in sorted(metadata)]
    return terms if len(terms) <= MOST_TERMS else [*terms[:MOST_TERMS], OVERFLOW]


def groups_for(metadata: Mapping[str, Any], graphs: Mapping[str, str | None]) -> list[list[str]]:
    """Return groups of terms: a thread whose metadata contain these has one term of each group.

    An object or a list among the values may be a part of what a thread has, so that it is no term.

    Args:
        metadata: What is asked for.
        graphs: Of the keys that show a thread's graph in one form or another, which graph is asked for; None: it is not
            known, and the key is no term.
    """
    groups = []
    for name, value in metadata.items():
        graph = graphs.get(name)
        if not isinstance(value, dict | list) and (graph or name not in graphs):
            # Terms are told apart by line breaks, which no graph's name has.
            of_graph = [_GRAPH + graph] if graph and "\n" not in graph else []
            groups.append([_pair(name, value), OVERFLOW, *of_graph])
    return groups[:MOST_GROUPS]


def _pair(name: str, value: Any) -> str:
    # 1 and 1.0, and true and 1, are equal where metadata are compared.
    with suppress(OverflowError):
        value = float(value) if isinstance(value, bool | int) else value
    return sha256(json.dumps([name, value], sort_keys=True).encode()).hexdigest()[:16]
