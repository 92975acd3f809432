"""All messages between the parent and the worker: commands and events.

Commands are imperatives, events state a fact. Every message is frozen plain data and crosses the
pipe as JSON bytes (`encode`, `decode_command`, `decode_event`): nothing is pickled. Exactly one of
RunSucceeded, RunFailed and RunCancelled ends a run. Images travel as files, except previews. Times
are Unix seconds, durations seconds, sizes bytes.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import time as now
from typing import Annotated, Any, Literal, Union, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from app.dialect.plan import Plan
from app.dialect.plan_sources import ModelSource
from app.errors import ErrorReport
from app.models.specs import PlanSpecs
from app.stamps import FileStamp, stamp_of

Place = Literal["device", "ram"]
"""Where a held component is. Without an accelerator the device is RAM."""
Phase = Literal[
    "queued", "fetching", "preparing", "loading", "encoding", "denoising", "decoding", "computing",
    "saving",
]  # fmt: skip


class Message(BaseModel):
    """A command or event; immutable."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )


# --- commands: parent → worker -------------------------------------------------------------------


class StartRun(Message):
    """Run this plan. Sent only when no run is in the worker."""

    type: Literal["start_run"] = "start_run"
    run_id: str
    plan: Plan
    previews: bool = False
    """Whether to make previews from the start (see WatchPreviews)."""
    fresh: bool = False
    """Whether to run every step, even if its result is cached."""
    request_key: str | None = None
    """The plan's key when it was submitted; see `fingerprint.request_key`."""
    specs: PlanSpecs | None = None
    """Component specs of the plan's steps, from the run's preparation."""


class CancelRun(Message):
    """End this run at its next cancel point. Ignored when the run is not in the worker."""

    type: Literal["cancel_run"] = "cancel_run"
    run_id: str


class WatchPreviews(Message):
    """Start or stop making previews of this run."""

    type: Literal["watch_previews"] = "watch_previews"
    run_id: str
    watched: bool


class FreeMemory(Message):
    """Drop all held components. Sent only when no run is in the worker."""

    type: Literal["free_memory"] = "free_memory"
    request_id: str


class PinComponent(Message):
    """Pin or unpin this component; a pinned one is never evicted."""

    type: Literal["pin_component"] = "pin_component"
    request_id: str = ""
    key: str
    pinned: bool


class DropComponents(Message):
    """Drop these components, after the active run if any."""

    type: Literal["drop_components"] = "drop_components"
    request_id: str = ""
    keys: tuple[str, ...]
    reason: str


class MoveToRam(Message):
    """Move these components from the accelerator to RAM, or drop them if RAM is full."""

    type: Literal["move_to_ram"] = "move_to_ram"
    request_id: str = ""
    keys: tuple[str, ...]
    reason: str


class CleanUp(Message):
    """Do a light cleanup between runs. Sent only when idle."""

    type: Literal["clean_up"] = "clean_up"
    request_id: str = ""


class ShutDown(Message):
    """End the worker process; a run in it is cancelled."""

    type: Literal["shut_down"] = "shut_down"


Command = Annotated[
    StartRun
    | CancelRun
    | WatchPreviews
    | FreeMemory
    | PinComponent
    | DropComponents
    | MoveToRam
    | CleanUp
    | ShutDown,
    Field(discriminator="type"),
]


# --- facts about the worker ----------------------------------------------------------------------


class MemoryUse(Message):
    """The worker's measured memory use."""

    device_bytes: int
    """Allocated on the accelerator by this process; 0 on a CPU."""
    device_reserved_bytes: int
    """Reserved by torch's allocator on the accelerator, in use or cached."""
    device_driver_bytes: int = 0
    """In use as the driver counts: on CUDA by all processes and the driver itself; on MPS by this
    process. 0 on a CPU."""
    device_free_bytes: int
    device_total_bytes: int
    resident_bytes: int
    """The worker's resident set (RSS)."""
    anonymous_bytes: int
    """Private to this process; the rest is file pages, which the system reclaims when needed."""
    ram_free_bytes: int
    ram_total_bytes: int
    """Limited by the worker's cgroup."""


class HeldComponent(Message):
    """One held component."""

    key: str
    title: str
    """`unet of shapes (float32)`."""
    place: Place
    weight_bytes: int
    file_backed_bytes: int
    """Weights that are mapped file pages."""
    load_s: float
    last_used: float
    used_by: tuple[str, ...]
    """Ids of workflows that used it since it was loaded."""
    pinned: bool


class Eviction(Message):
    """Components that left memory or the device, and why."""

    time: float
    titles: tuple[str, ...]
    what: str
    """`dropped` or `moved to RAM`."""
    reason: str


class Budgets(Message):
    """Limits for held weights."""

    device_bytes: int
    ram_bytes: int
    """0 without an accelerator, where the device is RAM."""


