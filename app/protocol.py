"""Everything the parent and the worker say to each other: all commands, all events, one file.

Commands are imperatives, events state a fact. Every message is frozen plain data and crosses the
pipe as JSON bytes (`encode`, `decode_command`, `decode_event`): nothing is pickled. Exactly one of
RunSucceeded, RunFailed and RunCancelled ends a run. Pictures travel as files, previews excepted.
Times are Unix seconds, durations seconds, sizes bytes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from app.errors import ErrorReport
from app.stamps import FileStamp, stamp_of
from app.workflow.plan import Plan
from app.workflow.plan_sources import ModelSource

Place = Literal["device", "ram"]
"""Where a held component is. Without an accelerator the machine's memory is the device."""
Phase = Literal[
    "queued", "fetching", "preparing", "loading", "encoding", "denoising", "decoding", "computing",
    "saving",
]  # fmt: skip


class Message(BaseModel):
    """One typed fact or order; immutable."""

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
    """Whether somebody looks at the run from the start (see WatchPreviews)."""
    fresh: bool = False
    """Whether every step has to be run, also one whose result is remembered."""
    request_key: str | None = None
    """The plan's key when it was submitted; see `fingerprint.request_key`."""


class CancelRun(Message):
    """End this run at its next checkpoint. Ignored when the run is not in the worker (any more)."""

    type: Literal["cancel_run"] = "cancel_run"
    run_id: str


class WatchPreviews(Message):
    """Make previews of this run, or stop making them: nobody looks."""

    type: Literal["watch_previews"] = "watch_previews"
    run_id: str
    watched: bool


class FreeMemory(Message):
    """Drop everything that is held. Sent only when no run is in the worker."""

    type: Literal["free_memory"] = "free_memory"
    request_id: str


class PinComponent(Message):
    """Keep this component whatever room is needed, or do so no longer."""

    type: Literal["pin_component"] = "pin_component"
    request_id: str = ""
    key: str
    pinned: bool


class DropComponents(Message):
    """Let these go, after the run in progress if there is one."""

    type: Literal["drop_components"] = "drop_components"
    request_id: str = ""
    keys: tuple[str, ...]
    reason: str


class MoveToRam(Message):
    """Have these leave the accelerator for RAM, or for good where that is full."""

    type: Literal["move_to_ram"] = "move_to_ram"
    request_id: str = ""
    keys: tuple[str, ...]
    reason: str


class CleanUp(Message):
    """Light cleanup between runs. Sent only after a moment without work."""

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
    """What the worker holds, measured."""

    device_bytes: int
    """Allocated on the accelerator by this process; 0 on a CPU."""
    device_reserved_bytes: int
    """What torch's allocator holds of the accelerator, in use or kept for the next."""
    device_driver_bytes: int = 0
    """In use by the driver's account: on CUDA of the whole card, so with every process's part and
    with the driver's own; on MPS of this process. 0 on a CPU."""
    device_free_bytes: int
    device_total_bytes: int
    resident_bytes: int
    """The worker's resident set (RSS)."""
    anonymous_bytes: int
    """Of it, what only this process has; the rest is pages of files, which cost nothing to take."""
    ram_free_bytes: int
    ram_total_bytes: int
    """The machine's, within the limit of the worker's cgroup."""


class HeldComponent(Message):
    """One thing kept warm."""

    key: str
    title: str
    """`unet of shapes (float32)`."""
    place: Place
    weight_bytes: int
    file_backed_bytes: int
    """Of the weights, those that are pages of their file."""
    load_s: float
    last_used: float
    used_by: tuple[str, ...]
    """Ids of the workflows that used it since it was loaded."""
    pinned: bool


class Eviction(Message):
    """Why something is not held any more, or not on the device."""

    time: float
    titles: tuple[str, ...]
    what: str
    """`dropped` or `moved to RAM`."""
    reason: str


class Budgets(Message):
    """How many bytes of weights may be held."""

    device_bytes: int
    ram_bytes: int
    """0 without an accelerator: the device's budget is the machine's."""


class BoundedMemory(Message):
    """One cache of the worker: what it takes of the machine's memory, and the most it may take."""

    name: str
    held_bytes: int
    max_bytes: int


class WorkerReady(Message):
    """The worker has imported its libraries and takes commands."""

    type: Literal["worker_ready"] = "worker_ready"
    pid: int
    device: str
    """`cuda:0`, `mps` or `cpu`."""
    device_name: str
    versions: dict[str, str]
    memory: MemoryUse


