"""The engine's thread: one mailbox, one writer of all its state.

Everything here runs on that thread; other threads put calls into the mailbox (`ask`, `post`). No
call waits for anything, so the mailbox is always answered at once.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Literal, TypeVar

from app.engine.fetches import MediaFetches
from app.engine.memory import WorkerMemory
from app.engine.run import Follower, Run, RunInfo
from app.engine.runs import Runs
from app.engine.status import EngineStatus, WorkerState
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
    ShutDown,
    StartRun,
    WatchPreviews,
    WorkerReady,
    WorkerUnable,
)
from app.settings import Settings

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
FreeMode = Literal["when_idle", "cancel_and_free"]

LONGEST_WAIT_S = 3600.0
"""A deadline further away is looked at again (a lock cannot wait for ever so long)."""
STARTS_IN_A_ROW = 3
"""So often a worker may end before it is ready; then nothing is started until somebody asks."""
GAPS_OF_GRACE = 3
"""A cancel may take so many times the longest gap between two checkpoints that was ever seen."""


class EngineLoop:
    """Queue, runs and worker; made by `Engine.start`."""

    def __init__(self, settings: Settings, target: WorkerTarget) -> None:
        self._settings = settings
        self._target = target
        self._mailbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._runs = Runs(settings.engine, settings.paths.outputs.resolve())
        self._fetches = MediaFetches(settings, self._runs, self.post)
        self._active: Run | None = None
        self._memory = WorkerMemory(settings.engine)
        self._worker: WorkerProcess | None = None
        self._ready: WorkerReady | None = None
        self._started_before = False
        self._failed_starts = 0
        self._unable: ErrorReport | None = None
        self._longest_gap_s = 0.0
        self._close_by: float | None = None
        self._killed = ""
        """Why this side ended the worker, for the person whose run was in it."""
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    # --- the mailbox -----------------------------------------------------------------------------

    def post(self, call: Callable[[], None]) -> None:
        """Have this called on the engine's thread."""
        self._mailbox.put(call)

    def ask(self, function: Callable[[], Answer]) -> Answer:
        """Call this on the engine's thread and wait for its answer. Raises what it raises."""
        answer: Future[Answer] = Future()

        def call() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:  # noqa: BLE001  (it is the asker's, whatever it is)
                answer.set_exception(error)

        if self._closed:
            raise EngineClosed("The engine has been closed.")
        self.post(call)
        while True:
            try:
                return answer.result(timeout=1.0)
            except TimeoutError:
                if self._closed and not answer.done():
                    raise EngineClosed("The engine has been closed.") from None

    def join(self) -> None:
        """Wait until the engine's thread has ended."""
        self._thread.join()

    def _serve(self) -> None:
        self._advance()
        while not self._closed:
            try:
                self._mailbox.get(timeout=self._seconds_to_deadline())()
            except queue.Empty:
                self._meet_deadlines()
            except Exception:
                # One message's mistake must not stop the queue for everybody; it is told in full.
                log.exception("A message could not be handled")
            self._advance()

    def _seconds_to_deadline(self) -> float | None:
        deadlines = [self._memory.next_deadline, self._close_by, self._kill_at()]
        nearest = min((at for at in deadlines if at is not None), default=None)
        if nearest is None:
            return None
        return min(max(0.0, nearest - time.monotonic()), LONGEST_WAIT_S)

    def _meet_deadlines(self) -> None:
        now = time.monotonic()
        for command in self._memory.due(now):
            if self._worker and self._ready and not self._occupied:
                self._worker.send(command)
        kill_at = self._kill_at()
        if self._worker and kill_at is not None and now >= kill_at and not self._killed:
            self._killed = (
                f"The worker did not stop within {self._grace_s:.0f} seconds and was ended."
                " What it had loaded will be loaded again."
            )
            log.warning("%s", self._killed)
            self._worker.kill()
        if self._worker and self._close_by is not None and now >= self._close_by:
            self._close_by = now + 1.0
            self._worker.kill()

    def _advance(self) -> None:
        """Do what can be done next. Called after every message."""
        if self._close_by is not None:
            self._closed = self._worker is None
            return
        while self._worker is None and self._failed_starts < STARTS_IN_A_ROW:
            self._spawn()
        if self._worker is None or self._ready is None or self._occupied or self._killed:
            return
        if (freeing := self._memory.next_free()) is not None:
            self._worker.send(freeing)
        elif (run := self._runs.next) is not None:
            self._start(run)

    @property
    def _occupied(self) -> bool:
        return self._active is not None or self._memory.is_freeing

    # --- what the engine's methods ask -----------------------------------------------------------

    def submit(self, run: Run) -> None:
        """Take the run: answer it from an identical one's files, or queue it."""
        self._refuse_when_closing()
        self._runs.take(run)
        if run.fetching:
            self._fetches.begin(run)
        if not run.over:
            self._try_again()

    def cancel(self, run_id: str) -> bool:
        """End the run, if it is not over: at once in the queue, at its next checkpoint else."""
        run = self.run(run_id)
        if run.over:
            return False
        phase = run.phase
        if self._runs.leave_queue(run):
            self._runs.end(run, RunCancelled(run_id=run_id, time=time.time(), phase=phase))
        elif run.cancel_asked_at is None and self._worker is not None:
            run.cancel_asked_at = time.monotonic()
            self._worker.send(CancelRun(run_id=run_id))
        return True

    def free(self, mode: FreeMode, answer: Future[MemoryFreed]) -> None:
        """Have everything freed before the next run; the answer comes into the future."""
        self._refuse_when_closing()
        if mode == "cancel_and_free" and self._active is not None:
            self.cancel(self._active.run_id)
        self._memory.ask_to_free(answer)
        self._try_again()

    def change_held(
        self, command: PinComponent | DropComponents, answer: Future[EngineStatus]
    ) -> None:
        """Have the worker keep or drop something: now, or after the run in progress."""
        self._refuse_when_closing()
        if self._worker is None:
            answer.set_result(self.status())
            return
        self._worker.send(self._memory.numbered(command, answer))

    def add_follower(self, run: Run, follower: Follower) -> None:
        """Wake this follower whenever the run's log grows, and once now."""
        self._change_followers(run, lambda: run.followers.add(follower))
        follower.wake()

    def remove_follower(self, run: Run, follower: Follower) -> None:
        """Stop waking it."""
        self._change_followers(run, lambda: run.followers.discard(follower))

    def _change_followers(self, run: Run, change: Callable[[], None]) -> None:
        watched = run.watched
        change()
        if run.watched != watched and run is self._active and self._worker is not None:
            self._worker.send(WatchPreviews(run_id=run.run_id, watched=run.watched))

    def run(self, run_id: str) -> Run:
        """The run of this id. Raises UnknownRun."""
        return self._runs.find(run_id)

    def runs(self, owner: str | None) -> list[RunInfo]:
        """All runs that are kept, or one owner's; newest first."""
        return self._runs.infos(owner)

    def status(self) -> EngineStatus:
        """What is going on now."""
        ready = self._ready
        return EngineStatus(
            worker=self._worker_state(),
            pid=self._worker.pid if self._worker else None,
            device=ready.device if ready else "",
            device_name=ready.device_name if ready else "",
            versions=ready.versions if ready else {},
            running=self._active.info() if self._active else None,
            queue=self._runs.waiting,
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
        self._runs.end_waiting(
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
            self._failed_starts += 1
            if self._failed_starts >= STARTS_IN_A_ROW:
                self._give_up(f"{type(error).__name__}: {error}")

    def _try_again(self) -> None:
        """Somebody asks for something: a worker that would not start gets one more chance."""
        if self._worker is None:
            self._failed_starts = min(self._failed_starts, STARTS_IN_A_ROW - 1)

    def _worker_state(self) -> WorkerState:
        if self._worker is None:
            return "dead"
        if self._ready is None:
            return "restarting" if self._started_before else "starting"
        return "busy" if self._occupied else "ready"

    @property
    def _grace_s(self) -> float:
        return max(self._settings.engine.cancel_grace_s, GAPS_OF_GRACE * self._longest_gap_s)

    def _kill_at(self) -> float | None:
        if self._killed or self._active is None or self._active.cancel_asked_at is None:
            return None
        return self._active.cancel_asked_at + self._grace_s

    def _start(self, run: Run) -> None:
        assert self._worker is not None
        self._active = run
        self._memory.run_began()
        self._worker.send(
            StartRun(
                run_id=run.run_id,
                plan=run.plan,
                previews=run.watched,
                fresh=run.fresh,
                request_key=run.request_key,
            )
        )
        self._runs.leave_queue(run)

    def _on_event(self, worker: WorkerProcess, event: Event) -> None:
        if worker is not self._worker:
            return
        match event:
            case Logged():
                _log_again(event)
            case WorkerReady():
                self._ready = event
                self._memory.began(event.memory)
                self._started_before, self._failed_starts = True, 0
            case WorkerUnable():
                log.error("%s", event.error.sentence())
                self._unable, self._failed_starts = event.error, STARTS_IN_A_ROW
            case MemoryReported():
                self._memory.reported(event, self.status)
            case MemoryFreed():
                self._memory.freed(event)
            case CheckpointGap():
                self._longest_gap_s = max(self._longest_gap_s, event.seconds)
            case _ if self._active is not None and event.run_id == self._active.run_id:
                self._on_run_event(self._active, event)

    def _on_run_event(self, run: Run, event: Event) -> None:
        if isinstance(event, TERMINAL):
            self._active = None
            self._memory.run_ended()
            self._runs.end(run, event)
        else:
            run.append(event)  # type: ignore[arg-type]  # every other event of a run is a RunEvent

    def _on_exit(self, worker: WorkerProcess, ended: WorkerExit) -> None:
        if worker is not self._worker:
            return
        self._worker = None
        self._failed_starts += self._ready is None
        self._ready = None
        if self._unable is None and not self._killed:
            log.error("%s %s", ended.sentence, ended.last_lines)
        if self._active is not None:
            run, self._active = self._active, None
            self._runs.end(run, self._death_of(run, ended))
        self._memory.gone(ended.sentence, self.status)
        if self._failed_starts >= STARTS_IN_A_ROW:
            self._give_up(ended.sentence, ended.last_lines)

    def _death_of(self, run: Run, ended: WorkerExit) -> RunCancelled | RunFailed:
        now, run_id = time.time(), run.run_id
        if self._killed:
            return RunCancelled(run_id=run_id, time=now, phase=run.phase, notice=self._killed)
        error = WorkerDied(
            f"{ended.sentence} The run was {_doing(run)}.",
            hint=ended.hint,
            detail=ended.last_lines,
        )
        return RunFailed(run_id=run_id, time=now, error=error.report())

    def _give_up(self, why: str, last_lines: str = "") -> None:
        """The worker does not come up: say so to everybody who waits."""
        message = f"The worker process does not start: {why}"
        died = WorkerDied(message, hint="The server's log says more.", detail=last_lines)
        report = self._unable or died.report()
        self._runs.end_waiting(
            lambda run_id: RunFailed(run_id=run_id, time=time.time(), error=report)
        )
        self._memory.fail_frees(report.message)


def _doing(run: Run) -> str:
    words = {"queued": "about to start", "saving": "saving its results"}
    return words.get(run.phase, run.phase)


def _log_again(event: Logged) -> None:
    """Log the worker's line in this process, under its own time and logger."""
    logger = logging.getLogger(event.logger)
    if not logger.isEnabledFor(event.level):
        return
    record = logger.makeRecord(event.logger, event.level, "", 0, event.text, (), None)
    record.created = event.time
    logger.handle(record)
