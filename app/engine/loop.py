"""The engine's thread, which owns all state; other threads post calls to its mailbox.

Everything here runs on that thread, unless marked "for any thread". No call blocks, so the mailbox
is always served at once. An exception in a call ends the run it is about, never the thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from app.engine.assign import ReadyRun, assign, missing_bytes
from app.engine.history import History
from app.engine.mailbox import Mailbox
from app.engine.prepare import Preparation
from app.engine.read_ahead import ReadAhead
from app.engine.run import Follower, Run
from app.engine.runs import Runs
from app.engine.slots.combine import combined_freed, gather
from app.engine.slots.slot import STOPPED, WorkerSlot
from app.engine.slots.worker import StartWorker
from app.engine.status import EngineStatus, status_of
from app.errors import EngineClosed
from app.protocol import DropComponents, MemoryFreed, PinComponent, RunCancelled, RunFailed
from app.settings import Settings
from app.trimming import Needed

log = logging.getLogger(__name__)

FreeMode = Literal["when_idle", "cancel_and_free"]

LONGEST_WAIT_S = 3600.0
"""Cap for a single wait; lock timeouts have a maximum."""
PAUSE_S = 1.0
"""Delay after an unexpected error in `_meet_deadlines`."""


class EngineLoop:
    """Queue, runs and slots; made by `Engine.start`."""

    def __init__(
        self,
        settings: Settings,
        start_worker: StartWorker,
        history: History,
        unfinished: Sequence[Run] = (),
    ) -> None:
        """`unfinished` are runs left by an earlier server, in order."""
        self.mailbox = Mailbox()
        self._runs = Runs(settings.engine, settings.paths.outputs.resolve(), history)
        self._preparation = Preparation(settings, self._runs, self.post)
        workers = settings.worker.split()
        self._slots = tuple(
            WorkerSlot(
                start_worker,
                settings.model_copy(update={"worker": worker}),
                self._runs,
                self.post,
                self.status,
                f"Worker {number}: " if len(workers) > 1 else "",
            )
            for number, worker in enumerate(workers, start=1)
        )
        self._passed_over: dict[str, float] = {}
        """When runs were first passed over, in monotonic seconds."""
        self._passed_over_limit_s = settings.engine.passed_over_limit_s
        self._read_ahead = ReadAhead()
        self._closing = False
        self._serving = True
        self._pause_until = 0.0
        for run in unfinished:
            self._runs.resume(run)
            self._begin(run)
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    # --- the thread ------------------------------------------------------------------------------

    def post(self, call: Callable[[], None]) -> None:
        """Posts a call to the engine's thread; ignored after its end. For any thread."""
        self.mailbox.post(call)

    def join(self) -> None:
        """Waits until the engine's thread has ended. For any thread."""
        self._thread.join()

    def _serve(self) -> None:
        try:
            self._guard(self._advance)
            while self._serving:
                if self._guard(self._seconds_to_deadline, PAUSE_S) == 0.0:
                    self._pause_until = time.monotonic() + PAUSE_S
                    self._guard(self._meet_deadlines)
                call = self.mailbox.take(self._guard(self._seconds_to_deadline, PAUSE_S))
                if call is not None:
                    self._guard(call)
                self._guard(self._advance)
        finally:
            for call in self.mailbox.close():
                self._guard(call)

    def _guard(self, call: Callable[[], Any], instead: Any = None) -> Any:
        """Calls this and returns its result; logs an error and returns `instead`."""
        try:
            return call()
        except BaseException:  # (a Rust panic is no Exception)
            log.exception("The engine could not handle a message")
            return instead

    def _seconds_to_deadline(self) -> float | None:
        deadlines = [slot.next_deadline for slot in self._slots]
        nearest = min((at for at in deadlines if at is not None), default=None)
        if nearest is None:
            return None
        nearest = max(nearest, self._pause_until)
        return min(max(0.0, nearest - time.monotonic()), LONGEST_WAIT_S)

    def _meet_deadlines(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            slot.meet_deadlines(now)
        self._pause_until = 0.0

    def _advance(self) -> None:
        """Does everything that can be done now. Called after every message."""
        if self._closing:
            self._serving = any(slot.has_worker for slot in self._slots)
            return
        self._preparation.advance(self._runs.waiting)
        for slot in self._slots:
            slot.advance(time.monotonic())
        self._fail_waiting()
        # (A run that cannot be sent leaves its slot free for the next.)
        while starts := self._next_starts():
            for run, slot in starts:
                slot.start(run)
        if (ready := self._runs.ready) and any(slot.active for slot in self._slots):
            self._read_ahead.advance(ready, [slot.held for slot in self._slots])

    def _next_starts(self) -> list[tuple[Run, WorkerSlot]]:
        """Returns the runs to start now, with their slots."""
        free = [number for number, slot in enumerate(self._slots) if slot.is_free]
        runs = {run.run_id: run for run in self._runs.ready} if free else {}
        if not runs:
            return []
        held = {number: self._slots[number].held for number in free}
        # A run that finds none of its components takes the slot that holds least.
        free.sort(key=lambda number: sum(held[number].values()))
        now = time.monotonic()
        since = {run_id: at for run_id, at in self._passed_over.items() if run_id in runs}
        ready = []
        for run in runs.values():
            missing = {number: missing_bytes(run.loads, keys) for number, keys in held.items()}
            known = {number: size for number, size in missing.items() if size is not None}
            ready.append(ReadyRun(run.run_id, known, since.get(run.run_id)))
        starts, passed_over = assign(ready, free, now, self._passed_over_limit_s)
        self._passed_over = {**dict.fromkeys(passed_over, now), **since}
        return [(runs[run_id], self._slots[number]) for run_id, number in starts]

    def _fail_waiting(self) -> None:
        """Fails waiting runs if no slot can start a worker."""
        reports = [slot.given_up for slot in self._slots]
        if (report := reports[0]) is None or None in reports:
            return
        self._runs.end_waiting(
            lambda run_id: RunFailed(run_id=run_id, time=time.time(), error=report)
        )

    # --- requests of the engine's methods --------------------------------------------------------

    def submit(self, run: Run) -> Future[None]:
        """Answers the run from an identical one's files, or queues it; see `Runs.take`."""
        self._check_open()
        noted = self._runs.take(run)
        self._begin(run)
        return noted

    def _begin(self, run: Run) -> None:
        if not run.over and all(slot.given_up for slot in self._slots):
            for slot in self._slots:
                slot.try_again()

    def cancel(self, run: Run) -> None:
        """Ends the run: at once while it waits, else at its next cancel point."""
        if run.over:
            return
        phase = run.phase
        if self._runs.leave_queue(run):
            self._runs.end(run, RunCancelled(run_id=run.run_id, time=time.time(), phase=phase))
        elif (slot := self._slot_of(run)) is not None:
            slot.cancel_active()

    def _slot_of(self, run: Run) -> WorkerSlot | None:
        return next((slot for slot in self._slots if slot.active is run), None)

    def free(self, mode: FreeMode, answer: Future[MemoryFreed]) -> None:
        """Frees everything in every slot before its next run; sets the future.

        With `cancel_and_free` the workers' present work gets no longer than a cancel. A slot that
        has given up tries once more to start its worker.
        """
        self._check_open()
        slots = [slot for slot in self._slots if slot.given_up is None] or self._slots
        for slot in self._slots:
            slot.try_again()
        parts = [(slot, Future[MemoryFreed]()) for slot in slots]
        gather([part for _, part in parts], answer, lambda: combined_freed(parts))
        for slot, part in parts:
            slot.free(part, cancel=mode == "cancel_and_free")

    def change_held(
        self,
        command: PinComponent | DropComponents,
        number: int | None,
        answer: Future[EngineStatus],
    ) -> None:
        """Sends the command to this slot, or to all slots that hold the component; it takes
        effect now or after the active run."""
        self._check_open()
        keys = [command.key] if isinstance(command, PinComponent) else command.keys
        holding = [slot for slot in self._slots if not slot.held.keys().isdisjoint(keys)]
        slots = holding if number is None else self._slots[number : number + 1]
        parts = [(slot, Future[EngineStatus]()) for slot in slots or self._slots[:1]]
        gather([part for _, part in parts], answer, self.status)
        for slot, part in parts:
            slot.change_held(command, part)

    def add_follower(self, run: Run, follower: Follower) -> None:
        """Wakes this follower now and whenever the run's log grows."""
        self._change_followers(run, lambda: run.followers.add(follower))
        run.wake(follower)

    def remove_follower(self, run: Run, follower: Follower) -> None:
        self._change_followers(run, lambda: run.followers.discard(follower))

    def _change_followers(self, run: Run, change: Callable[[], None]) -> None:
        watched = run.watched
        change()
        if run.watched != watched and (slot := self._slot_of(run)) is not None:
            slot.watch_active()

    def run(self, run_id: str) -> Run:
        """Returns the run of this id. For any thread. Raises UnknownRun."""
        return self._runs.find(run_id)

    def needed(self) -> Needed:
        return self._runs.needed

    @property
    def runs(self) -> Mapping[str, Run]:
        """Runs in memory by id, oldest first. For any thread."""
        return self._runs.kept

    def status(self) -> EngineStatus:
        """Returns the present status. For any thread; does not block.

        Waiting runs are read before active ones, so that no run is missed.
        """
        waiting = self._runs.waiting
        slots = tuple(slot.status() for slot in self._slots)
        active = {slot.running.run_id for slot in slots if slot.running is not None}
        return status_of(slots, tuple(run.info() for run in waiting if run.run_id not in active))

    def begin_close(self, timeout_s: float) -> None:
        """Cancels everything and stops the workers; kills them after the timeout."""
        self._closing = True
        for slot in self._slots:
            slot.begin_close(time.monotonic() + timeout_s)
        self._runs.stop_waiting(
            lambda run_id: RunCancelled(
                run_id=run_id, time=time.time(), phase="queued", notice=STOPPED
            )
        )

    def _check_open(self) -> None:
        if self._closing:
            raise EngineClosed("The engine has been closed.")
