"""Records runs in the history, and restores runs from it."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import Future
from functools import cached_property, partial
from pathlib import Path

import psutil
from pydantic import ValidationError

from app.dialect.plan import Plan
from app.engine.availability import identified_if_here
from app.engine.run import Run
from app.engine.store import Store
from app.engine.store_rows import StoredRun
from app.errors import RunError, WorkbenchError
from app.outputs import OutputStore
from app.planning.plan_media import media_files
from app.planning.planner import make_plan
from app.protocol import (
    ResultSaved,
    RunCancelled,
    RunFailed,
    RunQueued,
    RunStarted,
    TerminalEvent,
)
from app.settings import Settings

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
AGAIN = "The server was stopped while this run was in progress. It runs again."
WAITED = "The server was restarted. The run kept its place in the queue."
TWICE = "The server was stopped twice while this run was in progress, so it is not run again."
ABANDONED = "The command that asked for it ended before the run did."


class History:
    """The engine's access to the store. `note_…` methods do not block."""

    def __init__(self, store: Store, settings: Settings, *, resumable: bool) -> None:
        """`resumable`: whether a later server resumes this process's runs."""
        self.store = store
        self._settings = settings
        self._resumable = resumable

    # --- recording -------------------------------------------------------------------------------

    def note_asked(self, run: Run) -> Future[None]:
        """Records a new run; the future is done when it is committed."""
        plan = run.plan
        return self.store.add(
            StoredRun(
                run_id=run.run_id,
                owner=run.owner,
                workflow=Path(plan.workflow_path).stem,
                workflow_path=plan.workflow_path,
                workflow_hash=plan.workflow_hash,
                title=plan.workflow_id,
                inputs=plan.inputs,
                changes=plan.changes,
                seed=plan.seed,
                seed_given=plan.seed_given,
                takes_seed=run.takes_seed,
                fresh=run.fresh,
                process=self._process,
                resumable=self._resumable,
                submitted_at=run.submitted_at,
                state=run.state,
            ),
            partial(_written, plan),
        )

    def note_started(self, run: Run, started_at: float) -> None:
        self.store.note_started(run.run_id, started_at)

    def note_state(self, run: Run) -> None:
        self.store.note_state(run.run_id, run.state)

    def note_waiting(self, run: Run) -> None:
        """Records that a run waits again, without counting an attempt."""
        self.store.note_orderly_stop([run.run_id])

    def note_ended(self, run: Run, terminal: TerminalEvent) -> None:
        results = [event for event in run.events if isinstance(event, ResultSaved)]
        self.store.note_ended(run.run_id, terminal, results)

    def note_stopped(self, run: Run, terminal: TerminalEvent) -> bool:
        """Queues an unfinished run for the next server, as this one stops; if it is not resumable,
        ends it and returns False."""
        if self._resumable:
            self.store.note_orderly_stop([run.run_id])
        else:
            self.note_ended(run, terminal)
        return self._resumable

    # --- restoring -------------------------------------------------------------------------------

    def resume(self) -> list[Run]:
        """Returns the runs that an earlier server left unfinished, in order, to run again.

        Runs that cannot run again are recorded as failed. Call once, before the engine starts.
        """
        runs = []
        for stored in self.store.unfinished():
            if not stored.resumable:
                if not _is_alive(stored.process):
                    self._end(stored, RunCancelled(
                        run_id=stored.run_id, time=time.time(), phase="queued", notice=ABANDONED
                    ))  # fmt: skip
                continue
            try:
                runs.append(self._resumed(stored))
            except WorkbenchError as error:
                log.warning("Run %s is not resumed: %s", stored.run_id, error)
                failed = RunFailed(run_id=stored.run_id, time=time.time(), error=error.report())
                self._end(stored, failed)
        # So that a reader finds the ends of those that do not run again.
        self.store.flush()
        return runs

    def past_run(self, run_id: str) -> Run | None:
        stored = self.store.find(run_id)
        if stored is None or stored.terminal is None:
            return None
        run = Run(
            stored.run_id,
            stored.owner,
            Plan(
                workflow_id=stored.title,
                workflow_path=stored.workflow_path,
                workflow_hash=stored.workflow_hash,
                document={},
                changes=dict(stored.changes),
                inputs=dict(stored.inputs),
                seed=stored.seed,
                seed_given=stored.seed_given,
                steps=(),
            ),
            request_key=None,
            fresh=stored.fresh,
        )
        run.submitted_at = stored.submitted_at
        queued = RunQueued(run_id=run_id, time=stored.submitted_at, position=0)
        started = (
            [RunStarted(run_id=run_id, time=stored.started_at, steps=())]
            if stored.started_at is not None
            else []
        )
        run.events = [queued, *started, *self.store.results(run_id), stored.terminal]
        return run

    # --- private ---------------------------------------------------------------------------------

    def _resumed(self, stored: StoredRun) -> Run:
        was_running = stored.state == "running"
        if was_running and stored.attempts >= MAX_ATTEMPTS:
            raise RunError(TWICE, hint="Start it again, unless it is what stopped the server.")
        plan = self._plan_of(stored)
        for path in media_files(plan):
            if not Path(path).is_file():
                raise RunError(f"'{Path(path).name}', which this run needs, is gone.")
        specs, key = identified_if_here(plan, self._settings.worker)
        run = Run(
            stored.run_id,
            stored.owner,
            plan,
            request_key=key,
            fresh=stored.fresh,
            prepared=specs is not None,
        )
        run.specs = specs
        self.note_state(run)
        self._remove_results(run)
        run.submitted_at = stored.submitted_at
        run.notice = AGAIN if was_running else WAITED
        return run

    def _remove_results(self, run: Run) -> None:
        """Removes what an interrupted attempt has saved: the next one saves it again, and the
        history only knows results of ended runs."""
        try:
            OutputStore(self._settings.paths.outputs).delete(run.run_id)
        except OSError as error:
            log.warning("Results of an interrupted run could not be removed: %s", error)

    def _plan_of(self, stored: StoredRun) -> Plan:
        try:
            return Plan.model_validate_json(stored.plan or "")
        except ValidationError:
            # Written by another version of this program: planned again from the request.
            return make_plan(
                Path(stored.workflow_path),
                stored.inputs,
                paths=self._settings.paths,
                seed=stored.seed,
                changes=stored.changes,
            )

    def _end(self, stored: StoredRun, terminal: TerminalEvent) -> None:
        self.store.note_ended(stored.run_id, terminal)

    @cached_property
    def _process(self) -> str:
        return _named(psutil.Process(os.getpid()))


def _written(plan: Plan) -> str | None:
    """Returns the plan as JSON; None if JSON cannot represent it, which fails the run later."""
    try:
        return plan.model_dump_json()
    except ValueError:
        return None


def _named(process: psutil.Process) -> str:
    return f"{process.pid} {process.create_time()}"


def _is_alive(process: str) -> bool:
    """Returns whether this process is alive; compares its start time, since ids are reused."""
    pid, _, _ = process.partition(" ")
    try:
        return _named(psutil.Process(int(pid))) == process
    except (psutil.Error, ValueError):
        return False
