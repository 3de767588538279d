"""Waiting for what happens in its own time, with an end to patience."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 15.0
Found = TypeVar("Found")


async def eventually(look: Callable[[], Found]) -> Found:
    """What ``look`` finds, once that is true; other processes and plain loops set no asyncio event."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := look()):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
    return found
