"""All runs of the engine in memory: the queue, active runs, and recently ended ones.

Only the engine's thread changes them. Collections are replaced, not mutated, so that other threads
may call `find`, `kept` and `waiting` without a lock.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

from app.dialect.inputs import printable
from app.dialect.plan import Plan
from app.engine.ends import files_gone
from app.engine.history import History
from app.engine.request_cache import RequestCache, RequestResults
from app.engine.run import Run
from app.errors import QueueFull, TooManyRuns, UnknownRun, shortened
from app.models.specs import PlanSpecs
from app.planning.plan_media import media_files
from app.protocol import (
    FilesMissing,
    Noticed,
    PhaseChanged,
    ResultSaved,
    RunCancelled,
    RunFailed,
    RunQueued,
    RunStarted,
    RunSucceeded,
    TerminalEvent,
    Timings,
)
from app.settings import EngineSettings
from app.trimming import Needed

log = logging.getLogger(__name__)


def new_run_id() -> str:
    """Returns an id that sorts by time and cannot be guessed, since it gives access to the run."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(8)}"


class Runs:
    """The queue and the runs by id."""

    def __init__(self, settings: EngineSettings, outputs: Path, history: History) -> None:
        self._settings = settings
        self._history = history
        self._runs: dict[str, Run] = {}
        self._waiting: tuple[Run, ...] = ()
        self._outputs = outputs
        self._request_cache = RequestCache(outputs)

    def take(self, run: Run) -> Future[None]:
        """Answers the run from an identical one's files, or queues it; changes its id if taken.

        The future is done when the run is in the history. Raises QueueFull.
        """
        if len(self._waiting) >= self._settings.max_queued_runs:
            raise QueueFull(
                f"{len(self._waiting)} runs are waiting already.",
                hint="Try again when some are done, or cancel some.",
            )
        most = self._settings.max_queued_runs_per_person
        if run.person and sum(other.person == run.person for other in self._waiting) >= most:
            raise TooManyRuns(
                f"{most} of your runs are waiting already.",
                hint="Try again when some are done, or cancel some.",
            )
        while run.run_id in self._runs or (self._outputs / run.run_id).exists():
            run.run_id = new_run_id()
        made = self._cached_results(run)
        noted = self._history.note_asked(run)
        self._add(run, made)
        return noted

    def resume(self, run: Run) -> None:
        """Queues a run that an earlier server left unfinished."""
        self._add(run, self._cached_results(run))

    def _add(self, run: Run, made: RequestResults | None) -> None:
        self._runs = {**self._without_old(), run.run_id: run}
        position = 0 if made else len(self._waiting)
        now = time.time()
        run.append(RunQueued(run_id=run.run_id, time=now, position=position, notice=run.notice))
        if made is not None:
            self._answer(made, run)
        else:
            self._waiting = (*self._waiting, run)

    def preparing(self, run: Run) -> None:
        """Notes that the run's preparation begins."""
        run.stage = "preparing"
        self._history.note_state(run)
        run.append(PhaseChanged(run_id=run.run_id, time=time.time(), step="", phase="preparing"))

    def prepared(self, run: Run, plan: Plan, request_key: str | None, specs: PlanSpecs) -> None:
        """Notes that the run's files are here: sets its final plan, and makes it ready."""
        if run.over:
            return
        run.plan, run.request_key, run.specs, run.stage = plan, request_key, specs, "ready"
        self._history.note_state(run)
        made = self._cached_results(run)
        if made is not None:
            self.leave_queue(run)
            self._answer(made, run)
        else:
            position = self._waiting.index(run)
            run.append(RunQueued(run_id=run.run_id, time=time.time(), position=position))

    def end_early(self, run: Run, event: TerminalEvent) -> None:
        """Ends a waiting run; ignores one that is over."""
        if self.leave_queue(run):
            self.end(run, event)

    def _cached_results(self, run: Run) -> RequestResults | None:
        key = None if run.fresh else run.request_key
        return self._request_cache.find(key) if key else None

    def find(self, run_id: str) -> Run:
        run = self._runs.get(run_id) if isinstance(run_id, str) else None
        if run is None:
            raise UnknownRun(f"There is no run '{shortened(printable(str(run_id)))}'.")
        return run

    @property
    def needed(self) -> Needed:
        """Folders and media of unfinished runs, which must not be removed."""
        going = [run for run in self._runs.values() if not run.over]
        files = frozenset(Path(path) for run in going for path in media_files(run.plan))
        return Needed(frozenset(run.run_id for run in going), files)

    @property
    def kept(self) -> Mapping[str, Run]:
        """Runs in memory by id, oldest first."""
        return self._runs

    @property
    def waiting(self) -> tuple[Run, ...]:
        """Waiting runs, in order."""
        return self._waiting

    @property
    def ready(self) -> tuple[Run, ...]:
        """Runs that could start now, in order."""
        return tuple(run for run in self._waiting if run.stage == "ready")

    def leave_queue(self, run: Run) -> bool:
        """Removes the run from the queue and reports new positions; False if it was not in it."""
        if run not in self._waiting:
            return False
        self._waiting = tuple(other for other in self._waiting if other is not run)
        self._report_positions()
        return True

    def put_back(self, run: Run) -> None:
        """Puts a run that never began at the head of the queue."""
        self._waiting = (run, *self._waiting)
        run.append(RunQueued(run_id=run.run_id, time=time.time(), position=0))
        self._report_positions()

    def prepare_again(self, run: Run, missing: FilesMissing) -> None:
        """Queues a run again whose worker found files missing; fails it the second time."""
        asked = (missing.source, missing.names)
        if asked in run.asked:
            # They were fetched, but are gone again or cannot be read.
            self.end(run, RunFailed(run_id=run.run_id, time=time.time(), error=files_gone(missing)))
            return
        run.asked.append(asked)
        run.stage, run.specs = "queued", None
        self._history.note_waiting(run)
        self.put_back(run)

    def _report_positions(self) -> None:
        for position, run in enumerate(self._waiting):
            last = run.events[-1]
            if isinstance(last, RunQueued) and last.position != position:
                run.append(RunQueued(run_id=run.run_id, time=time.time(), position=position))

    def began(self, run: Run, event: RunStarted) -> None:
        self._history.note_started(run, event.time)
        run.append(event)

    def stop(self, run: Run, event: RunCancelled) -> None:
        """Appends the last event of a run when the server stops; the next server may resume it."""
        self._history.note_stopped(run, event)
        run.append(event)

    def stop_waiting(self, how: Callable[[str], RunCancelled]) -> None:
        """Stops all waiting runs; `how` makes the last event from a run id."""
        waiting, self._waiting = self._waiting, ()
        for run in waiting:
            self.stop(run, how(run.run_id))

    def end(self, run: Run, event: TerminalEvent) -> None:
        """Appends the run's last event, and caches its results for identical requests."""
        if isinstance(event, RunFailed):
            error = event.error
            log.error("Run %s failed: %s", run.run_id, error.sentence())
            if error.detail:
                log.info("Details of run %s:\n%s", run.run_id, error.detail)
        # Wakes followers before the slower writes.
        run.append(event)
        self._history.note_ended(run, event)
        # Not from a leaner mode, whose results may differ slightly.
        if (
            isinstance(event, RunSucceeded)
            and run.request_key
            and not (event.out_of_memory or event.files_changed)
        ):
            results = tuple(saved for saved in run.events if isinstance(saved, ResultSaved))
            made = RequestResults(
                made_at=event.made_at or event.time,
                results=results,
                outputs=event.outputs,
                notices=tuple(each for each in run.events if isinstance(each, Noticed)),
            )
            self._request_cache.note(run.request_key, made)

    def end_waiting(self, how: Callable[[str], TerminalEvent]) -> None:
        """Ends all waiting runs; `how` makes the last event from a run id."""
        waiting, self._waiting = self._waiting, ()
        for run in waiting:
            self.end(run, how(run.run_id))

    def _without_old(self) -> dict[str, Run]:
        """Returns the runs without the oldest ended ones over the limit."""
        over = [run_id for run_id, run in self._runs.items() if run.over]
        old = set(over[: max(0, len(over) - self._settings.kept_runs + 1)])
        return {run_id: run for run_id, run in self._runs.items() if run_id not in old}

    def _answer(self, made: RequestResults, run: Run) -> None:
        now = time.time()
        steps = tuple(step.name for step in run.plan.steps)
        run.append(RunStarted(run_id=run.run_id, time=now, steps=steps))
        for event in (*made.notices, *made.results):
            run.append(event.model_copy(update={"run_id": run.run_id}))
        ended = RunSucceeded(
            run_id=run.run_id,
            time=now,
            timings=Timings(total_s=0.0),
            loaded=(),
            outputs=made.outputs,
            made_at=made.made_at,
        )
        self._history.note_ended(run, ended)
        run.append(ended)
