"""Downloads one file of the hub into the cache's `blobs`: streamed, resumed, verified.

A file that is cut off stays as `….incomplete`; one with a wrong hash is removed.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import (
    HfFileMetadata,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_url,
    hf_raise_for_status,
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from app.shared_work import Share

log = logging.getLogger(__name__)

TIMEOUT_S = 20.0
"""Silence after which a connection counts as broken."""
PAUSES_S = (1.0, 2.0, 4.0)
"""Delays before reconnecting, as long as nothing arrives; then the download fails."""
PASSING = frozenset({408, 425, 429})
"""Statuses of a busy server, besides 5xx."""
SHA256 = re.compile(r"[0-9a-f]{64}")
GIT_BLOB = re.compile(r"[0-9a-f]{40}")
"""The hub's names of contents: SHA-256 for large files, git's hash for others."""

T = TypeVar("T")


class Damaged(Exception):
    """The received content is not what the hub declares."""


class HubFile(NamedTuple):
    """A missing file."""

    path: str
    size_bytes: int
    etag: str | None
    """Name of its content; None where no file could have that name."""


def look_up(model: str, commit: str, path: str, size_bytes: int, share: Share[HubFile]) -> HubFile:
    """Returns the hub's facts about the file of this path."""
    etag = _metadata(model, commit, path, share).etag
    named = etag is not None and re.fullmatch(r"[\w-]+", etag) is not None
    return HubFile(path, size_bytes, etag if named else None)


def _metadata(model: str, commit: str, path: str, share: Share[Any]) -> HfFileMetadata:
    url = hf_hub_url(model, path, revision=commit)
    return _retried(lambda: get_hf_file_metadata(url, timeout=TIMEOUT_S), share)


def fetch_blob(
    model: str, commit: str, cache: Path, blobs: Path, file: HubFile, share: Share[None]
) -> None:
    """Downloads the file's content into `blobs`. Raises Damaged, Cancelled once nobody waits, and
    exceptions of the hub's library."""
    etag = file.etag
    assert etag is not None

    def address() -> tuple[str, dict[str, Any]]:
        """Returns the file's present URL: signed ones are valid for a while only."""
        location = _metadata(model, commit, file.path, share).location
        return location, build_hf_headers() if _at_hub(location) else {}

    # Other processes fetching the same file wait here, including the hub's library.
    lock = cache / ".locks" / blobs.parent.name / f"{etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    share.total_bytes = file.size_bytes
    with WeakFileLock(str(lock)):
        share.check()
        blob = blobs / etag
        if blob.exists():
            share.done_bytes = share.resumed_bytes = file.size_bytes
        else:
            unfinished = unfinished_file(blobs, etag)
            _Stream(unfinished, file.size_bytes, etag, share).run(address)
            unfinished.replace(blob)


class _Stream:
    """One download in progress."""

    def __init__(self, file: Path, size_bytes: int, etag: str, share: Share[None]) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._etag = etag
        self._share = share
        self._digest = self._new_digest()

    def run(self, address: Callable[[], tuple[str, dict[str, Any]]]) -> None:
        """Fetches the rest of the file, with as many connections as needed; `address` gives URL and
        headers for each of them."""
        self._file.touch()
        with self._file.open("rb") as file:
            while chunk := file.read(1 << 20):
                self._share.check()
                self._note(chunk)
        self._share.done_bytes = self._share.resumed_bytes = self._here

        def connect() -> None:
            self._connect(*address())
            if self._here < self._size_bytes:
                raise httpx2.RemoteProtocolError("the answer ends before the file does")

        if self._here < self._size_bytes:
            _retried(connect, self._share, lambda: self._here)
        if self._here != self._size_bytes or (self._digest and not self._is_whole()):
            self._file.unlink()
            raise Damaged("a file of it arrived damaged")

    @property
    def _here(self) -> int:
        return self._file.stat().st_size

    def _connect(self, url: str, headers: dict[str, Any]) -> None:
        here = self._here
        asked = {**headers, "Accept-Encoding": "identity", "Range": f"bytes={here}-"}
        with get_session().stream("GET", url, headers=asked, timeout=TIMEOUT_S) as answer:
            hf_raise_for_status(answer)
            whole = answer.status_code == httpx2.codes.OK
            if whole and here:
                # The server does not support ranges: from the start.
                self._digest = self._new_digest()
                self._share.done_bytes = self._share.resumed_bytes = 0
            with self._file.open("wb" if whole else "ab") as file:
                for chunk in answer.iter_bytes():
                    self._share.check()
                    file.write(chunk)
                    self._note(chunk)
                    self._share.done_bytes += len(chunk)

    def _new_digest(self) -> Any:
        if SHA256.fullmatch(self._etag):
            return hashlib.sha256()
        if GIT_BLOB.fullmatch(self._etag):
            return hashlib.sha1(b"blob %d\0" % self._size_bytes, usedforsecurity=False)
        return None

    def _note(self, chunk: bytes) -> None:
        if self._digest is not None:
            self._digest.update(chunk)

    def _is_whole(self) -> bool:
        return bool(self._digest.hexdigest() == self._etag)


def _retried(attempt: Callable[[], T], share: Share[Any], here: Callable[[], int] = lambda: 0) -> T:
    """Returns the result of the attempt, repeated where that may succeed, after growing pauses;
    these start again whenever more is `here` than before."""
    pauses = iter(PAUSES_S)
    while True:
        share.check()
        before = here()
        try:
            return attempt()
        except (httpx2.TransportError, HfHubHTTPError) as error:
            if here() > before:
                pauses = iter(PAUSES_S)
            pause_s = next(pauses, None) if _may_pass(error) else None
            if pause_s is None:
                raise
            # Not the URL: that of a content network contains its own signature.
            log.warning("A download broke off (%s) and goes on", type(error).__name__)
        share.pause(pause_s)


def _may_pass(error: Exception) -> bool:
    """Returns True if another attempt may succeed: with a new connection or URL, or later."""
    if not isinstance(error, HfHubHTTPError):
        return True
    status = error.response.status_code
    return status in PASSING or status >= 500 or not _at_hub(str(error.response.url))


def unfinished_file(blobs: Path, etag: str) -> Path:
    """Returns the path of a file's content until it is complete."""
    return blobs / f"{etag}.incomplete"


def _at_hub(url: str) -> bool:
    """Returns True if the person's token may be sent there."""
    return urlsplit(url).netloc == urlsplit(constants.ENDPOINT).netloc