class WorkerUnable(Message):
    """The worker cannot work with its settings and ends; another one could not either."""

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
    """What is held now; sent whenever it has changed, and as the answer to every command with a
    `request_id` that has no answer of its own."""

    type: Literal["memory_reported"] = "memory_reported"
    request_id: str = ""
    """Of the command that this answers, if it does."""
    memory: MemoryUse
    budgets: Budgets
    held: tuple[HeldComponent, ...]
    bounded: tuple[BoundedMemory, ...] = ()
    """What else is kept from run to run, by name."""
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


class RunQueued(Message):
    """The engine took the run. `position` 0 means it is next."""

    type: Literal["run_queued"] = "run_queued"
    run_id: str
    time: float
    position: int
    notice: str = ""
    """What the person should know, for example that the server was started again."""


class FetchingMedia(Message):
    """What the waiting run names by this URL is being fetched: `number` of `count`."""

    type: Literal["fetching_media"] = "fetching_media"
    run_id: str
    time: float
    url: str
    number: int
    count: int
    fetched_bytes: int
    total_bytes: int | None
    """None where the server does not say."""


class RunStarted(Message):
    """The worker has begun to walk the plan."""

    type: Literal["run_started"] = "run_started"
    run_id: str
    time: float
    steps: tuple[str, ...]


class StepStarted(Message):
    """A step of the plan begins."""

    type: Literal["step_started"] = "step_started"
    run_id: str
    time: float
    step: str
    index: int
    count: int


class StepRemembered(Message):
    """The step that has begun is not run: what it would make is remembered."""

    type: Literal["step_remembered"] = "step_remembered"
    run_id: str
    time: float
    step: str
    made_by: str
    """The id of the run that made it."""
    made_at: float


class Loading(Message):
    """A component is being loaded. Bytes are those of the safetensors headers, of the whole run."""

    type: Literal["loading"] = "loading"
    run_id: str
    time: float
    step: str
    component: str
    model: str
    loaded_bytes: int
    total_bytes: int


class Downloading(Message):
    """A model of the hub is being brought for a run that waits. Bytes are those of its weight files
    that were not here."""

    type: Literal["downloading"] = "downloading"
    run_id: str
    time: float
    model: str
    done_bytes: int
    """Here by now, of an earlier download too."""
    total_bytes: int
    seconds_left: float | None
    """From the pace so far."""


class PhaseChanged(Message):
    """The running step entered another phase."""

    type: Literal["phase_changed"] = "phase_changed"
    run_id: str
    time: float
    step: str
    phase: Phase


class FilesMissing(Message):
    """The worker has left the run before its first step: of this model it needs files that are not
    on this machine. When they are, the run is sent anew."""

    type: Literal["files_missing"] = "files_missing"
    run_id: str
    time: float
    source: ModelSource
    names: tuple[str, ...] = ()
    """Those it needs beside the text files, which alone may be missing too."""


class MemoryRanOut(Message):
    """Memory ran out in the running step, which begins anew, once, after what was done."""

    type: Literal["memory_ran_out"] = "memory_ran_out"
    run_id: str
    time: float
    step: str
    phase: Phase
    """Where it ran out."""
    done: tuple[str, ...]
    """Sentences: what left, and how the step is run now."""

    @property
    def sentence(self) -> str:
        """All of it, for a person and the record."""
        return " ".join([f"Memory ran out in step '{self.step}' ({self.phase}).", *self.done])


class StepProgress(Message):
    """The denoiser has finished step `done` of `total`; a task, so many of its calls."""

    type: Literal["step_progress"] = "step_progress"
    run_id: str
    time: float
    step: str
    done: int
    total: int
    seconds_left: float | None
    """Of this pipeline call or task, from the pace so far."""
    without_preview: bool = False
    """Whether what is drawn in these steps cannot be shown before it is done."""
    segment: int | None = None
    """Which call this is, from 1, where a film is made in several: segment `segment` of `segments`.
    """
    segments: int | None = None


class Preview(Message):
    """A small picture of the latents as they are. Only the newest counts."""

    type: Literal["preview"] = "preview"
    run_id: str
    time: float
    jpeg: bytes
    width: int
    height: int


NOT_SHOWN = ("image/tiff", "video/x-matroska", "video/x-msvideo", "audio/aiff", "audio/x-aiff")
"""Content types of files that browsers cannot open; who gets one has a program for it."""


