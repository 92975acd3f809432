"""Settings: the only reader of the environment. Read once at the front door, then passed down.

Every field can be given as the environment variable `DW_<FIELD>`, or as the `Variable` it is
annotated with; the command line wins over it. A new setting is one field here and one line in
`docs/operating.md`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

PROJECT = Path(__file__).resolve().parent.parent
SHIPPED_WORKFLOWS = PROJECT / "workflows"
BUILTIN_WORKFLOWS = SHIPPED_WORKFLOWS / "builtin"
"""Those that are steps of others (`builtin:describe_image.json`); not in the dropdown."""
MIB = 1024 * 1024
MADE_USER = "workbench"
"""The name that goes with a password which was made."""


class Variable(NamedTuple):
    """The environment variable of a field where it is not `DW_<FIELD>`; None: it has none."""

    name: str | None


def _words(given: Any) -> Any:
    """Splits the text of a variable at its blanks."""
    return tuple(given.split()) if isinstance(given, str) else given


def _listed(given: Any) -> Any:
    """Splits the text of a variable at its commas."""
    return tuple(part.strip() for part in given.split(",")) if isinstance(given, str) else given


def _folders(first: Path) -> BeforeValidator:
    """Splits the text of a variable into folders, which come after `first`."""

    def split(given: Any) -> Any:
        if not isinstance(given, str):
            return given
        return (first, *(Path(part) for part in given.split(os.pathsep) if part))

    return BeforeValidator(split)


Word = Annotated[str, Field(min_length=1)]
Words = Annotated[tuple[Word, ...], BeforeValidator(_words)]
Repositories = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")], ...], BeforeValidator(_words)
]
Devices = Annotated[
    tuple[Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")], ...], BeforeValidator(_listed)
]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class UiSettings(_Frozen):
    """How the page is served."""

    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=0, le=65535)
    share: bool = False
    auth: tuple[Word, Word] | None = None
    """User name and password; made and printed when needed and not given."""
    operator_auth: tuple[Word, Word] | None = None
    """User name and password of the operator, beside those of the guests."""
    login_idle_s: float = Field(default=12 * 3600.0, gt=0)
    """How long a login lasts in which nothing is asked."""
    public: bool = False
    """Serve beyond loopback without a password."""
    allowed_hosts: Words = ()
    """Further names the page answers to, behind a reverse proxy for example."""
    root_path: Annotated[str, Field(pattern=r"^(/[\w.~-]+)*$")] = ""
    """The path below which a reverse proxy serves the page: `/draw`."""
    max_upload_bytes: ByteSize = Field(default=ByteSize(30 * MIB), gt=0)
    uploads_bytes: ByteSize = Field(default=ByteSize(5_000_000_000), gt=0)
    """How much of what people have uploaded is kept, the oldest leaving first."""
    media_urls: bool | None = None
    """Whether media by URL are fetched for this page; None: only where just this machine's own
    users reach it."""

    guest_pixels: int = Field(default=2**25, ge=1)
    """The most one run of a guest may draw: width x height x pictures or frames. By default 32
    pictures of 1024 x 1024 or 81 frames of 832 x 480. No picture a guest hands in may have more."""
    guest_steps: int = Field(default=150, ge=1)
    """The most denoising steps in a guest's run."""
    unread_stream_s: float = Field(default=30.0, gt=0)
    """How long a call waits for its stream to be opened before its run is cancelled."""
    guest_calls: int = Field(default=32, ge=1)
    """Calls of one guest that may be answered or wait at a time."""
    guest_visits: int = Field(default=40, ge=1)
    """Visits of one guest that are kept; a further one takes the place of the oldest."""

    @field_validator("host")
    @classmethod
    def _has_no_brackets(cls, given: str) -> str:
        return given[1:-1] if given.startswith("[") and given.endswith("]") else given

    @field_validator("root_path", mode="before")
    @classmethod
    def _has_no_slash_at_its_end(cls, given: object) -> object:
        return given.rstrip("/") if isinstance(given, str) else given

    @field_validator("auth", "operator_auth", mode="before")
    @classmethod
    def _is_a_login(cls, given: object) -> object:
        login = tuple(given.split(":", 1)) if isinstance(given, str) else given
        if isinstance(login, tuple) and not (len(login) == 2 and all(login)):
            raise ValueError("a login has the form name:password")
        return login

    @model_validator(mode="after")
    def _names_differ(self) -> UiSettings:
        guests = self.auth[0] if self.auth is not None else MADE_USER
        if self.operator_auth is not None and self.operator_auth[0] == guests:
            raise ValueError(f"the operator needs another name than '{guests}'")
        return self

    @property
    def beyond_loopback(self) -> bool:
        """Whether anyone but this machine's own users could reach the page.

        A further name is there for a reverse proxy, which brings strangers to 127.0.0.1 too.
        """
        local = self.host in {"127.0.0.1", "localhost", "::1"}
        return self.share or bool(self.allowed_hosts) or not local

    @property
    def fetches_urls(self) -> bool:
        """Whether media by URL are fetched for this page."""
        if self.media_urls is not None:
            return self.media_urls
        return not self.beyond_loopback and not self.public


