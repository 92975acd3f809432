"""A slot: one worker with its run, memory, time limits and restarts. Called on the engine's thread,
unless marked "for any thread"."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from app.engine.ends import engine_failure, worker_death
from app.engine.run import Run
from app.engine.runs import Runs
from app.engine.slots.memory import WorkerMemory
from app.engine.slots.outstanding import RELOADED, Order, Outstanding
from app.engine.slots.starts import STARTS_IN_A_ROW, Starts
from app.engine.slots.worker import StartWorker, Worker, WorkerExit
from app.engine.slots.worker_log import log_worker_line
from app.engine.status import EngineStatus, SlotStatus, WorkerState
from app.errors import ErrorReport, WorkerDied
from app.protocol import (
    TERMINAL,
    CancelPointGap,
    CancelRun,
    DropComponents,
    Event,
    FilesMissing,
    Logged,
    MemoryFreed,
    MemoryReported,
    PinComponent,
    RunCancelled,
    RunStarted,
    ShutDown,
    TerminalEvent,
    WatchPreviews,
    WorkerReady,
    WorkerUnable,
)
from app.settings import Settings

log = logging.getLogger(__name__)

STOPPED = "The workbench was stopped."
KILL_AGAIN_S = 1.0
"""Interval of kills while a worker outlives the engine's close timeout."""


