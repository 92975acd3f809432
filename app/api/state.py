"""The engine's state and its memory, within a person's permissions."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Collection
from typing import TYPE_CHECKING, Any, Literal, get_args

from app.api.people import People, RequestLike
from app.engine.run import RunInfo
from app.engine.status import EngineStatus
from app.engine.store_file import StoreError
from app.errors import InvalidInputs
from app.protocol import MemoryFreed
from app.run_view import freed

if TYPE_CHECKING:
    from app.engine import Engine

log = logging.getLogger(__name__)

FreeMode = Literal["when_idle", "cancel_and_free"]
LISTED_RUNS = 20
"""Number of newest runs in a status."""


class State:
    """What a request may see of the engine, and free."""

    def __init__(self, engine: Engine, people: People) -> None:
        self._engine = engine
        self._people = people

    def status(self, sender: RequestLike | None, owner: str) -> EngineStatus:
        """Returns the worker's state, the queue, memory, held components and the newest runs.

        Only operators get the `run_id` of runs that are not `mine`, and the newest of everybody.
        """
        told = self._engine.status()
        mine = self._engine.owned(owner)
        operator = self._people.is_operator(sender)

        def show(info: RunInfo | None) -> RunInfo | None:
            return None if info is None else _shown(info, mine, operator)

        slots = (slot.model_copy(update={"running": show(slot.running)}) for slot in told.slots)
        shown = {
            "running": show(told.running),
            "queue": tuple(map(show, told.queue)),
            "slots": tuple(slots),
            "runs": tuple(map(show, self._newest_runs(None if operator else owner))),
        }
        return told.model_copy(update=shown)

    def free(
        self, sender: RequestLike | None, owner: str, mode: FreeMode
    ) -> Awaitable[MemoryFreed]:
        """Frees all held components, when the current run has ended or by cancelling it.

        Raises NotAllowed for a guest while another person's run is in progress or waiting, and
        InvalidInputs for another mode.
        """
        if mode not in get_args(FreeMode):
            raise InvalidInputs(f"The mode is one of: {', '.join(get_args(FreeMode))}.")
        self._people.check_free(sender, self._engine.is_busy_for_others(owner))
        return self._engine.free_async(mode)

    def _newest_runs(self, owner: str | None) -> list[RunInfo]:
        try:
            return self._engine.runs(owner, limit=LISTED_RUNS)
        except StoreError as error:
            # The workers' state is returned all the same.
            log.warning("%s", error)
            return []


def told_freed(report: MemoryFreed) -> dict[str, Any]:
    """Returns what was freed, for scripts."""
    return {"sentence": freed(report), **report.model_dump(mode="json")}


def _shown(info: RunInfo, mine: Collection[str], operator: bool) -> RunInfo:
    own = info.run_id in mine
    return info.model_copy(update={"mine": own, "run_id": info.run_id if own or operator else ""})
