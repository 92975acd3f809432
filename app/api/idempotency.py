"""Requests that are sent again: the same key and content get the same run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from app.errors import MalformedBody, ReusedKey

KEPT_S = 24 * 3600.0
MAX_KEPT = 10_000
MAX_KEY_LENGTH = 200
Clock = Callable[[], float]


class _Request(NamedTuple):
    content: str
    run_id: asyncio.Future[str]
    came_at: float


class SentRequests:
    """The runs of requests with a key, of the last day; for one event loop."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[tuple[str, str], _Request] = {}

    async def once(
        self, owner: str, key: str, content: str, submit: Callable[[], Awaitable[str]]
    ) -> str:
        """Returns the run that this owner's request with this key has submitted; submits it if
        there is none, or if it failed.

        Raises ReusedKey if its content was another one, and what `submit` raises.
        """
        if not (0 < len(key) <= MAX_KEY_LENGTH and key.isprintable()):
            raise MalformedBody(
                f"The Idempotency-Key has to be a text of 1 to {MAX_KEY_LENGTH} characters."
            )
        self._forget_old()
        known = self._requests.get((owner, key))
        if known is None:
            run_id = asyncio.ensure_future(submit())
            known = _Request(content, run_id, self._clock())
            self._requests[owner, key] = known
            run_id.add_done_callback(lambda done: self._forget_failed(owner, key, done))
        elif known.content != content:
            raise ReusedKey(
                "This Idempotency-Key came with another request before.",
                hint="Send a new key with each new request.",
            )
        # Others may wait for the same one.
        return await asyncio.shield(known.run_id)

    def _forget_failed(self, owner: str, key: str, done: asyncio.Future[str]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._requests.pop((owner, key), None)

    def _forget_old(self) -> None:
        gone: list[tuple[str, str]] = []
        too_many = len(self._requests) - MAX_KEPT + 1
        # In the order in which they came.
        for name, each in self._requests.items():
            if self._clock() - each.came_at <= KEPT_S and len(gone) >= too_many:
                break
            if each.run_id.done():
                gone.append(name)
        for name in gone:
            del self._requests[name]


def content_of(*parts: Any) -> str:
    """Returns a text that is equal for equal requests, a kept file by its content; reads those."""

    def digest(value: Any) -> str:
        assert isinstance(value, Path)
        return f"file {hashlib.sha256(value.read_bytes()).hexdigest()}"

    written = json.dumps(parts, sort_keys=True, default=digest)
    return hashlib.sha256(written.encode()).hexdigest()
