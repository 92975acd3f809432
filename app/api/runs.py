"""Runs of catalog workflows for the requests of programs: submit, report, follow, cancel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from app.api.callers import Caller
from app.api.errors import error_body
from app.api.heartbeats import with_heartbeats
from app.api.inputs import check_seed, inputs_of
from app.api.media_inputs import MediaInputs, how_to_send
from app.api.people import People
from app.api.reports import RESULT_ID, RunReport, result_report, run_report
from app.api.script_events import script_event
from app.api.upload_folder import UploadFolder
from app.catalog.catalog import Catalog
from app.errors import UnknownResult, UnknownRun, shortened
from app.protocol import (
    TERMINAL,
    ResultSaved,
    RunEvent,
    RunFailed,
    RunSucceeded,
    StepRemembered,
)
from app.settings import Settings

if TYPE_CHECKING:
    from app.engine import Engine

HEARTBEAT_S = 15.0
"""Between two events; proxies end streams that are silent for a minute."""


class ApiEvent(NamedTuple):
    """An event of a run's stream."""

    id: str
    """Its place in the run's log: a stream that was cut off goes on after it."""
    data: dict[str, Any]
    over: bool
    """True for the last one."""


class ApiRuns:
    """Submits runs and reports them. Knowing the id of a run is the permission to see it."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        people: People,
        uploads: UploadFolder,
        settings: Settings,
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._people = people
        self._outputs = settings.paths.outputs
        self._root_path = settings.ui.root_path
        self.media = MediaInputs(uploads, settings.ui.max_upload_bytes, self._path_at)

    async def submit(
        self,
        caller: Caller,
        workflow: str,
        inputs: Mapping[str, Any],
        *,
        seed: int | None = None,
        changes: Mapping[str, Any] = MappingProxyType({}),
        fresh: bool = False,
    ) -> str:
        """Queues a run of the catalog's workflow of this name, and returns its id.

        An input that takes a file is a URL, a `data:` URL, the address of a result, or a `Path`
        from `media.keep`. Raises BadRequest and QueueFull.
        """
        check_seed(seed)

        def submitted() -> str:
            entry = self._catalog.find(workflow)
            checked = inputs_of(entry, inputs, self.media.file_of, how_to_send)
            return self._engine.submit(
                Path(entry.path), checked, seed=seed, changes=changes, fresh=fresh,
                owner=caller.owner, person=self._people.person(caller),
                check=self._people.check(caller, entry, checked, changes),
            )  # fmt: skip

        return await asyncio.to_thread(submitted)

    async def report(self, run_id: str) -> RunReport:
        """Returns the run as it is now. Raises UnknownRun."""
        info = await asyncio.to_thread(self._engine.info, run_id)
        events = await asyncio.to_thread(self._engine.log, run_id)
        if not info.ended_at and events and isinstance(events[-1], TERMINAL):
            info = await asyncio.to_thread(self._engine.info, run_id)
        return run_report(info, events, self._root_path)

    async def ended(self, run_id: str, wait_s: float | None) -> RunReport:
        """Returns the run when it has ended, at the latest after this time, if any. Raises
        UnknownRun."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                following = with_heartbeats(self._engine.follow(run_id, previews=False))
                async with contextlib.aclosing(following) as events:
                    async for _ in events:
                        pass
        return await self.report(run_id)

    async def place_after(self, run_id: str, event: str) -> int | None:
        """Returns the number of the run's event behind the one with this id; None if that was the
        last. Raises UnknownRun.

        Ids are those of one log: 0 for one of another, as before a restart of the server.
        """
        log = await asyncio.to_thread(self._engine.log, run_id)
        name, _, number = event.partition("-")
        if not (log and name == _name(log[0]) and number.isdecimal()):
            return 0
        following = int(number[:9]) + 1
        return None if following >= len(log) and isinstance(log[-1], TERMINAL) else following

    async def events(
        self, caller: Caller, run_id: str, *, start: int = 0, heartbeat_s: float = HEARTBEAT_S
    ) -> AsyncGenerator[ApiEvent | None, None]:
        """Yields the run's events from number `start` to the last one; None for a time without one.

        Leaving it does not cancel the run. Raises UnknownRun.
        """
        following = self._engine.follow(run_id, previews=False)
        name, number, results = "", -1, 0
        async with contextlib.aclosing(with_heartbeats(following, heartbeat_s)) as events:
            async for event in events:
                if event is None:
                    yield None
                    continue
                number += 1
                name = name or _name(event)
                if number >= start and (data := await self._told(caller, event, results)):
                    over = isinstance(event, TERMINAL)
                    yield ApiEvent(f"{name}-{number}", {**data, "run_id": run_id}, over)
                results += isinstance(event, ResultSaved)

    def cancel(self, run_id: str) -> bool:
        """Cancels the run; False if it is over. Reads the disk for a past one. Raises
        UnknownRun."""
        try:
            return self._engine.cancel(run_id)
        except UnknownRun:
            self._engine.info(run_id)
            return False

    def result_file(self, result: str, *, record: bool = False) -> Path:
        """Returns the file of the result with this id, or its record's; reads the disk. Raises
        UnknownResult."""
        named = RESULT_ID.fullmatch(result)
        if named is None:
            raise UnknownResult(f"There is no result '{shortened(result)}'.")
        try:
            log = self._engine.log(named[1])
        except UnknownRun:
            raise UnknownResult(f"There is no result '{result}'.") from None
        results = [event for event in log if isinstance(event, ResultSaved)]
        number = int(named[2])
        if number >= len(results):
            raise UnknownResult(f"There is no result '{result}'.")
        path = Path(results[number].sidecar if record else results[number].path)
        if not (path.is_file() and path.resolve().is_relative_to(self._outputs.resolve())):
            raise UnknownResult(f"The file of the result '{result}' is gone.")
        return path

    def _path_at(self, address: str) -> Path | None:
        start = f"{self._root_path}/v1/results/"
        if not address.startswith(start):
            return None
        return self.result_file(address.removeprefix(start))

    async def _told(self, caller: Caller, event: RunEvent, results: int) -> dict[str, Any] | None:
        match event:
            case ResultSaved():
                saved = result_report(event, results, self._root_path).model_dump(mode="json")
                return {"event": "result", "result": saved}
            case RunSucceeded():
                report = await self.report(event.run_id)
                return {"event": "done", "run": report.model_dump(mode="json")}
            case RunFailed():
                error = error_body(event.error, event.run_id)
                return {"event": "error", "error": error.model_dump(mode="json")}
        told = script_event(event)
        if isinstance(event, StepRemembered) and told is not None:
            mine = self._engine.owned(caller.owner)
            told["made_by"] = self._people.shown_run(caller, event.made_by, mine)
        return told


def _name(first: RunEvent) -> str:
    """Returns the name of the log that begins with this event: a run that is repeated after a
    restart has another one."""
    return str(round(first.time * 1000))
