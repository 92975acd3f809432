"""Settings: the only reader of the environment. Read once at the front door, then passed down.

Every field can be given as the environment variable `DW_<FIELD>`; the command line wins over it.
A new setting is one field here, with a docstring for people: the table of `docs/operating.md` is
made of both (`python -m tests.settings_table`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import ImageColor
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

from app.places import places_of

PACKAGE = Path(__file__).resolve().parent
PROJECT = PACKAGE.parent
"""The checkout; of an installed package, the folder that has it."""
SHIPPED, DATA = places_of(PACKAGE, sys.platform, os.environ, Path.home())
SHIPPED_WORKFLOWS = SHIPPED / "workflows"
BUILTIN_WORKFLOWS = SHIPPED_WORKFLOWS / "builtin"
"""Those that are steps of others (`builtin:describe_image.json`); not in the dropdown."""
WORKFLOWS = tuple(dict.fromkeys((SHIPPED_WORKFLOWS, DATA / "workflows")))
MODELS = tuple(dict.fromkeys((SHIPPED / "models", DATA / "models")))
"""Folders that come before those a person adds; one in a checkout."""
MIB = 1024 * 1024
GENERATED_USER = "workbench"
"""The name that goes with a password which was made."""


class Decided:
    """Marks a field that each command or the engine sets, not a person."""


def _words(given: Any) -> Any:
    """Splits the text of a variable at its blanks."""
    return tuple(given.split()) if isinstance(given, str) else given


def _listed(given: Any) -> Any:
    """Splits the text of a variable at its commas."""
    return tuple(part.strip() for part in given.split(",")) if isinstance(given, str) else given


def _folders(first: tuple[Path, ...]) -> BeforeValidator:
    """Splits the text of a variable into folders, which come after `first`."""

    def split(given: Any) -> Any:
        if not isinstance(given, str):
            return given
        return (*first, *(Path(part) for part in given.split(os.pathsep) if part))

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
    """The page (`serve`)"""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=7860, ge=0, le=65535)
    """Port to listen on; 0 chooses a free one."""
    share: bool = False
    """Create a public link through Gradio's servers."""
    auth: tuple[Word, Word] | None = None
    """`name:password` of everybody. Unset: no password on 127.0.0.1, else one is generated and
    printed."""
    operator_auth: tuple[Word, Word] | None = None
    """`name:password` of the operator."""
    api_token: Annotated[str, Field(pattern=r"^[!-~]{16,}$")] | None = Field(
        default=None, repr=False
    )
    """Token with which programs may call the API instead of a login (`Authorization: Bearer …`); at
    least 16 characters."""
    webhook_hosts: Words = ()
    """Servers that runs of the API may report their end to (`webhook`), separated by spaces: a
    public `name`, or any `name:port`."""
    webhook_secret: Annotated[str, Field(min_length=16)] | None = Field(default=None, repr=False)
    """Key with which these reports are signed (HMAC-SHA256); at least 16 characters."""
    login_idle_s: float = Field(default=12 * 3600.0, gt=0)
    """Seconds before an unused login ends."""
    public: bool = False
    """Serve without a password."""
    allowed_hosts: Words = ()
    """Additional host names the page answers to, separated by spaces."""
    root_path: Annotated[str, Field(pattern=r"^(/[\w.~-]+)*$")] = ""
    """Path below which a reverse proxy serves the page (`/draw`)."""
    max_upload_bytes: ByteSize = Field(default=ByteSize(30 * MIB), gt=0)
    """Largest upload."""
    uploads_bytes: ByteSize = Field(default=ByteSize(5_000_000_000), gt=0)
    """Total size of stored uploads. The oldest are deleted first, except those of the last hour and
    those that a run needs."""
    media_urls: bool | None = None
    """Fetch media by URL. Unset: only if no other machine can reach the page."""

    guest_pixels: int = Field(default=2**25, ge=1)
    """Largest output of a guest's run: width x height x images or frames. The default is 32 images
    of 1024 x 1024 or 81 frames of 832 x 480. It also limits an image that a guest uploads."""
    guest_steps: int = Field(default=150, ge=1)
    """Most denoising steps of a guest's run."""
    unread_stream_s: float = Field(default=30.0, gt=0)
    """Seconds within which the stream of a call must be opened; its run is cancelled otherwise."""
    guest_calls: int = Field(default=32, ge=1)
    """Most concurrent calls of one guest, waiting ones included."""
    guest_visits: int = Field(default=40, ge=1)
    """Most stored visits of one guest; a further one replaces the oldest."""

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
        guests = self.auth[0] if self.auth is not None else GENERATED_USER
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
    """Queue and workers"""

    max_queued_runs: int = Field(default=200, ge=1)
    """Longest queue."""
    max_queued_runs_per_person: int = Field(default=20, ge=1)
    """Most waiting runs of one guest; an operator's are not counted."""
    max_preparing_runs: int = Field(default=4, ge=1)
    """Most runs whose media and models are fetched at a time."""
    passed_over_limit_s: float = Field(default=30.0, ge=0)
    """Seconds in which later runs whose models are loaded may start before a waiting run; 0: runs
    start in the order they came."""
    cancel_grace_s: float = Field(default=10.0, gt=0)
    """Minimum seconds for the worker to obey a cancel before it is killed."""
    cancel_grace_limit_s: float = Field(default=30.0, gt=0)
    """Maximum of that time, for a worker that is slow between cancel points."""
    start_limit_s: float = Field(default=300.0, gt=0)
    """Seconds for the worker to become ready before it is killed and restarted."""
    restart_delay_s: float = Field(default=1.0, gt=0)
    """Seconds before a worker that failed to start is started again. They double each time; after
    three failures the next request tries again."""
    command_limit_s: float = Field(default=120.0, gt=0)
    """Seconds for the worker to free, pin, drop or move components, or to begin a run, before it is
    killed."""
    cleanup_limit_s: float = Field(default=1800.0, gt=0)
    """The same for idle work (such as writing converted weights) while nobody waits."""
    keep_history: bool = True
    """Keep the history of runs on disk. Without it, waiting runs are lost when the server ends."""
    kept_runs: int = Field(default=500, ge=1)
    """Number of finished runs whose whole log of events can still be followed."""
    idle_cleanup_s: float = Field(default=1.0, gt=0)
    """Seconds without a run before library caches are emptied."""
    idle_to_ram_s: float | None = Field(default=None, gt=0)
    """Seconds without a run before unpinned components move from the device to RAM. Unset:
    never."""
    idle_drop_s: float | None = Field(default=None, gt=0)
    """Seconds without a run before unpinned components are dropped. Unset: never."""


