"""Reads the next run's weights into the page cache while the run before it computes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from app.dialect.fingerprint import weight_files
from app.engine.assign import missing_bytes
from app.engine.run import Run
from app.machine import ram_free_and_total_bytes
from app.models.specs import PlanSpecs

log = logging.getLogger(__name__)

SHARE = 0.5
"""Share of free memory to use, so that the active run's own files stay cached."""
IS_POSSIBLE = hasattr(os, "posix_fadvise")


class ReadAhead:
    """Reads ahead for one run at a time; called on the engine's thread."""

    def __init__(self) -> None:
        self._run_id = ""
        """The last run considered."""

    def advance(self, ready: Sequence[Run], held: Iterable[Collection[str]]) -> None:
        """Starts reading for the first ready run, once, while others are in the slots.

        `held` has the keys each slot holds; nothing is read if any slot holds a component of the
        run.
        """
        if not IS_POSSIBLE or not ready or ready[0].run_id == self._run_id:
            return
        run = ready[0]
        self._run_id, specs = run.run_id, run.specs
        if specs is not None and all(missing_bytes(run.loads, each) is None for each in held):
            threading.Thread(target=_read, args=(specs,), name="read ahead", daemon=True).start()


def _read(specs: PlanSpecs) -> None:
    try:
        files = {file: file.stat().st_size for file in _files(specs)}
        free_bytes, _ = ram_free_and_total_bytes()
        if not has_room(sum(files.values()), free_bytes):
            return
        for file in files:
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
    except OSError as error:
        # The load itself will report the error.
        log.debug("Nothing is read ahead: %s", error)


def has_room(size_bytes: int, free_bytes: int) -> bool:
    return size_bytes <= SHARE * free_bytes


def _files(specs: PlanSpecs) -> Iterator[Path]:
    """Yields the weight files of the components."""
    for spec in specs.components:
        found = [spec.file] if spec.file else weight_files(spec.folder, spec.variant)
        yield from (file.resolve() for file in found)