class ResultSaved(Message):
    """A result is on disk, with its record beside it."""

    type: Literal["result_saved"] = "result_saved"
    run_id: str
    time: float
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
    """In the step, from 0."""
    text: str = ""
    """The beginning of a text or of data, to be shown; "" for every other kind."""
    final: bool
    """True for results of the plan's last saving step."""
    stamps: tuple[FileStamp, FileStamp] | None = None
    """Of the file and its record as they were written."""

    @property
    def is_visual(self) -> bool:
        """Whether it is a picture or a video, and not a sound, a text or data; one that browsers
        show."""
        visual = self.content_type.startswith(("image/", "video/"))
        return visual and self.content_type not in NOT_SHOWN

    @property
    def is_there(self) -> bool:
        """Whether the file still exists."""
        try:
            return Path(self.path).is_file()
        except OSError:
            return False

    @property
    def is_as_written(self) -> bool:
        """Whether the file and its record can be read and are those that were written."""
        files = Path(self.path), Path(self.sidecar)
        try:
            stamps = tuple(map(stamp_of, files))
        except OSError:
            return False
        return stamps == self.stamps and all(os.access(file, os.R_OK) for file in files)


class CancelPointGap(Message):
    """The longest time between two checkpoints has grown: what a cancel may have to wait."""

    type: Literal["checkpoint_gap"] = "checkpoint_gap"
    run_id: str
    seconds: float


class Timings(Message):
    """Where a run's time went."""

    total_s: float
    load_s: float = 0.0
    compute_s: float = 0.0
    save_s: float = 0.0


class RunSucceeded(Message):
    """Terminal: there is everything that every step makes."""

    type: Literal["run_succeeded"] = "run_succeeded"
    run_id: str
    time: float
    timings: Timings
    loaded: tuple[str, ...]
    """Titles of the components that had to be loaded; empty when all was warm."""
    outputs: tuple[JsonValue, ...] = ()
    """What the last step returned and a file does not hold (text, numbers)."""
    out_of_memory: tuple[str, ...] = ()
    """What was done where memory ran out, a sentence a time; empty for an ordinary run, and only
    then are its results those of every other run of the request, to the last bit."""
    files_changed: bool = False
    """Whether a file that it read was replaced meanwhile: then it is no answer to a later request.
    """
    made_at: float | None = None
    """When the newest of these results was made; None when this run had to make any of them."""


class RunFailed(Message):
    """Terminal: the run could not be finished."""

    type: Literal["run_failed"] = "run_failed"
    run_id: str
    time: float
    error: ErrorReport


class RunCancelled(Message):
    """Terminal: somebody cancelled it. `phase` is where it was."""

    type: Literal["run_cancelled"] = "run_cancelled"
    run_id: str
    time: float
    phase: Phase
    notice: str = ""
    """What the person should know, for example that the worker had to be ended."""


TerminalEvent = RunSucceeded | RunFailed | RunCancelled
TERMINAL = (RunSucceeded, RunFailed, RunCancelled)

RunEvent = (
    RunQueued
    | FetchingMedia
    | RunStarted
    | StepStarted
    | StepRemembered
    | Downloading
    | Loading
    | PhaseChanged
    | MemoryRanOut
    | StepProgress
    | Preview
    | ResultSaved
    | RunSucceeded
    | RunFailed
    | RunCancelled
)

Event = Annotated[
    WorkerReady
    | WorkerUnable
    | MemoryFreed
    | MemoryReported
    | Logged
    | CancelPointGap
    | FilesMissing
    | RunEvent,
    Field(discriminator="type"),
]

_COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)
_EVENTS: TypeAdapter[Event] = TypeAdapter(Event)


MAX_COMMAND_BYTES = 32_000_000
"""Of one command: reading it takes the worker many times as much memory."""


def encode(message: Message) -> bytes:
    """The message as JSON bytes for the pipe. Raises ValueError where JSON cannot hold it."""
    return message.model_dump_json().encode()


def decode_command(data: bytes) -> Command:
    """The command in these bytes. Raises pydantic.ValidationError on anything else."""
    return _COMMANDS.validate_json(data)


def decode_event(data: bytes) -> Event:
    """The event in these bytes. Raises pydantic.ValidationError on anything else."""
    return _EVENTS.validate_json(data)