class WorkerSettings(_Frozen):
    """Device, memory and caches"""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`."""
    devices: Devices = ()
    """One worker for each of these devices, separated by commas, instead of `DW_DEVICE`
    ([Several workers](#several-workers))."""
    workers: Annotated[int, Decided()] = 1
    """Workers of this engine on this machine, which share its RAM and its cores; see `split`."""
    workers_on_device: Annotated[int, Decided()] = 1
    """Workers of this engine on this worker's device."""
    threads: int | None = Field(default=None, ge=1)
    """Threads a worker computes with on the CPU. Unset: torch's choice, divided by the workers."""
    device_budget: ByteSize | None = None
    """Limit of weights one worker holds on its device. Unset: 9/10 of its memory, divided by the
    workers on it."""
    ram_budget: ByteSize | None = None
    """Limit of weights one worker holds in RAM, next to an accelerator. Unset: 7/10 of it, divided
    by the workers."""
    growth_warning_bytes: ByteSize = Field(default=ByteSize(500_000_000), ge=0)
    """Growth of the worker between two runs of a workflow that logs a warning."""
    preview_interval_s: float = Field(default=0.2, gt=0)
    """Minimum seconds between two previews."""
    lora_bytes: ByteSize = Field(default=ByteSize(2_000_000_000), ge=0)
    """LoRAs kept in memory with the models they were loaded for; 0: none."""
    prompt_memo_bytes: ByteSize = Field(default=ByteSize(256 * MIB), ge=0)
    """Encoded prompts cached in memory; 0: none."""
    prompt_memo_disk_bytes: ByteSize = Field(default=ByteSize(1_000_000_000), ge=0)
    """Encoded prompts cached in the results folder; 0: none."""
    step_memo_bytes: ByteSize = Field(default=ByteSize(512 * MIB), ge=0)
    """Step results cached in memory; 0: none. The default holds 128 images of 1024 x 1024, or one
    video of 81 frames of 832 x 480."""
    converted_weights_bytes: ByteSize = Field(default=ByteSize(30_000_000_000), ge=0)
    """Weights converted to another dtype, stored in the results folder; 0: none. The default holds
    one model of 14 billion parameters in half precision. Nothing is written that would leave less
    space free than it takes."""
    log_level: LogLevel = "INFO"
    """`DEBUG`, `INFO`, `WARNING` or `ERROR`. Unset, commands other than `serve` and `repl` log
    from `WARNING`."""

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
    """Media by URL"""

    media_urls: bool = True
    """Whether they are fetched at all; the page decides for itself."""
    media_hosts: Words = ()
    """Servers (`name:port`, separated by spaces) that are allowed although they are not public."""
    media_file_bytes: ByteSize = Field(default=ByteSize(200_000_000), gt=0)
    """Largest media download."""
    media_cache_bytes: ByteSize = Field(default=ByteSize(5_000_000_000), gt=0)
    """Media downloaded by URL, cached in the results folder."""


class MediaLimits(_Frozen):
    """Pictures, and the size of decoded media"""

    picture_background: Annotated[str, Field(pattern=r"^([a-z]{3,20}|#[0-9a-f]{6})$")] = "white"
    """Colour of the transparent pixels of a picture: a name of CSS, or `#rrggbb`."""
    keep_unmasked: bool = True
    """When inpainting, keep the picture's own pixels outside the mask."""
    mask_seam_px: int = Field(default=4, ge=0, le=1000)
    """Width of the blend inside the mask's edge, in pixels; 0: none."""

    max_picture_pixels: int = Field(default=32_000_000, ge=1)
    """Largest image or video frame, in pixels (width times height)."""
    max_decoded_bytes: ByteSize = Field(default=ByteSize(2_000_000_000), gt=0)
    """Total decoded size of the images, frames and samples in the files of one step. The default
    holds 13 s of a video of 1920 x 1080 at 24 frames per second, or three hours and a half of audio
    in one channel."""

    @field_validator("picture_background")
    @classmethod
    def _is_a_colour(cls, given: str) -> str:
        ImageColor.getrgb(given)
        return given


