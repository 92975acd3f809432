"""One run: its plan, its event log, and state derived from the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.dialect.plan import Plan
from app.dialect.plan_sources import ModelSource
from app.errors import InvalidInputs, first_line
from app.models.specs import PlanSpecs
from app.protocol import (
    MAX_COMMAND_BYTES,
    TERMINAL,
    Downloading,
    FetchingMedia,
    Message,
    Phase,
    PhaseChanged,
    Preview,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunQueued,
    RunStarted,
    RunSucceeded,
    StartRun,
    decode_command,
    encode,
)

log = logging.getLogger(__name__)

Stage = Literal["queued", "preparing", "ready"]
RunState = Stage | Literal["running", "succeeded", "failed", "cancelled"]
"""`queued` until its preparation begins; `ready` for a worker when all its files are here."""


class RunInfo(Message):
    """Summary of a run, for lists. Times are Unix seconds.

    Without the owner, which is a secret.
    """

    run_id: str
    mine: bool = False
    """Whether it belongs to the caller."""
    workflow: str
    """Stem of the workflow's file name."""
    title: str
    """Workflow id."""
    state: RunState
    phase: Phase
    seed: int
    takes_seed: bool
    """False if every step has its own seed, so that another one would change nothing."""
    submitted_at: float
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True, eq=False)
class Follower:
    """A reader to wake when the log grows; `wake` is called on the engine's thread and must return
    at once."""

    wake: Callable[[], None]
    previews: bool


class Run:
    """A run. Only the engine's thread writes; any thread may read.

    Previews are not part of the log; only the newest is kept.
    """

    def __init__(
        self,
        run_id: str,
        owner: str,
        plan: Plan,
        *,
        request_key: str | None,
        fresh: bool,
        prepared: bool = True,
        person: str = "",
        check: Callable[[Plan], None] | None = None,
    ) -> None:
        self.run_id = run_id
        self.owner = owner
        """The secret by which a visit or a script finds its runs."""
        self.person = person
        """Who submitted it, for limits per person; empty if there are none."""
        self.check = check
        """Checks the plan again when media by URL are here; see `Engine.submit`."""
        self.plan = plan
        self.request_key = request_key
        """Equal for identical requests; None if the seed was drawn."""
        self.fresh = fresh
        self.stage: Stage = "ready" if prepared else "queued"
        """Stage of a waiting run; only a ready one can start."""
        self.specs: PlanSpecs | None = None
        """What its steps load; None until it is ready."""
        self.asked: list[tuple[ModelSource, tuple[str, ...]]] = []
        """Models and files that workers have reported missing."""
        self.submitted_at = time.time()
        self.events: list[RunEvent] = []
        self.preview: Preview | None = None
        self.followers: set[Follower] = set()
        self.cancel_asked_at: float | None = None
        """Monotonic seconds; None if not cancelled."""
        self.notice = ""
        """A note for the user, for example that the server was restarted."""
        self.times_sent = 0
        """How often it was sent to a worker."""

    def append(self, event: RunEvent) -> None:
        """Appends to the log, or replaces the preview, and wakes the followers."""
        if isinstance(event, Preview):
            self.preview = event
        else:
            self.events.append(event)
        if self.over:
            self.preview = None
        for follower in tuple(self.followers):
            self.wake(follower)

    def wake(self, follower: Follower) -> None:
        """Wakes this follower; removes it if that fails."""
        try:
            follower.wake()
        except Exception:
            log.exception("A follower of run %s could not be woken", self.run_id)
            self.followers.discard(follower)

    def command(self) -> StartRun:
        return StartRun(
            run_id=self.run_id,
            plan=self.plan,
            previews=self.watched,
            fresh=self.fresh,
            request_key=self.request_key,
            specs=self.specs,
        )

    @property
    def loads(self) -> Mapping[str, int] | None:
        """The bytes of the components it loads, by their keys; None where that is not known."""
        return None if self.specs is None else self.specs.weight_bytes

    @property
    def over(self) -> bool:
        """True if the log has its terminal event."""
        return bool(self.events) and isinstance(self.events[-1], TERMINAL)

    @property
    def watched(self) -> bool:
        return any(follower.previews for follower in self.followers)

    @property
    def phase(self) -> Phase:
        """The phase of the running step, or of the preparation."""
        for event in reversed(self.events):
            match event:
                case PhaseChanged():
                    return event.phase
                case FetchingMedia():
                    return "fetching"
                case Downloading():
                    return "preparing"
                case RunStarted() | RunQueued():
                    break
        return "queued"

    @property
    def state(self) -> RunState:
        return self._state_after(self.events[-1] if self.events else None)

    def _state_after(self, last: RunEvent | None) -> RunState:
        match last:
            case RunSucceeded():
                return "succeeded"
            case RunFailed():
                return "failed"
            case RunCancelled():
                return "cancelled"
        return self.stage if self.started_at is None else "running"

    @property
    def started_at(self) -> float | None:
        """When a worker began it, in Unix seconds."""
        # A run that waits again has not begun.
        moves = (each for each in reversed(self.events) if isinstance(each, RunStarted | RunQueued))
        last = next(moves, None)
        return last.time if isinstance(last, RunStarted) else None

    @property
    def takes_seed(self) -> bool:
        """False if every step has its own seed, so that another one would change nothing."""
        seed = self.plan.seed
        return any(step.takes_seed and step.seed == seed for step in self.plan.steps)

    def info(self) -> RunInfo:
        """Returns the summary for lists."""
        last = self.events[-1] if self.events else None
        return RunInfo(
            run_id=self.run_id,
            workflow=Path(self.plan.workflow_path).stem,
            title=self.plan.workflow_id,
            state=self._state_after(last),
            phase=self.phase,
            seed=self.plan.seed,
            takes_seed=self.takes_seed,
            submitted_at=self.submitted_at,
            started_at=self.started_at,
            ended_at=last.time if isinstance(last, TERMINAL) else None,
        )


def check_command(command: StartRun) -> None:
    """Raises InvalidInputs if the worker could not decode this command."""
    try:
        data = encode(command)
        decode_command(data)
    except ValueError as error:
        log.warning("A request is refused: %s", first_line(error))
        raise InvalidInputs(
            "The request cannot be sent to the worker: it is nested too deeply, or not valid JSON."
        ) from error
    if len(data) > MAX_COMMAND_BYTES:
        raise InvalidInputs(
            f"The definition of the run has {len(data):,} bytes; the maximum is"
            f" {MAX_COMMAND_BYTES:,}.",
            hint="Use fewer steps or rounds, or shorter values.",
        )
