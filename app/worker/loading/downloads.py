"""Models of the hub → this machine: only what is needed of them, told in bytes, resumed, verified.

huggingface_hub knows repositories and lays out its cache. It throws half a file away, though, and
cannot be told to stop; so the weights are streamed here, into the cache's own `blobs`, under the
name that their content has there. A file that is cut off stays as `….incomplete` and goes on at its
last byte, in this run or in another; one whose hash is wrong is not kept.

The main thread never waits for the network: it looks every POLL_S whether the run was cancelled.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from concurrent.futures import TimeoutError as StillRunning
from contextvars import ContextVar
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import (
    HfFileMetadata,
    constants,
    get_cached_repo_tree,
    get_hf_file_metadata,
    get_session,
    hf_hub_url,
    hf_raise_for_status,
    snapshot_download,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from app.errors import LoadError
from app.units import size
from app.workflow.models.hub_errors import GOES_ON, advice, reason
from app.workflow.plan_sources import ModelSource

log = logging.getLogger(__name__)

TEXT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""What is fetched of every repository. Weights are fetched by name; no pickles, no code."""
POLL_S = 0.1
TIMEOUT_S = 20.0
"""How long a connection may be silent before it counts as broken."""
PAUSES_S = (1.0, 2.0, 4.0)
"""Before a broken connection is made anew, as long as nothing arrives; then it is given up."""
PASSING = frozenset({408, 425, 429})
"""What a server that is busy answers, besides what begins with 5."""
T = TypeVar("T")
FILES_AT_A_TIME = 4
SHA256 = re.compile(r"[0-9a-f]{64}")
GIT_BLOB = re.compile(r"[0-9a-f]{40}")
"""What the hub calls a file's content: large ones by their SHA-256, others as git does."""