class WorkerSlot:
    """Starts its worker, gives it one run at a time, and replaces it when it ends."""

    def __init__(
        self,
        start_worker: StartWorker,
        settings: Settings,
        runs: Runs,
        post: Callable[[Callable[[], None]], None],
        engine_status: Callable[[], EngineStatus],
        log_prefix: str = "",
    ) -> None:
        """`post` schedules a call on the engine's thread; log lines about the worker begin with
        `log_prefix`."""
        self._log_prefix = log_prefix
        self._start_worker, self._settings = start_worker, settings
        self._runs, self._post, self._engine_status = runs, post, engine_status
        self._active: Run | None = None
        self._memory = WorkerMemory(settings.engine)
        self._worker: Worker | None = None
        self._worker_number = 0
        """Number of the present worker; events of earlier ones are ignored."""
        self._ready: WorkerReady | None = None
        self._started_before = False
        self._starts = Starts(settings.engine.restart_delay_s)
        self._outstanding = Outstanding(settings.engine)
        self._request_numbers = itertools.count(1)
        self._unable: ErrorReport | None = None
        self._given_up: ErrorReport | None = None
        self._close_by: float | None = None
        self._killed = ""
        """Why the slot killed the worker, for the user of its run."""

    # --- calls of the loop -----------------------------------------------------------------------

    @property
    def active(self) -> Run | None:
        """The run in the worker. For any thread."""
        return self._active

    @property
    def has_worker(self) -> bool:
        return self._worker is not None

    @property
    def is_free(self) -> bool:
        is_up = self._worker is not None and self._ready is not None
        return is_up and not (self._occupied or self._killed)

    @property
    def device(self) -> str:
        """The device in the settings."""
        return self._settings.worker.device

    @property
    def held(self) -> dict[str, int]:
        """Weight bytes of held components by key, as last reported."""
        return {item.key: item.weight_bytes for item in self._memory.held}

    @property
    def given_up(self) -> ErrorReport | None:
        """Why no worker is started until the next request; None unless given up."""
        return self._given_up if self._starts.given_up else None

    def try_again(self) -> None:
        """Allows one more start after the slot has given up."""
        self._starts.try_again()

    def status(self) -> SlotStatus:
        """Returns the slot's status. For any thread; does not block."""
        active, worker, ready = self._active, self._worker, self._ready
        return SlotStatus(
            worker=self._worker_state(),
            pid=worker.pid if worker else None,
            device=ready.device if ready else "",
            device_name=ready.device_name if ready else "",
            versions=ready.versions if ready else {},
            running=active.info() if active else None,
            memory=self._memory.use,
            budgets=self._memory.budgets,
            held=self._memory.held,
            bounded=self._memory.bounded,
            last_departure=self._memory.last_eviction,
        )

    def start(self, run: Run) -> None:
        """Sends the run to the worker, which must be free."""
        assert self._worker is not None
        run.times_sent += 1
        self._active = run
        try:
            self._worker.send(run.command())
        except Exception as error:
            # Nothing was sent, so the worker can go on.
            log.exception("%sRun %s could not be sent to the worker", self._log_prefix, run.run_id)
            self._active = None
            self._runs.end_early(run, engine_failure(run, error))
            return
        self._outstanding.sent_run(run.run_id, time.monotonic())
        self._memory.run_began()
        self._runs.leave_queue(run)

    def cancel_active(self) -> None:
        """Cancels the run in the worker, which ends at its next cancel point."""
        run = self._active
        if run is not None and run.cancel_asked_at is None and self._worker is not None:
            run.cancel_asked_at = time.monotonic()
            self._worker.send(CancelRun(run_id=run.run_id))

    def watch_active(self) -> None:
        """Turns previews of the active run on or off, as its followers want."""
        if self._active is not None and self._worker is not None:
            run = self._active
            self._worker.send(WatchPreviews(run_id=run.run_id, watched=run.watched))

    def free(self, answer: Future[MemoryFreed], *, cancel: bool) -> None:
        """Frees everything before the next run; sets the future.

        With `cancel` the worker's present work gets no longer than a cancel.
        """
        if cancel and self._ready is not None:
            self._outstanding.cancelled(time.monotonic())
            self.cancel_active()
        self._memory.ask_to_free(answer)
        self._starts.try_again()

    def change_held(
        self, command: PinComponent | DropComponents, answer: Future[EngineStatus]
    ) -> None:
        if self._worker is None:
            answer.set_result(self._engine_status())
        else:
            self._memory.answers(self._order(command), answer)

    def begin_close(self, by: float) -> None:
        """Cancels the active run and stops the worker; kills it at `by` (monotonic seconds)."""
        self._close_by, self._killed = by, STOPPED
        self._memory.fail_frees("The workbench was stopped before memory was freed.")
        if self._worker is None:
            return
        if self._active is not None:
            self._worker.send(CancelRun(run_id=self._active.run_id))
        self._worker.send(ShutDown())
        if self._ready is None:
            # It cannot read commands before its libraries are imported.
            self._worker.kill()

    # --- deadlines -------------------------------------------------------------------------------

    @property
    def next_deadline(self) -> float | None:
        """When `meet_deadlines` or `advance` is due, in monotonic seconds."""
        start_at = self._starts.next_at if self._worker is None else None
        deadlines = [self._memory.next_deadline, self._close_by, self._kill_at(), start_at]
        return min((at for at in deadlines if at is not None), default=None)

    def meet_deadlines(self, now: float) -> None:
        """Sends due commands to an idle worker, and kills one that is late."""
        for command in self._memory.due(now):
            if self._ready and not self._occupied:
                self._order(command)
        kill_at = self._kill_at()
        if self._worker and kill_at is not None and now >= kill_at:
            self._kill(self._outstanding.why_late(now))
        if self._worker and self._close_by is not None and now >= self._close_by:
            self._close_by = now + KILL_AGAIN_S
            self._worker.kill()

    def advance(self, now: float) -> None:
        """Starts a worker if due, and sends a pending request to free memory."""
        start_at = self._starts.next_at
        if self._worker is None and start_at is not None and now >= start_at:
            self._spawn()
        if self.is_free and (freeing := self._memory.next_free()) is not None:
            self._order(freeing)

    # --- the worker ------------------------------------------------------------------------------

    @property
    def _occupied(self) -> bool:
        return self._active is not None or self._memory.is_freeing

    def _spawn(self) -> None:
        self._killed, self._ready, self._unable, self._given_up = "", None, None, None
        self._worker_number += 1
        number = self._worker_number
        try:
            self._worker = self._start_worker(
                self._settings.worker,
                on_event=lambda event: self._post(partial(self._on_event, number, event)),
                on_exit=lambda ended: self._post(partial(self._on_exit, number, ended)),
            )
        except Exception as error:
            # Out of memory or file handles, say: counts as a worker that ends before it is ready.
            log.exception("%sThe worker process could not be started", self._log_prefix)
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
        """Returns when to kill the worker for being late; None for never."""
        if self._killed or self._worker is None:
            return None
        return self._outstanding.kill_at(self._active.cancel_asked_at if self._active else None)

    def _kill(self, why: str) -> None:
        assert self._worker is not None
        self._killed = why
        log.warning("%s%s", self._log_prefix, why)
        self._worker.kill()

    def _order(self, order: Order) -> str:
        """Sends this; returns the request id of its answer."""
        assert self._worker is not None
        request_id = str(next(self._request_numbers))
        order = order.model_copy(update={"request_id": request_id})
        self._worker.send(order)
        self._outstanding.sent(order, time.monotonic())
        return request_id

    def _on_event(self, worker_number: int, event: Event) -> None:
        if worker_number != self._worker_number:
            return
        try:
            self._take(event)
        except Exception as error:
            log.exception("%sAn event of the worker could not be handled", self._log_prefix)
            self._fail_active(error)

    def _take(self, event: Event) -> None:
        match event:
            case Logged():
                log_worker_line(event, self._log_prefix)
            case WorkerReady():
                self._outstanding.is_ready(time.monotonic())
                self._memory.began(event.memory)
                self._starts.is_ready(time.monotonic())
                self._started_before, self._ready = True, event
            case WorkerUnable():
                log.error("%s%s", self._log_prefix, event.error.sentence())
                self._unable = event.error
                self._starts.give_up()
            case MemoryReported():
                self._outstanding.done(event.request_id, time.monotonic())
                self._memory.reported(event, self._engine_status)
            case MemoryFreed():
                self._outstanding.done(event.request_id, time.monotonic())
                self._starts.has_worked()
                self._memory.freed(event)
            case CancelPointGap():
                self._outstanding.gap(event.seconds)
            case _ if self._active is not None and event.run_id == self._active.run_id:
                self._on_run_event(self._active, event)

    def _on_run_event(self, run: Run, event: Event) -> None:
        if isinstance(event, TERMINAL):
            if self._close_by is not None and isinstance(event, RunCancelled):
                event = event.model_copy(update={"notice": self._killed})
            self._leave(run)
            self._end(run, event)
            return
        if isinstance(event, FilesMissing):
            self._leave(run)
            if run.cancel_asked_at is None and self._close_by is None:
                self._runs.prepare_again(run, event)
            else:
                ended = RunCancelled(
                    run_id=run.run_id, time=time.time(), phase=run.phase, notice=self._killed
                )
                self._end(run, ended)
            return
        if isinstance(event, RunStarted):
            self._outstanding.begun(run.run_id)
            self._starts.has_worked()
            self._runs.began(run, event)
            return
        run.append(event)  # type: ignore[arg-type]  # every other event of a run is a RunEvent

    def _leave(self, run: Run) -> None:
        self._active = None
        self._outstanding.done(run.run_id, time.monotonic())
        self._memory.run_ended()

    def _end(self, run: Run, event: TerminalEvent) -> None:
        """Ends the run; a run that only the engine's stop ended may be resumed later."""
        stopped = self._close_by is not None and run.cancel_asked_at is None
        if stopped and isinstance(event, RunCancelled):
            self._runs.stop(run, event)
        else:
            self._runs.end(run, event)

    def _fail_active(self, error: Exception) -> None:
        """Fails the run in the worker and kills the worker, whose state is unknown."""
        run, self._active = self._active, None
        if run is None:
            return
        self._runs.end(run, engine_failure(run, error))
        if self._worker is not None and not self._killed:
            self._kill(f"The engine could not follow the worker, which was ended. {RELOADED}")

    # --- the worker's end ------------------------------------------------------------------------

    def _on_exit(self, worker_number: int, ended: WorkerExit) -> None:
        if worker_number != self._worker_number:
            return
        self._starts.ended(time.monotonic())
        self._outstanding.clear()
        self._ready, self._worker = None, None
        if self._unable is None and not self._killed:
            log.error("%s%s %s", self._log_prefix, ended.sentence, ended.last_lines)
        if self._active is not None:
            run, self._active = self._active, None
            if self._can_go_again(run):
                self._runs.put_back(run)
            else:
                closing = self._close_by is not None
                self._end(run, worker_death(run, ended, self._killed, closing=closing))
        self._memory.worker_ended(self._killed or ended.sentence, self._engine_status)
        if self._starts.given_up:
            self._give_up(self._killed or ended.sentence, ended.last_lines)

    def _can_go_again(self, run: Run) -> bool:
        """Returns whether the run had not begun, so that it cannot have caused the worker's end."""
        waited = run.started_at is None and run.cancel_asked_at is None
        # After giving up, it fails with all waiting runs.
        again = run.times_sent < STARTS_IN_A_ROW or self._starts.given_up
        return waited and again and self._close_by is None

    def _give_up(self, why: str, last_lines: str = "") -> None:
        """Notes that the worker does not start, and fails requests to free memory."""
        message = f"The worker process does not start: {why}"
        died = WorkerDied(message, hint="The server's log says more.", detail=last_lines)
        self._given_up = self._unable or died.report()
        self._memory.fail_frees(self._given_up.message)
