"""One run: its plan, its log of events, and everything else derived from the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.errors import InvalidInputs, first_line
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
from app.workflow.plan import Plan
from app.workflow.plan_sources import ModelSource

log = logging.getLogger(__name__)

Stage = Literal["queued", "preparing", "ready"]
RunState = Stage | Literal["running", "succeeded", "failed", "cancelled"]
"""It is queued while what it needs is not here and nobody brings it, and ready for a worker when
all is here."""


class RunInfo(Message):
    """A run as lists show it. Times are Unix seconds.

    The owner is not part of it: it is the secret by which a visit or a script finds its runs.
    """

    run_id: str
    mine: bool = False
    """Whether it belongs to whoever asked."""
    workflow: str
    """The stem of the workflow's file."""
    title: str
    """The workflow's id."""
    state: RunState
    phase: Phase
    seed: int
    takes_seed: bool
    """False where every step has a seed of its own, so that another one would change nothing."""
    submitted_at: float
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True, eq=False)
class Follower:
    """Somebody who wants to know when the log has grown; `wake` is called on the engine's thread
    and must return at once."""

    wake: Callable[[], None]
    previews: bool


class Run:
    """Written by the engine's thread alone; others may read all of it.

    Previews are not part of the log: only the newest counts.
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
        """Whose share of the queue it takes; empty where nobody counts."""
        self.check = check
        """What the plan has to pass once more when media by URL are here."""
        self.plan = plan
        self.request_key = request_key
        """Equal for requests that make the same; None when the seed was drawn."""
        self.fresh = fresh
        self.stage: Stage = "ready" if prepared else "queued"
        """How far it is while it waits; a worker can have it when it is ready."""
        self.loads: Mapping[str, int] | None = None
        """The bytes of the components it loads, by their keys; None where that is not known."""
        self.asked: list[tuple[ModelSource, tuple[str, ...]]] = []
        """What workers have found missing: models, and which of their files."""
        self.submitted_at = time.time()
        self.events: list[RunEvent] = []
        self.preview: Preview | None = None
        self.followers: set[Follower] = set()
        self.cancel_asked_at: float | None = None
        """Monotonic seconds; None while nobody has cancelled it."""
        self.notice = ""
        """What whoever follows should know first, for example that the server was restarted."""
        self.times_sent = 0
        """How many workers it was given to."""

    def append(self, event: RunEvent) -> None:
        """Add to the log, or replace the preview, and wake the followers."""
        if isinstance(event, Preview):
            self.preview = event
        else:
            self.events.append(event)
        if self.over:
            self.preview = None
        for follower in tuple(self.followers):
            self.wake(follower)

    def wake(self, follower: Follower) -> None:
        """Wake this follower; one that fails follows no longer, and harms nobody else."""
        try:
            follower.wake()
        except Exception:
            log.exception("A follower of run %s could not be woken", self.run_id)
            self.followers.discard(follower)

    def command(self) -> StartRun:
        """What the worker is sent to begin it."""
        return StartRun(
            run_id=self.run_id,
            plan=self.plan,
            previews=self.watched,
            fresh=self.fresh,
            request_key=self.request_key,
        )

    @property
    def over(self) -> bool:
        """Whether the log has its terminal event."""
        return bool(self.events) and isinstance(self.events[-1], TERMINAL)

    @property
    def watched(self) -> bool:
        """Whether any follower wants previews."""
        return any(follower.previews for follower in self.followers)

    @property
    def phase(self) -> Phase:
        """The phase the running step is in, or what the run waits for."""
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
        """What the log says has become of it."""
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
        """When the worker began with it, Unix seconds."""
        # One that waits once more has not begun.
        moves = (each for each in reversed(self.events) if isinstance(each, RunStarted | RunQueued))
        last = next(moves, None)
        return last.time if isinstance(last, RunStarted) else None

    @property
    def takes_seed(self) -> bool:
        """False where every step has a seed of its own, so that another would change nothing."""
        seed = self.plan.seed
        return any(step.takes_seed and step.seed == seed for step in self.plan.steps)

    def info(self) -> RunInfo:
        """The run as lists show it."""
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
    """Raises InvalidInputs if the worker could not read this command."""
    try:
        data = encode(command)
        decode_command(data)
    except ValueError as error:
        log.warning("A request is refused: %s", first_line(error))
        raise InvalidInputs(
            "The worker could not be given this request: something in it is nested too deeply, or"
            " is no JSON."
        ) from error
    if len(data) > MAX_COMMAND_BYTES:
        raise InvalidInputs(
            f"What is to be run is written in {len(data):,} bytes; at most {MAX_COMMAND_BYTES:,}"
            " are taken.",
            hint="Use fewer steps or rounds, or shorter values.",
        )