class Listener(Protocol):
    """Who is told of downloads, and can end them."""

    def checkpoint(self) -> None:
        """Raises what ends the download."""

    def tell_download(
        self, model: str, done_bytes: int, total_bytes: int, seconds_left: float | None
    ) -> None:
        """So much of it is here."""


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """Inside, this thread's downloads are told to the listener, which may end them."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class _Stopped(Exception):
    """The listener has ended the download."""


class _NoRoom(Exception):
    """The disk has too little room for what is still to come."""


class _Damaged(Exception):
    """What arrived is not what the hub says it has."""


def local_folder(
    source: ModelSource, weights: Callable[[list[str]], Iterable[str]] = lambda _files: ()
) -> Path:
    """The folder of a model; of a hub's model what is not on this machine is fetched.

    Of all files of the repository `weights` says which are wanted beside its text files: published
    models hold the same weights several times over, in other precisions and as one large file.
    Raises LoadError with a sentence, and whatever the listener raises.
    """
    if source.folder is not None:
        return Path(source.folder)
    try:
        return _held(source, weights)
    except LocalEntryNotFoundError:
        log.info("Downloading model: %s", source.model)
    download = _Download(source, weights)
    try:
        return _while_listening(download)
    except (_NoRoom, _Damaged) as error:
        raise LoadError(
            f"The model '{source.model}' could not be downloaded: {error}.",
            hint=f"Make room, or set HF_HOME to a folder of another disk. {GOES_ON}"
            if isinstance(error, _NoRoom)
            else "Run it again: the file is then fetched anew.",
        ) from error
    except Exception as error:
        # Refused, unreachable, cut off: the hub's library lets errors of many others through.
        arrived = f" after {size(download.done_bytes)}" if download.done_bytes else ""
        raise LoadError(
            f"The model '{source.model}' is not on this machine and could not be downloaded:"
            f" {reason(error, source.revision)}{arrived}.",
            hint=advice(error, source.model),
            detail=str(error),
        ) from error


def _while_listening(download: _Download) -> Path:
    """Let the download run in a thread of its own, telling how far it is."""
    listener = _listener.get()
    fetched: Future[Path] = Future()

    def fetch() -> None:
        try:
            fetched.set_result(download.run())
        except BaseException as error:  # noqa: BLE001  (it is raised again by who waits)
            fetched.set_exception(error)

    threading.Thread(target=fetch, name="download", daemon=True).start()
    told = -1
    try:
        while True:
            with contextlib.suppress(StillRunning):
                return fetched.result(POLL_S)
            if listener is None:
                continue
            listener.checkpoint()
            done_bytes = download.done_bytes
            if download.total_bytes and done_bytes != told:
                told = done_bytes
                listener.tell_download(
                    download.source.model, done_bytes, download.total_bytes, download.seconds_left
                )
    finally:
        # Who was cancelled does not wait: the streams end at the next bytes that arrive.
        download.stopped.set()


class _Wanted(NamedTuple):
    """One weight file that is not here."""

    path: str
    size_bytes: int
    etag: str | None
    """What its content is called there; None where it has no name that a file could have."""


class _Download:
    """One model on its way."""

    def __init__(self, source: ModelSource, weights: Callable[[list[str]], Iterable[str]]) -> None:
        self.source = source
        self.stopped = threading.Event()
        self.total_bytes = 0
        """Of the weight files that were not here; 0 until that is known."""
        self.done_bytes = 0
        """Of them, here by now: of an earlier download too."""
        self._weights = weights
        self._counting = threading.Lock()
        self._resumed_bytes = 0
        self._started = time.monotonic()

    @property
    def seconds_left(self) -> float | None:
        """From the pace so far."""
        arrived = self.done_bytes - self._resumed_bytes
        if arrived <= 0:
            return None
        passed_s = time.monotonic() - self._started
        return passed_s / arrived * (self.total_bytes - self.done_bytes)

    def run(self) -> Path:
        """Fetch what is missing; the folder."""
        folder = _fetch(self.source, TEXT_FILES, local_files_only=False)
        tree = get_cached_repo_tree(self.source.model, revision=self.source.revision)
        wanted = set(self._weights([file.path for file in tree]))
        missing = {
            file.path: file.size
            for file in tree
            if file.path in wanted and not (folder / file.path).exists()
        }
        if missing:
            self._fetch_files(folder, missing)
        # Every blob is here: what is left is to name them.
        patterns = (*TEXT_FILES, *(escape(name) for name in sorted(wanted)))
        return _fetch(self.source, patterns, local_files_only=False)

    def _fetch_files(self, folder: Path, missing: Mapping[str, int]) -> None:
        """Fetch these files of the snapshot in this folder, which have so many bytes."""
        self.total_bytes = sum(missing.values())
        self._started = time.monotonic()
        # As the hub's cache is laid out: blobs and snapshots/COMMIT/… are neighbours.
        blobs = folder.parents[1] / "blobs"
        blobs.mkdir(exist_ok=True)
        pool = ThreadPoolExecutor(FILES_AT_A_TIME)
        try:
            told = [
                pool.submit(self._looked_up, folder.name, path, size_bytes)
                for path, size_bytes in missing.items()
            ]
            found = [each.result() for each in as_completed(told)]
            self._check_room(blobs, found)
            fetched = [
                pool.submit(self._fetch_file, blobs, folder.name, wanted) for wanted in found
            ]
            for each in as_completed(fetched):
                each.result()
        except BaseException:
            # The others end at their next bytes; what went wrong with this one is told now.
            self.stopped.set()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _looked_up(self, commit: str, path: str, size_bytes: int) -> _Wanted:
        etag = self._metadata(commit, path).etag
        named = etag is not None and re.fullmatch(r"[\w-]+", etag) is not None
        return _Wanted(path, size_bytes, etag if named else None)

    def _metadata(self, commit: str, path: str) -> HfFileMetadata:
        url = hf_hub_url(self.source.model, path, revision=commit)
        return _retried(lambda: get_hf_file_metadata(url, timeout=TIMEOUT_S), self.stopped)

    def _check_room(self, blobs: Path, missing: Iterable[_Wanted]) -> None:
        parts = (_unfinished(blobs, wanted.etag) for wanted in missing if wanted.etag is not None)
        here = sum(part.stat().st_size for part in parts if part.is_file())
        needed, free = self.total_bytes - here, shutil.disk_usage(blobs).free
        if needed > free:
            raise _NoRoom(
                f"it needs {size(needed)} more on the disk of the hub's cache, which has"
                f" {size(free)} free"
            )

    def _fetch_file(self, blobs: Path, commit: str, wanted: _Wanted) -> None:
        etag = wanted.etag
        if etag is None:
            # What has no name there cannot be kept: the library will fetch it in its own way.
            return

        def address() -> tuple[str, dict[str, Any]]:
            """Where the file is now: signed addresses are good for a while only."""
            location = self._metadata(commit, wanted.path).location
            return location, build_hf_headers() if _at_hub(location) else {}

        # Who fetches the same file in another process waits here, the hub's library too.
        lock = Path(constants.HF_HUB_CACHE) / ".locks" / blobs.parent.name / f"{etag}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(str(lock)):
            blob = blobs / etag
            if not blob.exists():
                unfinished = _unfinished(blobs, etag)
                stream = _Stream(unfinished, wanted.size_bytes, etag, self._arrived, self.stopped)
                stream.run(address)
                unfinished.replace(blob)

    def _arrived(self, arrived_bytes: int, *, resumed: bool = False) -> None:
        with self._counting:
            self.done_bytes += arrived_bytes
            self._resumed_bytes += arrived_bytes if resumed else 0


class _Stream:
    """One file on its way."""

    def __init__(
        self,
        file: Path,
        size_bytes: int,
        etag: str,
        arrived: Callable[..., None],
        stopped: threading.Event,
    ) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._etag = etag
        self._arrived = arrived
        self._stopped = stopped
        self._digest = self._new_digest()

    def run(self, address: Callable[[], tuple[str, dict[str, Any]]]) -> None:
        """Fetch what the file lacks, with as many connections as it takes; `address` is asked
        before each of them, for the URL and the headers to send there."""
        self._file.touch()
        with self._file.open("rb") as file:
            while chunk := file.read(1 << 20):
                self._note(chunk)
        self._arrived(self._here, resumed=True)

        def connect() -> None:
            self._connect(*address())
            if self._here < self._size_bytes:
                raise httpx2.RemoteProtocolError("the answer ends before the file does")

        if self._here < self._size_bytes:
            _retried(connect, self._stopped, lambda: self._here)
        if self._here != self._size_bytes or (self._digest and not self._is_whole()):
            self._file.unlink()
            raise _Damaged("a file of it arrived damaged")

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
                # The server knows no ranges: from the start.
                self._digest = self._new_digest()
                self._arrived(-here)
            with self._file.open("wb" if whole else "ab") as file:
                for chunk in answer.iter_bytes():
                    if self._stopped.is_set():
                        raise _Stopped
                    file.write(chunk)
                    self._note(chunk)
                    self._arrived(len(chunk))

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


def _retried(
    attempt: Callable[[], T], stopped: threading.Event, here: Callable[[], int] = lambda: 0
) -> T:
    """What the attempt returns. It is made again where another may go well, after longer and longer
    pauses; those begin anew whenever more is `here` than before."""
    pauses = iter(PAUSES_S)
    while True:
        before = here()
        try:
            return attempt()
        except (httpx2.TransportError, HfHubHTTPError) as error:
            if here() > before:
                pauses = iter(PAUSES_S)
            pause_s = next(pauses, None) if _may_pass(error) else None
            if pause_s is None:
                raise
            # Not the address: that of a content network carries its own signature.
            log.warning("A download broke off (%s) and goes on", type(error).__name__)
        if stopped.wait(pause_s):
            raise _Stopped


def _may_pass(error: Exception) -> bool:
    """Whether the next attempt may go well: with a new connection or a new address, or later."""
    if not isinstance(error, HfHubHTTPError):
        return True
    status = error.response.status_code
    return status in PASSING or status >= 500 or not _at_hub(str(error.response.url))


def _unfinished(blobs: Path, etag: str) -> Path:
    return blobs / f"{etag}.incomplete"


def _at_hub(url: str) -> bool:
    """Whether the person's token may be sent there."""
    return urlsplit(url).netloc == urlsplit(constants.ENDPOINT).netloc


def _held(source: ModelSource, weights: Callable[[list[str]], Iterable[str]]) -> Path:
    """The folder of a model of which all that is wanted is here; nobody is asked.

    Raises LocalEntryNotFoundError where anything is missing.
    """
    folder = _fetch(source, TEXT_FILES, local_files_only=True)
    try:
        tree = get_cached_repo_tree(source.model, revision=source.revision)
    except CachedRepoTreeNotFoundError:
        # An older library fetched it and noted no list: what is there is taken as it is.
        return folder
    wanted = [escape(name) for name in weights([file.path for file in tree])]
    return _fetch(source, (*TEXT_FILES, *wanted), local_files_only=True)


def _fetch(source: ModelSource, patterns: Iterable[str], *, local_files_only: bool) -> Path:
    folder = snapshot_download(
        source.model,
        revision=source.revision,
        allow_patterns=list(patterns),
        local_files_only=local_files_only,
    )
    return Path(folder)