class EngineSettings(_Frozen):
    """How the engine queues and cancels."""

    max_queued_runs: int = Field(default=200, ge=1)
    max_queued_runs_per_person: int = Field(default=20, ge=1)
    """Runs of one guest that may wait; an operator's are not counted."""
    max_preparing_runs: int = Field(default=4, ge=1)
    """Runs whose media or models are fetched at a time; further ones wait for that."""
    passed_over_limit_s: float = Field(default=30.0, ge=0)
    """How long later runs whose models are loaded already may start before a waiting one; 0: runs
    start in the order they came."""
    cancel_grace_s: float = Field(default=10.0, gt=0)
    """The least time a worker has to obey a cancel before it is ended."""
    cancel_grace_limit_s: float = Field(default=30.0, gt=0)
    """The most time it has, where it is slow between the places at which a run can be cancelled."""
    start_limit_s: float = Field(default=300.0, gt=0)
    """How long a worker may take to be ready before it is ended and started anew."""
    restart_delay_s: float = Field(default=1.0, gt=0)
    """How long to wait before a worker that did not come up is started again; doubled each time."""
    command_limit_s: float = Field(default=120.0, gt=0)
    """How long a worker may take to free, pin, drop or move what it holds, or to begin a run,
    before it is ended."""
    cleanup_limit_s: float = Field(default=1800.0, gt=0)
    """The same for what it does when nothing else is to be done, while nobody waits for it."""
    keep_history: bool = True
    """Whether what was asked for is kept beside the results, across restarts."""
    kept_runs: int = Field(default=500, ge=1)
    """Finished runs whose events are kept for followers."""
    idle_cleanup_s: float = Field(default=1.0, gt=0)
    """How long nothing must happen before the light cleanup between runs."""
    idle_to_ram_s: float | None = Field(default=None, gt=0)
    """How long nothing must happen before everything that is not pinned goes from an accelerator to
    RAM; None: never."""
    idle_drop_s: float | None = Field(default=None, gt=0)
    """How long nothing must happen before everything that is not pinned is dropped; None: never."""