class BoundedMemory(Message):
    """One cache of the worker in RAM, with its limit."""

    name: str
    held_bytes: int
    max_bytes: int


class WorkerReady(Message):
    """The worker has imported its libraries and accepts commands."""

    type: Literal["worker_ready"] = "worker_ready"
    pid: int
    device: str
    """`cuda:0`, `mps` or `cpu`."""
    device_name: str
    versions: dict[str, str]
    memory: MemoryUse


class WorkerUnable(Message):
    """The worker cannot work with its settings and ends; another start would fail too."""

    type: Literal["worker_unable"] = "worker_unable"
    error: ErrorReport


class MemoryFreed(Message):
    """The answer to FreeMemory."""

    type: Literal["memory_freed"] = "memory_freed"
    request_id: str
    before: MemoryUse
    after: MemoryUse
    seconds: float
    dropped: tuple[HeldComponent, ...]


class MemoryReported(Message):
    """The held components; sent when they change, and in answer to every command with a
    `request_id` that has no other answer."""

    type: Literal["memory_reported"] = "memory_reported"
    request_id: str = ""
    """That of the command it answers, if any."""
    memory: MemoryUse
    budgets: Budgets
    held: tuple[HeldComponent, ...]
    bounded: tuple[BoundedMemory, ...] = ()
    """The worker's caches."""
    last_eviction: Eviction | None = None


class Logged(Message):
    """A line of the worker's log, to be logged by the parent."""

    type: Literal["logged"] = "logged"
    time: float
    level: int
    """As in `logging`."""
    logger: str
    text: str


# --- facts about a run ---------------------------------------------------------------------------


class RunEvent(Message):
    """A fact about one run, for its log: all classes derived from this one. `advance` shows it on
    the page, `script_event` reports it to scripts."""

    run_id: str
    time: float = Field(default_factory=now)
    """Unix seconds."""


class RunQueued(RunEvent):
    """The engine has queued the run. `position` counts the runs that came earlier and wait too,
    those among them whose media or models are still fetched included. A slot that holds what a
    later run loads may take that run first."""

    type: Literal["run_queued"] = "run_queued"
    position: int
    notice: str = ""
    """A note for the user, for example that the server was restarted."""


class FetchingMedia(RunEvent):
    """A media file of the waiting run is being fetched: `number` of `count`."""

    type: Literal["fetching_media"] = "fetching_media"
    url: str
    number: int
    count: int
    fetched_bytes: int
    total_bytes: int | None
    """None if unknown."""


class RunStarted(RunEvent):
    """The worker has started the run."""

    type: Literal["run_started"] = "run_started"
    steps: tuple[str, ...]


class StepStarted(RunEvent):
    """A workflow step begins."""

    type: Literal["step_started"] = "step_started"
    step: str
    index: int
    count: int


class StepRemembered(RunEvent):
    """The step that has begun reuses a cached result."""

    type: Literal["step_remembered"] = "step_remembered"
    step: str
    made_by: str
    """Id of the run that made the result."""
    made_at: float


class Loading(RunEvent):
    """A component is being loaded. Bytes are those of the whole run, from safetensors headers."""

    type: Literal["loading"] = "loading"
    step: str
    component: str
    model: str
    loaded_bytes: int
    total_bytes: int


class Downloading(RunEvent):
    """A model is being downloaded for a waiting run. Bytes are those of its weight files that were
    missing."""

    type: Literal["downloading"] = "downloading"
    model: str
    done_bytes: int
    """Includes earlier, interrupted downloads."""
    total_bytes: int
    seconds_left: float | None
    """Extrapolated."""


class PhaseChanged(RunEvent):
    """The running step entered another phase."""

    type: Literal["phase_changed"] = "phase_changed"
    step: str
    phase: Phase


class FilesMissing(Message):
    """The worker could not begin the run: files of this model are not on this machine. The run is
    sent again when they are."""

    type: Literal["files_missing"] = "files_missing"
    run_id: str
    time: float
    source: ModelSource
    names: tuple[str, ...] = ()
    """Missing files other than text files."""


class Noticed(RunEvent):
    """Something changed the result that its user would not expect."""

    type: Literal["noticed"] = "noticed"
    step: str
    sentence: str


class MemoryRanOut(RunEvent):
    """Memory ran out in the running step, which starts again, once, after the remedies."""

    type: Literal["memory_ran_out"] = "memory_ran_out"
    step: str
    phase: Phase
    """When it ran out."""
    done: tuple[str, ...]
    """The remedies, in sentences: what was evicted, and the step's new mode."""

    @property
    def sentence(self) -> str:
        """Text for users and the record."""
        return " ".join([f"Memory ran out in step '{self.step}' ({self.phase}).", *self.done])