class PathSettings(_Frozen):
    """Locations and permissions"""

    outputs: Path = DATA / "outputs"
    """Folder for results. [Installed](installing.md#where-things-are): in the user's data
    folder."""
    outputs_bytes: ByteSize | None = None
    """Total size of results and kept uploads; the oldest runs are deleted first, from the history
    too. Unset: unlimited."""
    workflows: Annotated[tuple[Path, ...], _folders(WORKFLOWS)] = WORKFLOWS
    """Additional workflow folders, separated by `:`, in the order of the dropdown."""
    models: Annotated[tuple[Path, ...], _folders(MODELS)] = MODELS
    """Additional model folders, separated by `:`. A model is searched for in them, as `OWNER/NAME`,
    before the hub's cache; files by bare name in the folders of ComfyUI and A1111 below them."""
    models_layout: Path | None = None
    """ComfyUI's `extra_model_paths.yaml`, which names more folders of models
    ([Model folders](#model-folders))."""
    allow_pickles: bool = False
    """Read weight files that may contain code; the code is never run."""
    trust_remote_code: Repositories = ()
    """Model repositories (`OWNER/NAME`, separated by spaces) whose code may run if a document asks
    for it."""
    media: Annotated[tuple[Path, ...], Decided()] = ()
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
        if not any(isinstance(each, Decided) for each in field.metadata):
            yield (name,), f"DW_{name.upper()}"