class WorkerSettings(_Frozen):
    """What a worker process may use."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    devices: Devices = ()
    """Instead of `device`, one worker for each of these, which may be the same."""
    workers: Annotated[int, Variable(None)] = 1
    """Workers of this engine on this machine, which share its RAM and its cores; see `split`."""
    workers_on_device: Annotated[int, Variable(None)] = 1
    """Workers of this engine on this worker's device."""
    threads: int | None = Field(default=None, ge=1)
    """Threads a worker computes with on the CPU; None: torch's choice, divided by the workers."""
    device_budget: ByteSize | None = None
    """Weights that one worker may hold on its device; None: nine tenths of the device's memory,
    divided by the workers on it. `20GB`, `16GiB`."""
    ram_budget: ByteSize | None = None
    """Beside an accelerator, weights that one worker may hold in RAM; None: seven tenths of the
    RAM, divided by the workers."""
    growth_warning_bytes: ByteSize = Field(default=ByteSize(500_000_000), ge=0)
    """Growth between two runs of one workflow that is worth a warning."""
    preview_interval_s: float = Field(default=0.2, gt=0)
    """The least time between two previews (at most 5 per second)."""
    prompt_memo_bytes: ByteSize = Field(default=ByteSize(256 * MIB), ge=0)
    """How much of what text encoders returned is kept in memory."""
    prompt_memo_disk_bytes: ByteSize = Field(default=ByteSize(1_000_000_000), ge=0)
    """How much of it is kept beside the results, across restarts."""
    step_memo_bytes: ByteSize = Field(default=ByteSize(512 * MIB), ge=0)
    """How much of what steps made is kept in memory: 128 pictures of 1024 x 1024 pixels, or one
    video of 81 frames of 832 x 480 as 32-bit floats."""
    converted_weights_bytes: ByteSize = Field(default=ByteSize(30_000_000_000), ge=0)
    """How much of weights converted to another dtype is kept beside the results; 0: none. By
    default one model of 14 billion parameters in half precision (28 GB), or several smaller ones;
    and it is never written what would leave less free on the disk than it takes."""
    log_level: LogLevel = "INFO"

    @field_validator("devices")
    @classmethod
    def _are_instead_of_one(cls, given: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if given and info.data.get("device", "auto") != "auto":
            raise ValueError("either one device or several are given, not both")
        return given

    @property
    def device_names(self) -> str:
        """The devices as they are named: runs with others are not identical."""
        return ",".join(dict.fromkeys(self.devices)) or self.device

    def split(self) -> tuple[WorkerSettings, ...]:
        """Returns the settings of each worker: one for each of the devices."""
        devices = ["cuda:0" if name == "cuda" else name for name in self.devices] or [self.device]
        return tuple(
            self.model_copy(
                update={
                    "device": device,
                    "devices": (),
                    "workers": len(devices),
                    "workers_on_device": devices.count(device),
                }
            )
            for device in devices
        )


class UrlSettings(_Frozen):
    """Pictures, videos and sounds behind URLs."""

    allowed: Annotated[bool, Variable("DW_MEDIA_URLS")] = True
    """Whether they are fetched at all. A page that strangers reach fetches none by itself."""
    hosts: Annotated[Words, Variable("DW_MEDIA_HOSTS")] = ()
    """`name:port` of servers that are fetched from although their address is not public."""
    max_file_bytes: Annotated[ByteSize, Variable("DW_MEDIA_FILE_BYTES")] = Field(
        default=ByteSize(200_000_000), gt=0
    )
    """The largest file that is fetched."""
    cache_bytes: Annotated[ByteSize, Variable("DW_MEDIA_CACHE_BYTES")] = Field(
        default=ByteSize(5_000_000_000), gt=0
    )
    """How much of what was fetched is kept beside the results."""


class MediaLimits(_Frozen):
    """How large pictures, videos and sounds may be once they are decoded."""

    max_picture_pixels: int = Field(default=32_000_000, ge=1)
    """Width times height of a picture or of a video's frames."""
    max_decoded_bytes: ByteSize = Field(default=ByteSize(2_000_000_000), gt=0)
    """Of all files that one step takes: 13 s of a video of 1920 x 1080 at 24 frames per second, or
    three hours and a half of a sound of one channel."""


class PathSettings(_Frozen):
    """Where things are read and written."""

    outputs: Path = PROJECT / "outputs"
    outputs_bytes: ByteSize | None = None
    """Total size of results and kept uploads; the oldest runs are removed first. None: no limit."""
    workflows: Annotated[tuple[Path, ...], _folders(SHIPPED_WORKFLOWS)] = (SHIPPED_WORKFLOWS,)
    """Folders of the catalog, in the order of the dropdown."""
    models: Annotated[tuple[Path, ...], _folders(PROJECT / "models")] = (PROJECT / "models",)
    """Folders that are looked in for a hub's `owner/name` before its cache is, and in which a
    person's input may name a local model."""
    allow_pickles: bool = False
    """Whether a single file of weights that may hold code is read, without what it would run."""
    trusted_code: Annotated[Repositories, Variable("DW_TRUST_REMOTE_CODE")] = ()
    """Repositories (`owner/name`) whose own code may be run where a document asks for it."""
    media: Annotated[tuple[Path, ...], Variable(None)] = ()
    """Folders in which a person's input may name a picture: the page's uploads and the outputs;
    for somebody at a shell of this machine everything the shell may read. Each command decides."""
    urls: UrlSettings = UrlSettings()
    limits: MediaLimits = MediaLimits()


class Settings(_Frozen):
    """All settings of one process tree."""

    ui: UiSettings = UiSettings()
    engine: EngineSettings = EngineSettings()
    worker: WorkerSettings = WorkerSettings()
    paths: PathSettings = PathSettings()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings as the `DW_…` variables give them; what is absent or empty keeps its default.

        Raises pydantic.ValidationError where a value does not fit its field.
        """
        env = os.environ if environment is None else environment
        given: dict[str, Any] = {}
        for (*groups, field), variable in variables():
            if text := env.get(variable):
                group = given
                for name in groups:
                    group = group.setdefault(name, {})
                group[field] = text
        return cls.model_validate(given)


def variables(model: type[BaseModel] = Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """The fields that can be given by the environment: each one's path and variable."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for path, variable in variables(field.annotation):
                yield (name, *path), variable
            continue
        named = [each.name for each in field.metadata if isinstance(each, Variable)]
        own = named[0] if named else f"DW_{name.upper()}"
        if own is not None:
            yield (name,), own
