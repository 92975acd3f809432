"""The engine's thread: one mailbox, one writer of all its state.

Everything here runs on that thread, except what says that it is for any thread; other threads put
calls into the mailbox. No call waits for anything, so the mailbox is always answered at once, and
what a call raises ends the run it is about, never the thread.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

from app.engine.ends import died_with, failed_here
from app.engine.fetches import MediaFetches
from app.engine.history import History
from app.engine.mailbox import Mailbox
from app.engine.memory import WorkerMemory
from app.engine.outstanding import RELOADED, Order, Outstanding
from app.engine.run import Follower, Run, RunInfo
from app.engine.runs import Runs
from app.engine.secrets import find_hub_token
from app.engine.starts import STARTS_IN_A_ROW, Starts
from app.engine.status import EngineStatus, WorkerState
from app.engine.worker_log import log_again
from app.engine.worker_process import WorkerExit, WorkerProcess, WorkerTarget
from app.errors import EngineClosed, ErrorReport, WorkerDied
from app.protocol import (
    TERMINAL,
    CancelRun,
    CheckpointGap,
    DropComponents,
    Event,
    Logged,
    MemoryFreed,
    MemoryReported,
    PinComponent,
    RunCancelled,
    RunFailed,
    RunStarted,
    ShutDown,
    TerminalEvent,
    WatchPreviews,
    WorkerReady,
    WorkerUnable,
)
from app.settings import Settings
from app.trimming import Needed

log = logging.getLogger(__name__)

FreeMode = Literal["when_idle", "cancel_and_free"]

LONGEST_WAIT_S = 3600.0
"""A deadline further away is looked at again (a lock cannot wait for ever so long)."""
PAUSE_S = 1.0
"""Between two tries at deadlines that raised an error, which should not happen."""


class EngineLoop:
    """Queue, runs and worker; made by `Engine.start`."""

    def __init__(
        self,
        settings: Settings,
        target: WorkerTarget,
        history: History,
        unfinished: Sequence[Run] = (),
    ) -> None:
        """`unfinished` are runs that an earlier server left, in their order."""
        self._settings = settings
        self._target = target
        may_run_code = bool(settings.paths.trusted_code)
        self._hub_token = None if may_run_code else find_hub_token(os.environ)
        self.mailbox = Mailbox()
        self._runs = Runs(settings.engine, settings.paths.outputs.resolve(), history)
        self._fetches = MediaFetches(settings, self._runs, self.post)
        self._active: Run | None = None
        self._memory = WorkerMemory(settings.engine)
        self._worker: WorkerProcess | None = None
        self._ready: WorkerReady | None = None
        self._started_before = False
        self._starts = Starts(settings.engine.restart_delay_s)
        self._outstanding = Outstanding(settings.engine)
        self._request_numbers = itertools.count(1)
        self._unable: ErrorReport | None = None
        self._close_by: float | None = None
        self._killed = ""
        """Why this side ended the worker, for the person whose run was in it."""
        self._serving = True
        self._pause_until = 0.0
        for run in unfinished:
            self._runs.take_up(run)
            self._begin(run)
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    # --- the thread ------------------------------------------------------------------------------

    def post(self, call: Callable[[], None]) -> None:
        """Have this called on the engine's thread, unless it has ended. For any thread."""
        self.mailbox.post(call)

    def join(self) -> None:
        """Wait until the engine's thread has ended. For any thread."""
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
        """Call this; what it raises is logged, and must not stop the queue for everybody."""
        try:
            return call()
        except BaseException:  # (what Rust raises when it panics is no Exception)
            log.exception("The engine could not handle a message")
            return instead

    def _seconds_to_deadline(self) -> float | None:
        start_at = self._starts.next_at if self._worker is None else None
        deadlines = [self._memory.next_deadline, self._close_by, self._kill_at(), start_at]
        nearest = min((at for at in deadlines if at is not None), default=None)
        if nearest is None:
            return None
        nearest = max(nearest, self._pause_until)
        return min(max(0.0, nearest - time.monotonic()), LONGEST_WAIT_S)

    def _meet_deadlines(self) -> None:
        now = time.monotonic()
        for command in self._memory.due(now):
            if self._ready and not self._occupied:
                self._order(command)
        kill_at = self._kill_at()
        if self._worker and kill_at is not None and now >= kill_at:
            self._kill(self._outstanding.why_late(now))
        if self._worker and self._close_by is not None and now >= self._close_by:
            self._close_by = now + 1.0
            self._worker.kill()
        self._pause_until = 0.0

    def _advance(self) -> None:
        """Do what can be done next. Called after every message."""
        if self._close_by is not None:
            self._serving = self._worker is not None
            return
        start_at = self._starts.next_at
        if self._worker is None and start_at is not None and time.monotonic() >= start_at:
            self._spawn()
        if self._worker is None or self._ready is None or self._occupied or self._killed:
            return
        if (freeing := self._memory.next_free()) is not None:
            self._order(freeing)
        while not self._occupied and (run := self._runs.next) is not None:
            self._start(run)

    @property
    def _occupied(self) -> bool:
        return self._active is not None or self._memory.is_freeing

    # --- what the engine's methods ask -----------------------------------------------------------

    def submit(self, run: Run) -> Future[None]:
        """Take the run: answer it from an identical one's files, or queue it; see `Runs.take`."""
        self._refuse_when_closing()
        noted = self._runs.take(run)
        self._begin(run)
        return noted

    def _begin(self, run: Run) -> None:
        if run.fetching:
            self._fetches.begin(run)
        if not run.over:
            self._starts.try_again()

    def cancel(self, run: Run) -> None:
        """End the run, if it is not over: at once in the queue, at its next checkpoint else."""
        if run.over:
            return
        phase = run.phase
        if self._runs.leave_queue(run):
            self._runs.end(run, RunCancelled(run_id=run.run_id, time=time.time(), phase=phase))
        elif run.cancel_asked_at is None and self._worker is not None:
            run.cancel_asked_at = time.monotonic()
            self._worker.send(CancelRun(run_id=run.run_id))

    def free(self, mode: FreeMode, answer: Future[MemoryFreed]) -> None:
        """Have everything freed before the next run; the answer comes into the future.

        `cancel_and_free` gives what the worker is at no longer than a cancel, whatever it is.
        """
        self._refuse_when_closing()
        if mode == "cancel_and_free" and self._ready is not None:
            self._outstanding.cancelled(time.monotonic())
            if self._active is not None:
                self.cancel(self._active)
        self._memory.ask_to_free(answer)
        self._starts.try_again()

    def change_held(
        self, command: PinComponent | DropComponents, answer: Future[EngineStatus]
    ) -> None:
        """Have the worker keep or drop something: now, or after the run in progress."""
        self._refuse_when_closing()
        if self._worker is None:
            answer.set_result(self.status())
        else:
            self._memory.answers(self._order(command), answer)

    def add_follower(self, run: Run, follower: Follower) -> None:
        """Wake this follower whenever the run's log grows, and once now."""
        self._change_followers(run, lambda: run.followers.add(follower))
        run.wake(follower)

    def remove_follower(self, run: Run, follower: Follower) -> None:
        """Stop waking it."""
        self._change_followers(run, lambda: run.followers.discard(follower))

    def _change_followers(self, run: Run, change: Callable[[], None]) -> None:
        watched = run.watched
        change()
        if run.watched != watched and run is self._active and self._worker is not None:
            self._worker.send(WatchPreviews(run_id=run.run_id, watched=run.watched))

    def run(self, run_id: str) -> Run:
        """The run of this id. For any thread. Raises UnknownRun."""
        return self._runs.find(run_id)

    def needed(self) -> Needed:
        """What runs need that wait or are at work."""
        return self._runs.needed

    def runs(self, owner: str | None) -> list[RunInfo]:
        """All runs that are kept, or one owner's; newest first. For any thread."""
        return self._runs.infos(owner)

    def status(self) -> EngineStatus:
        """What is going on now. For any thread, and waits for nothing.

        What waits is read before what is active: a run that starts meanwhile is in one of them.
        """
        waiting, active = self._runs.waiting, self._active
        worker, ready = self._worker, self._ready
        return EngineStatus(
            worker=self._worker_state(),
            pid=worker.pid if worker else None,
            device=ready.device if ready else "",
            device_name=ready.device_name if ready else "",
            versions=ready.versions if ready else {},
            running=active.info() if active else None,
            queue=tuple(run.info() for run in waiting if run is not active),
            memory=self._memory.use,
            budgets=self._memory.budgets,
            held=self._memory.held,
            bounded=self._memory.bounded,
            last_departure=self._memory.last_departure,
        )

    def begin_close(self, timeout_s: float) -> None:
        """Cancel everything and stop the worker; by force when the time is over."""
        self._close_by = time.monotonic() + timeout_s
        notice = "The workbench was stopped."
        self._killed = notice
        self._runs.stop_waiting(
            lambda run_id: RunCancelled(
                run_id=run_id, time=time.time(), phase="queued", notice=notice
            )
        )
        self._memory.fail_frees("The workbench was stopped before memory was freed.")
        if self._worker is None:
            return
        if self._active is not None:
            self._worker.send(CancelRun(run_id=self._active.run_id))
        self._worker.send(ShutDown())
        if self._ready is None:
            # It reads no command before its libraries are imported.
            self._worker.kill()

    def _refuse_when_closing(self) -> None:
        if self._close_by is not None:
            raise EngineClosed("The engine has been closed.")

    # --- the worker ------------------------------------------------------------------------------

    def _spawn(self) -> None:
        self._killed, self._ready, self._unable = "", None, None
        try:
            self._worker = WorkerProcess(
                self._target,
                self._settings.worker,
                self._settings.paths.outputs.resolve(),
                on_event=lambda worker, event: self.post(partial(self._on_event, worker, event)),
                on_exit=lambda worker, exit_: self.post(partial(self._on_exit, worker, exit_)),
            )
        except Exception as error:
            # No memory or no file handle is left, say: as a worker that ends before it is ready.
            log.exception("The worker process could not be made")
            self._starts.ended(time.monotonic())
            if self._starts.given_up:
                self._give_up(f"{type(error).__name__}: {error}")
        else:
            self._outstanding.started(time.monotonic())

    def _worker_state(self) -> WorkerState:
        worker, ready = self._worker, self._ready
        if worker is None and self._starts.given_up:
            return "dead"
        if worker is None or ready is None:
            return "restarting" if self._started_before else "starting"
        return "busy" if self._occupied else "ready"

    def _kill_at(self) -> float | None:
        """When the worker is ended for not being done, if it is not done before."""
        if self._killed or self._worker is None:
            return None
        return self._outstanding.kill_at(self._active.cancel_asked_at if self._active else None)

    def _kill(self, why: str) -> None:
        assert self._worker is not None
        self._killed = why
        log.warning("%s", why)
        self._worker.kill()

    def _order(self, order: Order) -> str:
        """Send this; the id that its answer will have."""
        assert self._worker is not None
        request_id = str(next(self._request_numbers))
        order = order.model_copy(update={"request_id": request_id})
        self._worker.send(order)
        self._outstanding.sent(order, time.monotonic())
        return request_id

    def _start(self, run: Run) -> None:
        assert self._worker is not None
        run.times_sent += 1
        self._active = run
        try:
            self._worker.send(run.command().model_copy(update={"hub_token": self._hub_token}))
        except Exception as error:
            # Nothing was sent, so the worker is well.
            log.exception("Run %s could not be sent to the worker", run.run_id)
            self._active = None
            self._runs.end_early(run, failed_here(run, error))
            return
        self._outstanding.sent_run(run.run_id, time.monotonic())
        self._memory.run_began()
        self._runs.leave_queue(run)

    def _on_event(self, worker: WorkerProcess, event: Event) -> None:
        if worker is not self._worker:
            return
        try:
            self._take(event)
        except Exception as error:
            log.exception("An event of the worker could not be handled")
            self._fail_active(error)

    def _take(self, event: Event) -> None:
        match event:
            case Logged():
                log_again(event)
            case WorkerReady():
                self._outstanding.is_ready(time.monotonic())
                self._memory.began(event.memory)
                self._starts.is_ready(time.monotonic())
                self._started_before, self._ready = True, event
            case WorkerUnable():
                log.error("%s", event.error.sentence())
                self._unable = event.error
                self._starts.are_hopeless()
            case MemoryReported():
                self._outstanding.done(event.request_id, time.monotonic())
                self._memory.reported(event, self.status)
            case MemoryFreed():
                self._outstanding.done(event.request_id, time.monotonic())
                self._starts.has_worked()
                self._memory.freed(event)
            case CheckpointGap():
                self._outstanding.gap(event.seconds)
            case _ if self._active is not None and event.run_id == self._active.run_id:
                self._on_run_event(self._active, event)

    def _on_run_event(self, run: Run, event: Event) -> None:
        if isinstance(event, TERMINAL):
            if self._close_by is not None and isinstance(event, RunCancelled):
                event = event.model_copy(update={"notice": self._killed})
            self._active = None
            self._outstanding.done(run.run_id, time.monotonic())
            self._memory.run_ended()
            self._end(run, event)
            return
        if isinstance(event, RunStarted):
            self._outstanding.begun(run.run_id)
            self._starts.has_worked()
            self._runs.began(run, event)
            return
        run.append(event)  # type: ignore[arg-type]  # every other event of a run is a RunEvent

    def _end(self, run: Run, event: TerminalEvent) -> None:
        """End the run; one that ends only because the engine stops waits for the next server."""
        stopped = self._close_by is not None and run.cancel_asked_at is None
        if stopped and isinstance(event, RunCancelled):
            self._runs.stop(run, event)
        else:
            self._runs.end(run, event)

    def _fail_active(self, error: Exception) -> None:
        """The run in the worker cannot be carried on, and nobody knows what the worker is at."""
        run, self._active = self._active, None
        if run is None:
            return
        self._runs.end(run, failed_here(run, error))
        if self._worker is not None and not self._killed:
            self._kill(f"The engine could not follow the worker, which was ended. {RELOADED}")

    def _on_exit(self, worker: WorkerProcess, ended: WorkerExit) -> None:
        if worker is not self._worker:
            return
        self._starts.ended(time.monotonic())
        self._outstanding.clear()
        self._ready, self._worker = None, None
        if self._unable is None and not self._killed:
            log.error("%s %s", ended.sentence, ended.last_lines)
        if self._active is not None:
            run, self._active = self._active, None
            if self._can_go_again(run):
                self._runs.put_back(run)
            else:
                self._end(run, self._death_of(run, ended))
        self._memory.gone(self._killed or ended.sentence, self.status)
        if self._starts.given_up:
            self._give_up(self._killed or ended.sentence, ended.last_lines)

    def _can_go_again(self, run: Run) -> bool:
        """Whether the run has only waited, so that the worker's end is none of its own."""
        waited = run.started_at is None and run.cancel_asked_at is None
        # Where no worker comes up it is told so with all who wait.
        again = run.times_sent < STARTS_IN_A_ROW or self._starts.given_up
        return waited and again and self._close_by is None

    def _death_of(self, run: Run, ended: WorkerExit) -> RunCancelled | RunFailed:
        if self._killed and (run.cancel_asked_at is not None or self._close_by is not None):
            return RunCancelled(
                run_id=run.run_id, time=time.time(), phase=run.phase, notice=self._killed
            )
        return died_with(run, ended, self._killed)

    def _give_up(self, why: str, last_lines: str = "") -> None:
        """The worker does not come up: say so to everybody who waits."""
        message = f"The worker process does not start: {why}"
        died = WorkerDied(message, hint="The server's log says more.", detail=last_lines)
        report = self._unable or died.report()
        self._runs.end_waiting(
            lambda run_id: RunFailed(run_id=run_id, time=time.time(), error=report)
        )
        self._memory.fail_frees(report.message)