class StepProgress(RunEvent):
    """Denoising steps done; for a task, calls done."""

    type: Literal["step_progress"] = "step_progress"
    step: str
    done: int
    total: int
    seconds_left: float | None
    """For this pipeline call or task, extrapolated."""
    without_preview: bool = False
    """Whether previews of these steps are impossible."""
    segment: int | None = None
    """Number of the video segment being made, from 1, of `segments`."""
    segments: int | None = None


class Preview(RunEvent):
    """A small image of the current latents. Only the newest counts."""

    type: Literal["preview"] = "preview"
    jpeg: bytes
    width: int
    height: int


NOT_SHOWN = ("image/tiff", "video/x-matroska", "video/x-msvideo", "audio/aiff", "audio/x-aiff")
"""Content types that browsers cannot show."""


class ResultSaved(RunEvent):
    """A result is on disk, with its record beside it."""

    type: Literal["result_saved"] = "result_saved"
    step: str
    path: str
    """Absolute."""
    sidecar: str
    """Absolute path of the JSON record."""
    content_type: str
    width: int | None = None
    height: int | None = None
    seed: int
    index: int
    """Within the step, from 0."""
    text: str = ""
    """The beginning of text or data, to be shown; else ""."""
    final: bool
    """True for results of the plan's last saving step."""
    stamps: tuple[FileStamp, FileStamp] | None = None
    """Stamps of the written file and record."""

    @property
    def is_visual(self) -> bool:
        """True for images and videos that browsers show."""
        visual = self.content_type.startswith(("image/", "video/"))
        return visual and self.content_type not in NOT_SHOWN

    @property
    def is_there(self) -> bool:
        """True if the file still exists."""
        try:
            return Path(self.path).is_file()
        except OSError:
            return False

    @property
    def is_as_written(self) -> bool:
        """True if the file and its record are readable and unchanged."""
        files = Path(self.path), Path(self.sidecar)
        try:
            stamps = tuple(map(stamp_of, files))
        except OSError:
            return False
        return stamps == self.stamps and all(os.access(file, os.R_OK) for file in files)


class CancelPointGap(Message):
    """The longest time between two cancel points has grown."""

    type: Literal["cancel_point_gap"] = "cancel_point_gap"
    run_id: str
    seconds: float


class Timings(Message):
    """Durations of a run's activities."""

    total_s: float
    load_s: float = 0.0
    compute_s: float = 0.0
    save_s: float = 0.0


class RunSucceeded(RunEvent):
    """Terminal: all steps are done."""

    type: Literal["run_succeeded"] = "run_succeeded"
    timings: Timings
    loaded: tuple[str, ...]
    """Titles of the components that had to be loaded."""
    outputs: tuple[JsonValue, ...] = ()
    """Text and data of the last step that are not saved to a file."""
    out_of_memory: tuple[str, ...] = ()
    """One sentence for each time memory ran out. Only if empty are the results bit-identical to
    those of every other run of the request."""
    files_changed: bool = False
    """Whether a file it read was replaced during the run: its results must not be reused."""
    made_at: float | None = None
    """Time of the newest result if all were cached; None if any step ran."""


class RunFailed(RunEvent):
    """Terminal: the run could not be finished."""

    type: Literal["run_failed"] = "run_failed"
    error: ErrorReport


class RunCancelled(RunEvent):
    """Terminal: the run was cancelled, in this `phase`."""

    type: Literal["run_cancelled"] = "run_cancelled"
    phase: Phase
    notice: str = ""
    """A note for the user, for example that the worker had to be ended."""


TerminalEvent = RunSucceeded | RunFailed | RunCancelled
TERMINAL = (RunSucceeded, RunFailed, RunCancelled)

Event = (
    WorkerReady
    | WorkerUnable
    | MemoryFreed
    | MemoryReported
    | Logged
    | CancelPointGap
    | FilesMissing
    | RunEvent
)

_COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)
_ANY_EVENT: Any = Union[
    (*(each for each in get_args(Event) if each is not RunEvent), *RunEvent.__subclasses__())
]
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[_ANY_EVENT, Field(discriminator="type")])


MAX_COMMAND_BYTES = 32_000_000
"""Limit for one command, since decoding takes many times as much memory."""


def encode(message: Message) -> bytes:
    """Returns the message as JSON bytes. Raises ValueError if JSON cannot represent it."""
    return message.model_dump_json().encode()


def decode_command(data: bytes) -> Command:
    """Returns the command in these bytes. Raises pydantic.ValidationError."""
    return _COMMANDS.validate_json(data)


def decode_event(data: bytes) -> Event:
    """Returns the event in these bytes. Raises pydantic.ValidationError."""
    return _EVENTS.validate_json(data)
