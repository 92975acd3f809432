"""Disk cache of media behind URLs: revalidated on each use, downloaded again only when changed.

A file is named by the SHA-256 of its content, so the file of a queued run cannot change. A small
record, named by the hash of the URL, holds the file last received and its validators.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from app.errors import FetchError
from app.frozen import Frozen
from app.media.fetch import TIMEOUT_S, Answer, Unreachable, open_url, shown, status_error
from app.media.files import ACCEPTED, KIND_NAMES, MediaKind, WrongMediaError, suffix_of
from app.outputs import replacing
from app.settings import MediaLimits, UrlSettings
from app.unfinished import part_file
from app.units import size

log = logging.getLogger(__name__)

FOLDER = ".media"
RECORD = ".json"
STALE_AFTER_S = 2 * TIMEOUT_S
"""Age at which an unfinished download counts as left over from a process that died."""
MAX_FRESH_S = 3600.0
"""Upper bound of a server's `max-age`."""
MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})")
PLAIN_TYPES = {"", "application/octet-stream", "binary/octet-stream"}
"""Content types that say nothing about the content."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes received and the total, None where the server does not say."""


class MediaFile(Frozen):
    """The file received from a URL."""

    url: str
    sha256: str
    """SHA-256 of the content; with the suffix the file's name."""
    suffix: str
    size_bytes: int
    etag: str = ""
    last_modified: str = ""
    fresh_until: float = 0.0
    """Unix time in seconds until which the server need not be asked."""


