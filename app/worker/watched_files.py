"""Detects files that are replaced while a run reads them.

Results are cached under the identity of the files at the run's beginning. A file replaced in
mid-run, even briefly, may have been read half old and half new: its results must not be cached and
its components must not stay.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from app.dialect.fingerprint import noting_files
from app.dialect.plan import Plan
from app.models.plan_specs import are_current
from app.models.specs import PlanSpecs
from app.planning.plan_media import media_files
from app.planning.request_keys import is_certain, request_key
from app.protocol import StartRun
from app.stamps import FileStamp, stamp_of
from app.worker.residency import Residency

if TYPE_CHECKING:
    from app.worker.loading.weights import Weights
    from app.worker.memo import PromptMemo

log = logging.getLogger(__name__)


class WatchedFiles:
    """The files of one run: those that identify its components, and its media."""

    def __init__(self, plan: Plan) -> None:
        self._media = {Path(path): sha256 for path, sha256 in media_files(plan).items()}
        self._stamps: dict[Path, FileStamp | None] = {path: _stamp(path) for path in self._media}
        self._as_prepared = True

    def still_as(self, specs: PlanSpecs | None) -> PlanSpecs | None:
        """Returns what the run was prepared with; None where its files have changed since."""
        self._as_prepared = specs is None or are_current(specs)
        return specs if self._as_prepared else None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches every file that is identified inside."""
        with noting_files(self._note):
            yield

    def changed(self) -> Path | None:
        """Returns a file whose stamp has changed, or None; reads no contents."""
        return next((p for p, stamp in self._stamps.items() if _stamp(p) != stamp), None)

    @property
    def are_as_planned(self) -> bool:
        """True if no file changed, and media have the content that the run was planned with."""
        return self.changed() is None and self._media_are_as_planned

    @functools.cached_property
    def _media_are_as_planned(self) -> bool:
        # Hashed once; later changes show in the stamps.
        return all(_sha256(path) == sha256 for path, sha256 in self._media.items())

    def matches_request(self, command: StartRun, device: str) -> bool:
        """Returns whether the run's results are valid for its request key."""
        if command.request_key is None:
            return True
        if not (self._as_prepared and self.are_as_planned):
            return False
        plan, specs = command.plan, command.specs
        return is_certain(plan, specs) or request_key(plan, device, specs) == command.request_key

    def _note(self, path: Path) -> None:
        if path not in self._stamps:
            self._stamps[path] = _stamp(path)


def drop_replaced(
    files: WatchedFiles, plan: Plan, residency: Residency, weights: Weights, prompts: PromptMemo
) -> None:
    """Drops everything a run may have read from files while they were replaced."""
    if (changed := files.changed()) is None:
        return
    log.warning("'%s' was replaced during the run: its components and results are dropped", changed)
    used = {entry.key for entry in residency.entries if plan.workflow_id in entry.used_by}
    residency.drop(used, reason=f"'{changed.name}' was replaced during the run")
    weights.drop_shells(used)
    prompts.drop_new()


def _stamp(path: Path) -> FileStamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
