"""Downloads the wanted files of hub models: with progress in bytes, resumed, verified.

huggingface_hub knows repositories and lays out its cache. It discards incomplete files, though, and
cannot be stopped; so the weights are streamed here (`hub_file`), into the cache's own `blobs`,
under the names of their content there.

Every request is made by shared work (`SharedWork`): two runs that want the same file wait for one
download, and a cancelled run leaves at once, whatever the network does.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from glob import escape
from pathlib import Path
from typing import NamedTuple, TypeVar

from huggingface_hub import (
    get_cached_repo_tree,
    snapshot_download,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    disable_progress_bars,
)

from app.dialect.plan_sources import ModelSource
from app.errors import LoadError
from app.models.hub import TEXT_FILES, Place, held
from app.models.hub_errors import GOES_ON, advice, reason
from app.models.hub_file import Damaged, HubFile, fetch_blob, look_up, unfinished_file
from app.models.partial import missing_words, variant_advice
from app.models.wanted import Wanted
from app.shared_work import Share, SharedWork
from app.units import size

log = logging.getLogger(__name__)

TELL_EVERY_S = 0.5
FILES_AT_A_TIME = 4
T = TypeVar("T")

# Progress goes to the page as events; bars would only fill the log.
disable_progress_bars()


class Progress(NamedTuple):
    """Progress of a model's download. Bytes are those of the missing weight files."""

    done_bytes: int
    """Bytes present by now, including those of an earlier download."""
    total_bytes: int
    seconds_left: float | None
    """Estimated from the pace so far."""


Tell = Callable[[Progress], None]


class _NoRoom(Exception):
    """The disk has too little room for the rest of the download."""


def download(
    wanted: Wanted, place: Place, shared: SharedWork, *, tell: Tell, stopped: Callable[[], bool]
) -> None:
    """Downloads the wanted files of a model to the place.

    Raises LoadError with a sentence, and Cancelled once `stopped()`.
    """
    source = wanted.source
    log.info("Downloading model: %s", source.model)
    under_way = _Download(wanted, place, shared, tell, stopped)
    try:
        under_way.run()
    except (_NoRoom, Damaged) as error:
        raise LoadError(
            f"The model '{source.model}' could not be downloaded: {error}.",
            hint=f"Make room, or set HF_HOME to a folder of another disk. {GOES_ON}"
            if isinstance(error, _NoRoom)
            else "Run it again: the file is then fetched anew.",
        ) from error
    except Exception as error:
        # Refused, unreachable, cut off: the hub's library passes on exceptions of many others.
        arrived = f" after {size(under_way.done_bytes)}" if under_way.done_bytes else ""
        here = held(place, source.model, source.revision, wanted.choose)
        raise LoadError(
            f"{missing_words(source.model, here)} not on this machine and could not be downloaded:"
            f" {reason(error, source.revision)}{arrived}.",
            hint=f"{variant_advice(here)} {advice(error, source.model)}".strip(),
            detail=str(error),
        ) from error


class _Download:
    """The download of one model for one run."""

    def __init__(
        self,
        wanted: Wanted,
        place: Place,
        shared: SharedWork,
        tell: Tell,
        stopped: Callable[[], bool],
    ) -> None:
        self._shared, self._tell, self._stopped = shared, tell, stopped
        self._source, self._choose = wanted
        self._place = place
        self.done_bytes = 0
        self._total_bytes = 0
        self._started = time.monotonic()
        self._told_at = 0.0

    def run(self) -> None:
        """Fetches the missing files: text files and the list of all others, then the chosen
        ones."""
        text = partial(_snapshot, self._source, self._place, TEXT_FILES)
        self._one(("text", self._place, self._source.model, self._source.revision), text)
        here = held(self._place, self._source.model, self._source.revision, self._choose)
        if here.folder is None or not here.missing:
            return
        self._fetch_files(here.folder, here.missing)
        # Every blob is there: now they only need their names.
        names = (*TEXT_FILES, *(escape(name) for name in here.wanted))
        name_them = partial(_snapshot, self._source, self._place, names)
        self._one(("names", self._place, self._source.model, here.folder.name, names), name_them)

    def _fetch_files(self, folder: Path, missing: Sequence[str]) -> None:
        # As the hub's cache is laid out: blobs and snapshots/COMMIT/… are neighbours.
        blobs, commit = folder.parents[1] / "blobs", folder.name
        blobs.mkdir(exist_ok=True)
        cache = self._place.cache
        tree = get_cached_repo_tree(
            self._source.model, revision=self._source.revision, cache_dir=cache
        )
        sizes = {file.path: file.size for file in tree}
        found = self._shared.results(
            {
                ("file", blobs, commit, path): partial(
                    look_up, self._source.model, commit, path, sizes[path]
                )
                for path in missing
            },
            stopped=self._stopped,
            at_a_time=FILES_AT_A_TIME,
        )
        self._total_bytes = sum({f.etag or f.path: f.size_bytes for f in found}.values())
        # A file without a valid name cannot be stored here: the library fetches it in its own way.
        works: dict[Hashable, Callable[[Share[None]], None]] = {
            ("blob", blobs, file.etag): partial(
                fetch_blob, self._source.model, commit, cache, blobs, file
            )
            for file in found
            if file.etag is not None
        }
        self._check_room(blobs, found, self._shared.left_bytes(but=works))
        self._started = time.monotonic()
        self._shared.results(
            works, stopped=self._stopped, progress=self._progress, at_a_time=FILES_AT_A_TIME
        )

    def _check_room(self, blobs: Path, missing: Collection[HubFile], promised_bytes: int) -> None:
        """Raises _NoRoom where the disk cannot hold all of it beside the downloads in progress."""
        parts = (unfinished_file(blobs, file.etag) for file in missing if file.etag is not None)
        here = sum(part.stat().st_size for part in parts if part.is_file())
        needed, free = self._total_bytes - here, shutil.disk_usage(blobs).free - promised_bytes
        if needed > free:
            raise _NoRoom(
                f"it needs {size(needed)} more on the disk of the hub's cache, which has"
                f" {size(max(0, free))} free"
                + (" beside the downloads under way" if promised_bytes else "")
            )

    def _one(self, key: Hashable, work: Callable[[Share[T]], T]) -> T:
        return self._shared.results({key: work}, stopped=self._stopped)[0]

    def _progress(self, shares: Sequence[Share[None]]) -> None:
        """Tells how many bytes are here, at most twice a second but at the end."""
        self.done_bytes = sum(share.done_bytes for share in shares)
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY_S or all(share.result.done() for share in shares):
            self._told_at = now
            left = self._seconds_left(sum(share.resumed_bytes for share in shares))
            self._tell(Progress(self.done_bytes, self._total_bytes, left))

    def _seconds_left(self, resumed_bytes: int) -> float | None:
        arrived = self.done_bytes - resumed_bytes
        if arrived <= 0:
            return None
        passed_s = time.monotonic() - self._started
        return passed_s / arrived * (self._total_bytes - self.done_bytes)


def _snapshot(
    source: ModelSource, place: Place, patterns: Sequence[str], _share: Share[None]
) -> None:
    snapshot_download(
        source.model,
        revision=source.revision,
        cache_dir=place.cache,
        allow_patterns=list(patterns),
    )
