"""Finds out whether anybody still reads the answer to a call.

Gradio tells a handler that its reader has gone when the handler yields, and never a plain function.
A call whose stream is never opened has no reader either. Waiting handlers ask here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TypeVar

import gradio as gr
from gradio.context import LocalContext

from app.api.heartbeats import HEARTBEAT_S, with_heartbeats

Item = TypeVar("Item")


class Reader:
    """The reader of the current call, whose answers may stay unread for `unread_s`."""

    def __init__(self, request: gr.Request | None, unread_s: float) -> None:
        blocks = LocalContext.blocks.get(None)
        self._queue = blocks._queue if blocks is not None else None
        self._event_id = LocalContext.event_id.get(None)
        self._request = request
        self._unread_s = unread_s
        self._read_at = time.monotonic()

    async def gone(self) -> bool:
        """Returns True if the reader has gone, or has not begun to read in time."""
        if self._request is None or self._queue is None:
            return False
        if self._event_id is None:
            # Called directly: the answer belongs to this very request.
            return bool(await self._request.request.is_disconnected())
        event = self._queue.event_ids_to_events.get(self._event_id)
        messages = self._queue.pending_messages_per_session.get(self._request.session_hash)
        if event is None or not event.alive or messages is None:
            return True
        if messages.empty():
            self._read_at = time.monotonic()
        return time.monotonic() - self._read_at > self._unread_s


async def while_read(
    items: AsyncIterator[Item], reader: Reader
) -> AsyncGenerator[Item | None, None]:
    """Yields the items with heartbeats between them; ends early when nobody reads."""
    async with contextlib.aclosing(with_heartbeats(items)) as beating:
        async for item in beating:
            # Not in the heartbeats alone: a run that takes a step every moment has none.
            if await reader.gone():
                return
            yield item


async def answer_for(reader: Reader, answer: Awaitable[Item]) -> Item | None:
    """Returns the answer, or None once nobody waits for it; the request is completed anyway."""
    coming = asyncio.ensure_future(answer)
    while not coming.done():
        await asyncio.wait({coming}, timeout=HEARTBEAT_S)
        if not coming.done() and await reader.gone():
            return None
    return coming.result()
