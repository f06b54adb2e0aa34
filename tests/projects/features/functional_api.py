"""The functional API, async and sync."""

import asyncio
from typing import Any

from langgraph.func import entrypoint, task


@task
async def double(number: int) -> int:
    return 2 * number


@entrypoint()
async def functional(numbers: list[int], *, previous: list[int] | None) -> Any:
    doubled = list(await asyncio.gather(*(double(number) for number in numbers)))
    return entrypoint.final(value={"doubled": doubled, "previous": previous}, save=doubled)


@task
def sync_double(number: int) -> int:
    return 2 * number


@entrypoint()
def sync_functional(numbers: list[int]) -> list[int]:
    return [future.result() for future in [sync_double(number) for number in numbers]]
