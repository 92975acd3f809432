"""All runs of the engine: those that wait in their order, and those that are over while they are
kept. Changed by the engine's thread alone; what changes is replaced whole, so that other threads
may read `find`, `infos` and `waiting` without waiting for anything."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

from app.engine.ends import files_gone
from app.engine.history import History
from app.engine.remembered import Remembered, RememberedResults
from app.engine.run import Run, RunInfo
from app.errors import QueueFull, UnknownRun, shortened
from app.protocol import (
    FilesMissing,
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
from app.workflow.inputs import printable
from app.workflow.plan import Plan
from app.workflow.remote import media_files

log = logging.getLogger(__name__)


def new_run_id() -> str:
    """An id that sorts by its second, and that nobody can guess: who knows the id of a run may
    cancel it, and finds its folder."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(8)}"


class Runs:
    """The book of runs."""

    def __init__(self, settings: EngineSettings, outputs: Path, history: History) -> None:
        self._settings = settings
        self._history = history
        self._runs: dict[str, Run] = {}
        self._waiting: tuple[Run, ...] = ()
        self._outputs = outputs
        self._remembered = RememberedResults(outputs)

    def take(self, run: Run) -> Future[None]:
        """Answer the run from an identical one's files, or have it wait. Its id becomes another one
        where that is taken already. The future is done when it is in the history. Raises QueueFull.
        """
        if len(self._waiting) >= self._settings.max_queued_runs:
            raise QueueFull(
                f"{len(self._waiting)} runs are waiting already.",
                hint="Try again when some are done, or cancel some.",
            )
        most = self._settings.max_queued_runs_per_person
        if run.person and sum(other.person == run.person for other in self._waiting) >= most:
            raise QueueFull(
                f"{most} of your runs are waiting already.",
                hint="Try again when some are done, or cancel some.",
            )
        while run.run_id in self._runs or (self._outputs / run.run_id).exists():
            run.run_id = new_run_id()
        made = self._made_before(run)
        noted = self._history.note_asked(run)
        self._add(run, made)
        return noted

    def take_up(self, run: Run) -> None:
        """Have a run wait again that an earlier server left unfinished."""
        self._add(run, self._made_before(run))

    def _add(self, run: Run, made: Remembered | None) -> None:
        self._runs = {**self._without_old(), run.run_id: run}
        position = 0 if made else len(self._waiting)
        now = time.time()
        run.append(RunQueued(run_id=run.run_id, time=now, position=position, notice=run.notice))
        if made is not None:
            self._answer_from(made, run)
        else:
            self._waiting = (*self._waiting, run)

    def preparing(self, run: Run) -> None:
        """What the run needs is being brought here from now on."""
        run.stage = "preparing"
        self._history.note_state(run)
        run.append(PhaseChanged(run_id=run.run_id, time=time.time(), step="", phase="preparing"))

    def prepared(
        self, run: Run, plan: Plan, request_key: str | None, loads: Mapping[str, int] | None
    ) -> None:
        """All that the run needs is here: from now on this is its plan, and it waits for a worker
        alone."""
        if run.over:
            return
        run.plan, run.request_key, run.loads, run.stage = plan, request_key, loads, "ready"
        self._history.note_state(run)
        made = self._made_before(run)
        if made is not None:
            self.leave_queue(run)
            self._answer_from(made, run)
        else:
            position = self._waiting.index(run)
            run.append(RunQueued(run_id=run.run_id, time=time.time(), position=position))

    def end_early(self, run: Run, event: TerminalEvent) -> None:
        """End a run that waits; one that is over stays as it is."""
        if self.leave_queue(run):
            self.end(run, event)

    def _made_before(self, run: Run) -> Remembered | None:
        key = None if run.fresh else run.request_key
        return self._remembered.find(key) if key else None

    def find(self, run_id: str) -> Run:
        """The run of this id. Raises UnknownRun."""
        run = self._runs.get(run_id) if isinstance(run_id, str) else None
        if run is None:
            raise UnknownRun(f"There is no run '{shortened(printable(str(run_id)))}'.")
        return run

    @property
    def needed(self) -> Needed:
        """What must not be removed yet: the folders and the media of runs that are not over."""
        going = [run for run in self._runs.values() if not run.over]
        files = frozenset(Path(path) for run in going for path in media_files(run.plan))
        return Needed(frozenset(run.run_id for run in going), files)

    def infos(self, owner: str | None) -> list[RunInfo]:
        """All runs that are kept, or one owner's; newest first."""
        runs = reversed(self._runs.values())
        return [run.info() for run in runs if owner is None or run.owner == owner]

    @property
    def waiting(self) -> tuple[Run, ...]:
        """Those that wait, in the order they came."""
        return self._waiting

    @property
    def ready(self) -> tuple[Run, ...]:
        """Those that could start now, in the order they came."""
        return tuple(run for run in self._waiting if run.stage == "ready")

    def leave_queue(self, run: Run) -> bool:
        """Have the run wait no longer, and tell the others their places; False where it did not."""
        if run not in self._waiting:
            return False
        self._waiting = tuple(other for other in self._waiting if other is not run)
        self._tell_positions()
        return True

    def put_back(self, run: Run) -> None:
        """Have a run that was never begun wait again, before all others."""
        self._waiting = (run, *self._waiting)
        run.append(RunQueued(run_id=run.run_id, time=time.time(), position=0))
        self._tell_positions()

    def prepare_again(self, run: Run, missing: FilesMissing) -> None:
        """Have a run wait again, before all others, that a worker could not begin for want of
        files; where it has asked for them before, this ends it."""
        asked = (missing.source, missing.names)
        if asked in run.asked:
            # They were brought, and have gone again or cannot be read.
            self.end(run, RunFailed(run_id=run.run_id, time=time.time(), error=files_gone(missing)))
            return
        run.asked.append(asked)
        run.stage = "queued"
        self._history.note_waiting(run)
        self.put_back(run)

    def _tell_positions(self) -> None:
        for position, run in enumerate(self._waiting):
            last = run.events[-1]
            if isinstance(last, RunQueued) and last.position != position:
                run.append(RunQueued(run_id=run.run_id, time=time.time(), position=position))

    def began(self, run: Run, event: RunStarted) -> None:
        """Note that a worker has begun with the run."""
        self._history.note_started(run, event.time)
        run.append(event)

    def stop(self, run: Run, event: RunCancelled) -> None:
        """Write the last event of a run that the next server takes up, or that ends with this."""
        self._history.note_stopped(run, event)
        run.append(event)

    def stop_waiting(self, how: Callable[[str], RunCancelled]) -> None:
        """Stop all that wait; `how` makes the last event of each from its id."""
        waiting, self._waiting = self._waiting, ()
        for run in waiting:
            self.stop(run, how(run.run_id))

    def end(self, run: Run, event: TerminalEvent) -> None:
        """Write the run's last event; what it made answers an identical request from now on."""
        if isinstance(event, RunFailed):
            error = event.error
            log.error("Run %s failed: %s\n%s", run.run_id, error.sentence(), error.detail)
        # Its followers first: what else is to be written down takes its time.
        run.append(event)
        self._history.note_ended(run, event)
        # What a leaner mode made is no answer to the next request: it may differ a little.
        if (
            isinstance(event, RunSucceeded)
            and run.request_key
            and not (event.out_of_memory or event.files_changed)
        ):
            results = tuple(saved for saved in run.events if isinstance(saved, ResultSaved))
            made = Remembered(
                made_at=event.made_at or event.time, results=results, outputs=event.outputs
            )
            self._remembered.note(run.request_key, made)

    def end_waiting(self, how: Callable[[str], TerminalEvent]) -> None:
        """End all that wait; `how` makes the last event of each from its id."""
        waiting, self._waiting = self._waiting, ()
        for run in waiting:
            self.end(run, how(run.run_id))

    def _without_old(self) -> dict[str, Run]:
        """The runs without those that are over and one too many to be kept."""
        over = [run_id for run_id, run in self._runs.items() if run.over]
        old = set(over[: max(0, len(over) - self._settings.kept_runs + 1)])
        return {run_id: run for run_id, run in self._runs.items() if run_id not in old}

    def _answer_from(self, made: Remembered, run: Run) -> None:
        now = time.time()
        steps = tuple(step.name for step in run.plan.steps)
        run.append(RunStarted(run_id=run.run_id, time=now, steps=steps))
        for result in made.results:
            run.append(result.model_copy(update={"run_id": run.run_id}))
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
