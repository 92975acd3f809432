"""The engine's public methods, callable from any thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import MappingProxyType

from pydantic import JsonValue

from app.dialect.plan import Plan
from app.engine.availability import identified_if_here
from app.engine.following import LogReader, following
from app.engine.history import History
from app.engine.housekeeping import Housekeeping
from app.engine.kept_inputs import with_kept_inputs
from app.engine.listing import info_of, listed
from app.engine.loop import EngineLoop, FreeMode
from app.engine.run import Follower, Run, RunInfo, check_command
from app.engine.runs import new_run_id
from app.engine.slots.local import WorkerTarget, run_worker, starting
from app.engine.status import EngineStatus
from app.engine.store import Store
from app.engine.store_file import StoreError
from app.errors import EngineError, EngineNotStarted, UnknownRun
from app.models import needs
from app.models.hub_headers import HubHeaders, NotAsked
from app.outputs import OutputStore
from app.planning.planner import make_plan
from app.protocol import (
    DropComponents,
    MemoryFreed,
    PinComponent,
    RunEvent,
)
from app.settings import Settings
from app.trimming import Needed

log = logging.getLogger(__name__)


class Engine:
    """Runs workflows, one at a time in each of its workers, which keep their models loaded."""

    def __init__(self, worker_target: WorkerTarget = run_worker) -> None:
        """`worker_target` runs in the child process; tests of the engine pass their own."""
        self._worker_target = worker_target
        self._settings: Settings | None = None
        self._loop: EngineLoop | None = None
        self._hub: HubHeaders | None = None
        self._history: History | None = None
        self._uploads: Path | None = None
        """Folder of uploads, whose files are kept with the runs in the history."""
        self._housekeeping: Housekeeping | None = None

    def start(self, settings: Settings, *, uploads: Path | None = None) -> None:
        """Starts the workers and returns at once; runs wait until a worker is ready.

        With `uploads`, a server's folder of uploaded files, the engine resumes runs that an earlier
        server left unfinished, and keeps the uploads of its runs. Raises BadRequest, before
        anything is started, if results cannot be written.
        """
        if self._loop is not None:
            raise EngineError("The engine is running already.")
        outputs = OutputStore(settings.paths.outputs)
        outputs.check()
        serves = uploads is not None
        store = Store(outputs.root, keep_history=settings.engine.keep_history, as_keeper=serves)
        self._settings = settings
        self._uploads = uploads if settings.engine.keep_history else None
        self._history = History(store, settings, resumable=serves)
        unfinished = self._history.resume() if store.is_keeper else []
        start_worker = starting(self._worker_target, outputs.root)
        self._loop = EngineLoop(settings, start_worker, self._history, unfinished)
        self._housekeeping = Housekeeping(outputs, store, settings.paths.outputs_bytes, self.needed)
        self._hub = HubHeaders()

    @property
    def is_started(self) -> bool:
        """True if there is something to close."""
        return self._loop is not None

    def close(self, timeout_s: float = 5.0) -> None:
        """Cancels active runs and ends the workers within the timeout. Idempotent."""
        # Closed first, since it asks the loop what the runs need.
        housekeeping, self._housekeeping = self._housekeeping, None
        if housekeeping is not None:
            housekeeping.close()
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.post(partial(loop.begin_close, max(0.1, timeout_s - 0.5)))
            loop.join()
        history, self._history = self._history, None
        if history is not None:
            history.store.close()
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.close()

    def submit(
        self,
        workflow: Path,
        inputs: Mapping[str, JsonValue],
        *,
        seed: int | None = None,
        changes: Mapping[str, JsonValue] = MappingProxyType({}),
        owner: str = "",
        person: str = "",
        fresh: bool = False,
        check: Callable[[Plan], None] | None = None,
    ) -> str:
        """Checks the request, queues the run, and returns its id.

        `changes` replace values of the document in this run, by JSON pointer.
        An identical request (same models, arguments and seed) is answered from the files of the
        earlier run, unless `fresh` or the seed is drawn.
        `owner` is the secret by which runs are listed; `person` is counted where runs per person
        are limited, and `check` raises BadRequest if this person may not run the plan.
        Raises BadRequest before any heavy work, or QueueFull.
        """
        loop, settings = self._started()
        plan = make_plan(workflow, inputs, paths=settings.paths, seed=seed, changes=changes)
        if check is not None:
            check(plan)
        if self._uploads is not None:
            plan = with_kept_inputs(plan, self._uploads, settings.paths.outputs)
        run_id = new_run_id()
        specs, key = identified_if_here(plan, settings.worker)
        run = Run(
            run_id,
            owner,
            plan,
            request_key=key,
            fresh=fresh,
            prepared=specs is not None,
            person=person,
            check=check,
        )
        check_command(run.command())
        run.specs = specs
        noted = loop.mailbox.ask(partial(loop.submit, run))
        try:
            noted.result()
        except StoreError as error:
            # The run goes on without an entry in the history.
            log.warning("%s", error)
        return run.run_id

    def fit(
        self,
        workflow: Path,
        inputs: Mapping[str, JsonValue],
        *,
        ask_hub: bool = True,
        check: Callable[[Plan], None] | None = None,
    ) -> str | None:
        """Returns a sentence on the memory a run with these inputs needs, and whether it fits.

        Loads nothing. For a model that is not on this machine it asks the hub, which takes seconds;
        without `ask_hub` it returns None then. Raises BadRequest as `submit` does.
        """
        loop, settings = self._started()
        assert self._hub is not None
        plan = make_plan(workflow, inputs, paths=settings.paths)
        if check is not None:
            check(plan)
        find = self._hub.ask if ask_hub else self._hub.known
        try:
            return needs.line(plan, loop.status().room, find)
        except NotAsked:
            return None

    def run_again(
        self,
        run_id: str,
        *,
        seed: int,
        owner: str = "",
        person: str = "",
    ) -> str:
        """Queues the request of this run again with another seed; returns the new run's id.

        Reads the workflow's file again. Raises UnknownRun, and what `submit` raises.
        """
        plan = self._find_here(run_id).plan
        return self.submit(
            Path(plan.workflow_path), plan.inputs, seed=seed, changes=plan.changes, owner=owner,
            person=person,
        )  # fmt: skip

    async def follow(
        self, run_id: str, *, start: int = 0, previews: bool = True
    ) -> AsyncIterator[RunEvent]:
        """Yields the run's events from number `start` to its end; previews are not numbered.

        Leaving the iteration does not stop the run. Raises UnknownRun.
        """
        loop, _ = self._started()
        changed, here = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            # The reader's event loop may be closed.
            with contextlib.suppress(RuntimeError):
                here.call_soon_threadsafe(changed.set)

        run = await self._find(run_id)
        with following(loop, run, Follower(wake, previews)):
            reading = LogReader(run, start, previews)
            while not reading.over:
                changed.clear()
                for event in reading.new():
                    yield event
                if not reading.over:
                    await changed.wait()

    def events(self, run_id: str, *, previews: bool = False) -> Iterator[RunEvent]:
        """Yields the run's events to its end, without an event loop. Raises UnknownRun."""
        loop, _ = self._started()
        changed = threading.Event()
        run = self._find_here(run_id)
        with following(loop, run, Follower(changed.set, previews)):
            reading = LogReader(run, 0, previews)
            while not reading.over:
                changed.clear()
                yield from reading.new()
                if not reading.over:
                    changed.wait()

    def cancel(self, run_id: str) -> bool:
        """Cancels the run; returns False if it is over. Raises UnknownRun.

        Does not block, as all methods except `submit`, `fit`, `free`, `events` and `close`.
        """
        loop, _ = self._started()
        run = loop.run(run_id)
        if run.over:
            return False
        loop.post(partial(loop.cancel, run))
        return True

    def free(self, mode: FreeMode = "when_idle") -> MemoryFreed:
        """Frees all held components; returns the memory freed.

        Happens before the next run: after the active one, or after cancelling it with
        `cancel_and_free`. Raises WorkerDied if the worker ended instead, which frees memory too.
        """
        return self._ask_to_free(mode).result()

    async def free_async(self, mode: FreeMode = "when_idle") -> MemoryFreed:
        """`free` for a caller in an event loop."""
        return await asyncio.wrap_future(self._ask_to_free(mode))

    def _ask_to_free(self, mode: FreeMode) -> Future[MemoryFreed]:
        loop, _ = self._started()
        answer: Future[MemoryFreed] = Future()
        # Makes the future uncancellable, or the engine could not set its result.
        answer.set_running_or_notify_cancel()
        loop.mailbox.answer(answer, partial(loop.free, mode, answer))
        return answer

    def pin(
        self, key: str, pinned: bool = True, *, slot: int | None = None
    ) -> Future[EngineStatus]:
        """Pins a held component, so that it is not evicted until unpinned or freed.

        In the slot of this number, or wherever it is held; after the active run there, if any. The
        future gets the status afterwards.
        """
        return self._change_held(PinComponent(key=key, pinned=pinned), slot)

    def drop(self, key: str, *, slot: int | None = None) -> Future[EngineStatus]:
        """Drops a held component, pinned or not; see `pin`."""
        return self._change_held(DropComponents(keys=(key,), reason="somebody asked for it"), slot)

    def _change_held(
        self, command: PinComponent | DropComponents, slot: int | None
    ) -> Future[EngineStatus]:
        loop, _ = self._started()
        answer: Future[EngineStatus] = Future()
        # Makes the future uncancellable, or the engine could not set its result.
        answer.set_running_or_notify_cancel()
        loop.mailbox.answer(answer, partial(loop.change_held, command, slot, answer))
        return answer

    def status(self) -> EngineStatus:
        loop, _ = self._started()
        return loop.status()

    @property
    def notice(self) -> str:
        """A note about the history, for example that it was damaged; may be empty."""
        return self._history.store.notice if self._history else ""

    def needed(self) -> Needed:
        """Returns the folders and files that waiting and active runs need."""
        loop, _ = self._started()
        return loop.mailbox.ask(loop.needed)

    def trim(self) -> list[Path]:
        """Removes the oldest results over the bound, and uploads that no run in the history
        uses; returns the removed files and folders."""
        self._started()
        assert self._housekeeping is not None
        return self._housekeeping.trim()

    def owned(self, owner: str) -> frozenset[str]:
        """Returns the ids of this owner's runs in memory: all unfinished ones, and the newest."""
        loop, _ = self._started()
        return frozenset(run.run_id for run in loop.runs.values() if run.owner == owner)

    def is_busy_for_others(self, owner: str) -> bool:
        """Returns whether another owner's run is active or waiting."""
        loop, _ = self._started()
        return any(not run.over and run.owner != owner for run in loop.runs.values())

    def runs(
        self,
        owner: str | None = None,
        *,
        words: str = "",
        limit: int = 100,
        before: str | None = None,
    ) -> list[RunInfo]:
        """Returns runs of the history, newest first, active ones in their present state.

        `owner` selects one owner's runs, `words` those whose texts have all the words; `before` is
        the last id of the previous page. Reads the disk.
        """
        loop, _ = self._started()
        assert self._history is not None
        store = self._history.store
        return listed(store, loop.runs, owner=owner, words=words, limit=limit, before=before)

    def info(self, run_id: str) -> RunInfo:
        """Returns the summary of a run of this engine or the history; reads the disk for a past
        one. Raises UnknownRun."""
        loop, _ = self._started()
        try:
            return loop.run(run_id).info()
        except UnknownRun:
            past = self._history.store.find(run_id) if self._history else None
            if past is None:
                raise
            return info_of(past)

    def log(self, run_id: str) -> tuple[RunEvent, ...]:
        """Returns the events so far of a run of this engine or the history; reads the disk for a
        past one. Raises UnknownRun."""
        return tuple(self._find_here(run_id).events)

    async def _find(self, run_id: str) -> Run:
        """Returns a run of this engine or the history. Raises UnknownRun."""
        loop, _ = self._started()
        try:
            return loop.run(run_id)
        except UnknownRun:
            return await asyncio.to_thread(self._find_here, run_id)

    def _find_here(self, run_id: str) -> Run:
        loop, _ = self._started()
        try:
            return loop.run(run_id)
        except UnknownRun:
            past = self._history.past_run(run_id) if self._history else None
            if past is None:
                raise
            return past

    def _started(self) -> tuple[EngineLoop, Settings]:
        if self._loop is None or self._settings is None:
            raise EngineNotStarted(
                "The engine has not been started.", hint="Call engine.start(settings) first."
            )
        return self._loop, self._settings
