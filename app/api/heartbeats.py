"""Streams that show that they live, however long their next item takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

HEARTBEAT_S = 1.0

Item = TypeVar("Item")


async def with_heartbeats(
    items: AsyncIterator[Item], interval_s: float = HEARTBEAT_S
) -> AsyncGenerator[Item | None, None]:
    """Yields the items as they come, and None for each interval without one."""
    coming: asyncio.Future[Item] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(items))
            done, _ = await asyncio.wait({coming}, timeout=interval_s)
            if not done:
                yield None
                continue
            arrived, coming = coming, None
            try:
                item = arrived.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if coming is not None:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await coming
        if isinstance(items, AsyncGenerator):
            await items.aclose()