class MediaCache:
    """LRU cache of files by URL, bounded in bytes, below one folder.

    A file held for a holder (a run, say) is not evicted until the holder is released.
    """

    def __init__(self, outputs: Path, settings: UrlSettings, limits: MediaLimits) -> None:
        self._folder = outputs / FOLDER
        self._settings = settings
        self._limits = limits
        self._held: dict[str, set[MediaFile]] = {}
        self._admitted: set[str] = set()
        """Holders whose files fit; the files of the next one must fit beside them."""
        self._removing = threading.Lock()
        """Held while files are evicted, and while an existing file becomes held."""

    def path(self, file: MediaFile) -> Path:
        return self._folder / f"{file.sha256}{file.suffix}"

    def fetch(
        self,
        url: str,
        kind: MediaKind,
        *,
        tell: Progress = lambda _done, _total: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> MediaFile:
        """Returns the file now behind the URL, or the last one received where there is no network.

        Raises FetchError with a sentence, Cancelled once `stopped()`.
        """
        if not self._settings.media_urls:
            raise FetchError(f"{shown(url)} is not fetched: this server fetches no URLs.")
        known = self.find(url)
        if known is not None and known.fresh_until > time.time():
            return self._of_kind(known, kind)
        asked = {}
        if known is not None and known.etag:
            asked["If-None-Match"] = known.etag
        if known is not None and known.last_modified:
            asked["If-Modified-Since"] = known.last_modified
        try:
            hosts = self._settings.media_hosts
            with open_url(url, asked, hosts=hosts, stopped=stopped) as answer:
                if answer.status >= 400:
                    raise status_error(url, answer)
                if answer.status == 304 and known is not None:
                    found = known.model_copy(update={"fresh_until": _fresh_until(answer)})
                    self._note(found)
                elif answer.status == 200:
                    found = self._keep(url, kind, answer, tell)
                else:
                    raise FetchError(
                        f"{shown(url)} could not be fetched: the server answers {answer.status}."
                    )
        except Unreachable as error:
            if known is None:
                raise
            log.warning("%s What lay there last is used.", error.message)
            found = known
        return self._of_kind(found, kind)

    def fill(self, url: str, kind: MediaKind, file: Path, fresh_s: int = 0) -> MediaFile:
        """Stores this file as if it had been fetched from the URL, fresh for `fresh_s`. Raises
        FetchError where it is not of that kind."""
        told = {"cache-control": f"max-age={fresh_s}"}
        answer = Answer(200, told, iter([file.read_bytes()]))
        return self._keep(url, kind, answer, lambda _done, _total: None)

    def find(self, url: str) -> MediaFile | None:
        """Returns the file last received from the URL; None where it is gone."""
        try:
            noted = json.loads(self._record(url).read_bytes())
            found = MediaFile.model_validate({**noted, "url": url})
        except (OSError, ValueError, TypeError):
            return None
        return found if self.path(found).is_file() else None

    def hold(self, file: MediaFile, holder: str) -> bool:
        """Keeps the file until the holder is released; False where it has been evicted."""
        with self._removing:
            if not self.path(file).is_file():
                return False
            self._held.setdefault(holder, set()).add(file)
            return True

    def release(self, holder: str) -> None:
        """Releases the files held for this holder; they are evicted when room is needed."""
        with self._removing:
            self._held.pop(holder, None)
            self._admitted.discard(holder)

    def admit(self, holder: str) -> None:
        """Evicts the least recently used files down to the bound, never a held one. Raises
        FetchError where the files held for this holder do not fit beside those of the holders
        admitted before it: of two that come at once, one is admitted."""
        bound_bytes = self._settings.media_cache_bytes
        with self._removing:
            own_bytes = self._held_bytes({holder})
            needed_bytes = self._held_bytes({holder, *self._admitted})
            if needed_bytes <= bound_bytes:
                self._admitted.add(holder)
            held = {file for files in [*self._held.values()] for file in files}
            kept = {path for each in held for path in (self.path(each), self._record(each.url))}
            files = self._files()
            total_bytes = sum(status.st_size for _, status in files)
            for file, status in sorted(files, key=lambda each: each[1].st_mtime_ns):
                if total_bytes <= bound_bytes:
                    break
                arriving = (
                    file.name.startswith(".") and status.st_mtime > time.time() - STALE_AFTER_S
                )
                if file not in kept and not arriving:
                    file.unlink(missing_ok=True)
                    total_bytes -= status.st_size
        if needed_bytes <= bound_bytes:
            return
        if own_bytes > bound_bytes:
            raise FetchError(
                f"The media of this run have {size(own_bytes)}; {size(bound_bytes)} are kept.",
                hint="DW_MEDIA_CACHE_BYTES raises that.",
            )
        raise FetchError(
            f"The media of this run have {size(own_bytes)}, and those of the runs before it"
            f" {size(needed_bytes - own_bytes)}; {size(bound_bytes)} are kept.",
            hint="Run it again when they have ended, or raise DW_MEDIA_CACHE_BYTES.",
        )

    def _held_bytes(self, holders: set[str]) -> int:
        """Returns the bytes held for these holders; one file behind two URLs counts once."""
        sizes = {
            file.sha256: file.size_bytes
            for holder in holders
            for file in self._held.get(holder, ())
        }
        return sum(sizes.values())

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for file in self._folder.glob("*"):
            # Another process may remove it at the same moment.
            with contextlib.suppress(FileNotFoundError):
                found.append((file, file.stat()))
        return found

    # --- one answer ------------------------------------------------------------------------------

    def _keep(self, url: str, kind: MediaKind, answer: Answer, tell: Progress) -> MediaFile:
        """Stores the body after checking its type and size."""
        _check_type(url, kind, answer.headers.get("content-type", ""))
        declared = answer.headers.get("content-length", "")
        total = int(declared) if declared.isascii() and declared.isdigit() else None
        limit = self._settings.media_file_bytes
        if total is not None and total > limit:
            raise _too_large(url, limit)
        digest, done = hashlib.sha256(), 0
        with self._new_file() as (file, temporary):
            tell(done, total)
            for part in answer.parts:
                done += len(part)
                if done > limit:
                    raise _too_large(url, limit)
                digest.update(part)
                file.write(part)
                tell(done, total)
            file.flush()
            if total is not None and done < total:
                raise Unreachable(f"{shown(url)} could not be fetched: the answer breaks off.")
            try:
                suffix = suffix_of(temporary, kind, self._limits, _name_of(url))
            except WrongMediaError as error:
                raise FetchError(f"{shown(url)} was fetched, but {error}") from None
            found = MediaFile(
                url=url,
                sha256=digest.hexdigest(),
                suffix=suffix,
                size_bytes=done,
                etag=answer.headers.get("etag", ""),
                last_modified=answer.headers.get("last-modified", ""),
                fresh_until=_fresh_until(answer),
            )
            temporary.chmod(0o644)
            temporary.replace(self.path(found))
        self._note(found)
        return found

    def _of_kind(self, found: MediaFile, kind: MediaKind) -> MediaFile:
        """Returns the file, marked as used; raises FetchError where its kind does not fit.

        The same file may be used as video and as audio.
        """
        path = self.path(found)
        if found.suffix not in ACCEPTED[kind]:
            raise FetchError(
                f"{shown(found.url)} is not a {KIND_NAMES[kind]}: its content is '{found.suffix}'."
            )
        with contextlib.suppress(OSError):
            os.utime(path)
        return found

    @contextlib.contextmanager
    def _new_file(self) -> Iterator[tuple[IO[bytes], Path]]:
        """Opens a temporary file, removed afterwards unless it was moved."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with part_file(self._folder) as (file, temporary):
                yield file, temporary
        except OSError as error:
            raise FetchError(f"The download could not be stored ({error}).") from error

    def _note(self, found: MediaFile) -> None:
        try:
            with replacing(self._record(found.url)) as file:
                # Without the URL, which may give access to the file; the record's name is the URL's
                # hash.
                file.write(found.model_dump_json(exclude={"url"}).encode())
        except OSError as error:
            # The file itself is stored; the next run downloads it again.
            log.warning("The cache record of %s could not be written: %s", shown(found.url), error)

    def _record(self, url: str) -> Path:
        return self._folder / f"{hashlib.sha256(url.encode()).hexdigest()}{RECORD}"


def _check_type(url: str, kind: MediaKind, content_type: str) -> None:
    plain = content_type.partition(";")[0].strip().lower()
    fitting = ("audio/", "video/", "application/ogg") if kind == "audio" else (f"{kind}/",)
    if plain not in PLAIN_TYPES and not plain.startswith(fitting):
        raise FetchError(
            f"{shown(url)} is not a {KIND_NAMES[kind]}: the server says that it is '{plain[:60]}'."
        )


def _fresh_until(answer: Answer) -> float:
    told = answer.headers.get("cache-control", "").lower()
    age = MAX_AGE.search(told)
    if age is None or "no-cache" in told or "no-store" in told:
        return 0.0
    return time.time() + min(float(age[1]), MAX_FRESH_S)


def _too_large(url: str, limit: int) -> FetchError:
    return FetchError(
        f"{shown(url)} is larger than the {size(limit)} that are fetched.",
        hint="DW_MEDIA_FILE_BYTES raises that.",
    )


def _name_of(url: str) -> str:
    """Returns the file name in the URL: `cat.png`."""
    return url.partition("?")[0].rstrip("/").rpartition("/")[2][:80] or "it"
