"""The plan: a workflow with its inputs, flat, ordered and fully resolved; all that a worker sees.

Nothing in a plan is looked up, converted or decided again later: variables are substituted,
sub-workflows are inlined, names are checked, files are found. A plan is plain data and crosses the
pipe as JSON. `planner.py` builds it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from app.dialect.offloads import Offload
from app.dialect.plan_settings import (
    DENOISERS,
    ComponentChanges,
    DType,
    LayerwiseCasting,
    SchedulerChange,
    Tuning,
    with_casting,
)
from app.dialect.plan_sources import (
    OTHERS,
    ComponentBlock,
    IpAdapterSource,
    LoraSource,
    ModelSource,
    ModularSettings,
    TextualInversionSource,
)
from app.dialect.plan_values import ResultValue, Value, references_in
from app.dialect.segments import FrameSnap
from app.dialect.setting_blocks import CacheBlock, TeaCacheBlock
from app.frozen import Frozen
from app.settings import MediaLimits

MAX_ITERATIONS = 10_000
"""Greatest number of calls of one step."""


class Chain(Frozen):
    """A video made in segments: one call of the pipeline for each, continuing the previous one."""

    segments: int | None
    """None for as many as cover the audio among the references."""
    continuity: Literal["last_frame", "last_segment"] = "last_frame"
    segment_argument: str = "image"
    """The argument that receives the last frame, or the last segment; a list is extended."""
    carry_frames: int | None = None
    """Number of frames passed on from the last segment, None for all."""
    carry_audio: bool = True
    trim_frames: int = 1
    """Dropped from the start of every segment after the first."""
    crossfade_ms: float = 75
    fps: float | None = None
    """Frames per second; None where neither the chain nor the call says."""
    frame_snap: FrameSnap | None = None
    prompts: tuple[Value, ...] = ()
    """The prompt of each segment, the last one also of later segments; empty for the call's own."""
    save_segments: bool = False
    """True if segments are written to disk and leave memory."""
    keep_segments: bool = False


class ResultSpec(Frozen):
    """How a step's results are written."""

    content_type: str
    save: bool = True
    file_base_name: str = ""
    """Prefix of the file's name, without anything that could leave the run's folder."""
    fps: float | None = None
    """Frames per second, for video; None where nothing in the document sets any."""
    sample_rate: int | None = None
    """Samples per second of audio; None keeps its own."""
    audio_sample_rate: int | None = None
    """Samples per second of a video's audio; None keeps its own."""
    subtype: str | None = None
    """Sample format of audio, by soundfile's name; None for the default of its container."""
    compression_level: float | None = None
    """0 (best, largest) to 1; None for the encoder's default."""
    bitrate_mode: Literal["CONSTANT", "AVERAGE", "VARIABLE"] | None = None


# --- steps ---------------------------------------------------------------------------------------


class Rounds(Frozen):
    """A sub-workflow that is handed results: all its steps run once per combination of them."""

    step: str
    """The plan's name of the step that runs it."""
    references: tuple[ResultValue, ...]


class PlannedStep(Frozen):
    """Fields of every kind of step."""

    name: str
    """Unique in the plan; a step of a sub-workflow is `parent_step/child_step`."""
    place: str
    """Its place in the document: `steps[0]`; begins every message about the step."""
    file_stem: str = ""
    """Beginning of its files' names: `id-step.number`, of its own document."""
    seed: int
    seed_drawn: bool = False
    """True where the seed is random: nobody gave one."""
    result: ResultSpec | None = None
    rounds: tuple[Rounds, ...] = ()
    """The sub-workflows around it that are handed results, the outermost first."""
    releases: tuple[str, ...] = ()
    """Steps whose components are released after this one, except those that later steps need."""

    @property
    def handed(self) -> list[ResultValue]:
        """The results handed to its sub-workflows, on which it depends."""
        return [reference for rounds in self.rounds for reference in rounds.references]

    @property
    def saves(self) -> bool:
        """True if its results are written to files."""
        return self.result is not None and self.result.save


class PipelineStep(PlannedStep):
    """One call of a diffusers pipeline."""

    kind: Literal["pipeline"] = "pipeline"
    pipeline_class: str
    """Qualified: `diffusers.StableDiffusionPipeline`."""
    source: ModelSource | None
    """None where the document names no model: all components are blocks, or reused."""
    dtype: DType = "float32"
    code: ModelSource | None = None
    """The trusted repository whose own code defines the pipeline; None for the libraries' code."""
    modular: ModularSettings | None = None
    """None for an ordinary pipeline."""
    config: ModelSource | None = None
    """Config repository of a single-file checkpoint; see `ComponentBlock.config`."""
    model_folders: tuple[str, ...] = ()
    """Folders searched for configurations of single files before the hub's cache."""
    config_cache: str = ""
    """Folder for the configurations of single files of known families."""
    dtype_open: bool = False
    """True if nobody chose the dtype: the device decides."""
    components: dict[str, ComponentBlock] = Field(default_factory=dict)
    """By parameter of the pipeline; several of one parameter are numbered: `controlnet.0`."""
    absent: tuple[str, ...] = ()
    """Components the document sets to null: they are not loaded."""
    reused: dict[str, str] = Field(default_factory=dict)
    """Components of earlier steps used instead of the model's own, by name: the step."""
    scheduler: SchedulerChange | None = None
    audio_scheduler: SchedulerChange | None = None
    loras: tuple[LoraSource, ...] = ()
    textual_inversions: tuple[TextualInversionSource, ...] = ()
    ip_adapters: tuple[IpAdapterSource, ...] = ()
    sdnq_matmul: tuple[str, ...] = ()
    """SDNQ components that use quantised matrix multiplication, where a GPU can."""
    offload: Offload | None = None
    vae_tiling: bool = False
    vae_slicing: bool = False
    cache: CacheBlock | None = None
    teacache: TeaCacheBlock | None = None
    prompt_weighting: bool = False
    attention_backend: str | None = None
    """By diffusers' name; None for its default."""
    dtypes: dict[str, DType] = Field(default_factory=dict)
    """The model's own components with another dtype than the rest."""
    casting: LayerwiseCasting | None = None
    """Layerwise casting of its denoisers; for other components see `changes`."""
    changes: dict[str, ComponentChanges] = Field(default_factory=dict)
    """Changes of components when they are loaded."""
    tunings: dict[str, Tuning] = Field(default_factory=dict)
    """Settings of components, or of modules in them by dotted paths, for this step's calls."""
    attention_slicing: bool = False
    streams: bool = False
    """True if the document lets weights pass through the device in groups."""
    never_offloaded: tuple[str, ...] = ()
    """Components that sequential offload leaves on the device."""
    arguments: dict[str, Value]
    chain: Chain | None = None
    generator: bool = True
    """False where the document says `no_generator`: the call gets none."""

    @property
    def title(self) -> str:
        """`StableDiffusionPipeline of shapes`."""
        return f"{self.pipeline_class.rpartition('.')[2]} of {self.model}"

    @property
    def named_source(self) -> ModelSource:
        """The source of a step that names a model, as every modular one does."""
        assert self.source is not None
        return self.source

    @property
    def model(self) -> str:
        """Its name in the document; for a pipeline without a model, its first component's."""
        named = [self.source] if self.source else [each.source for each in self.components.values()]
        return named[0].model if named else "earlier steps"

    def dtype_of(self, component: str) -> DType:
        """Returns the dtype in which it loads this component of its model."""
        if component in self.dtypes or self.modular is None:
            return self.dtypes.get(component, self.dtype)
        return self.modular.dtypes.get(component, self.modular.dtypes.get(OTHERS, self.dtype))

    def changes_of(self, component: str) -> ComponentChanges | None:
        """Returns the changes of this component when it is loaded for the step."""
        changes = self.changes.get(component)
        if self.casting is None or component not in DENOISERS:
            return changes
        return with_casting(changes, self.casting)

    @property
    def references(self) -> list[ResultValue]:
        """The results its arguments refer to, in the order of the document."""
        prompts = self.chain.prompts if self.chain is not None else ()
        return [*self.handed, *references_in([*self.arguments.values(), *prompts])]

    @property
    def takes_seed(self) -> bool:
        """True if another seed makes another result."""
        return True

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """Sources of everything the step loads."""
        blocks = [block.source for block in self.components.values()]
        blocks += self.modular.sources.values() if self.modular else ()
        blocks += [self.code] if self.code else []
        adapters: tuple[LoraSource | TextualInversionSource | IpAdapterSource, ...]
        adapters = (*self.loras, *self.textual_inversions, *self.ip_adapters)
        encoders = (adapter.encoder_source for adapter in self.ip_adapters)
        blocks += [encoder for encoder in encoders if encoder is not None]
        own = (self.source,) if self.source is not None else ()
        return (*own, *blocks, *(adapter.source for adapter in adapters))


class TaskStep(PlannedStep):
    """A task of `app/tasks`, called once or several times."""

    kind: Literal["task"] = "task"
    command: str
    """The task's name in TASKS."""
    calls: tuple[dict[str, Value], ...]
    """The arguments of each call; a call that refers to results is made once per combination."""
    random: bool = False
    """True if the task uses random numbers, from the seed."""
    components: dict[str, ComponentBlock] = Field(default_factory=dict)
    """Its models' components, by the task's names; their dtype is the device's."""
    on_cpu: bool = False
    """True if it computes in RAM also where there is an accelerator."""

    @property
    def title(self) -> str:
        """`task resize_center_crop`."""
        return f"task {self.command}"

    @property
    def references(self) -> list[ResultValue]:
        """The results its calls refer to, in the order of the document."""
        called = (found for call in self.calls for found in references_in(call.values()))
        return [*self.handed, *called]

    @property
    def takes_seed(self) -> bool:
        """True if another seed makes another result."""
        return self.random

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """Sources of everything the step loads, each once."""
        return tuple(dict.fromkeys(block.source for block in self.components.values()))


LoadingStep = PipelineStep | TaskStep
"""The kinds of steps that may load models."""


class SubWorkflowStep(PlannedStep):
    """Results of a sub-workflow, saved again as the step that runs it says."""

    kind: Literal["workflow"] = "workflow"
    last: str
    """The plan's name of the sub-workflow's last step, which makes these results."""

    @property
    def title(self) -> str:
        """`results of restyle`."""
        return f"results of {self.name}"

    @property
    def references(self) -> list[ResultValue]:
        """The results of its last step."""
        return [*self.handed, ResultValue(step=self.last)]

    @property
    def takes_seed(self) -> bool:
        """False: the steps of the sub-workflow take the seed."""
        return False

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        return ()


Step = Annotated[PipelineStep | TaskStep | SubWorkflowStep, Field(discriminator="kind")]


class Plan(Frozen):
    """A workflow and its inputs, ready to run."""

    workflow_id: str
    """The document's `id`."""
    workflow_path: str
    workflow_hash: str
    """SHA-256 of the document's file and of the files of its sub-workflows."""
    document: dict[str, JsonValue]
    """The document as read, for the record that is written into every result."""
    changes: dict[str, JsonValue] = Field(default_factory=dict)
    """Values of the document replaced in this run, by JSON pointer."""
    inputs: dict[str, JsonValue]
    """Every variable with its value in this run."""
    fetched: dict[str, str] = Field(default_factory=dict)
    """The SHA-256 of each URL's content, once fetched."""
    seed: int
    seed_given: bool
    """False when the seed was drawn for this run."""
    steps: tuple[Step, ...]
    limits: MediaLimits = MediaLimits()
    """Size limits of the files that the steps take."""
    warnings: tuple[str, ...] = ()


def for_device(step: Step, *, accelerator: bool) -> Step:
    """Returns the step with its dtype on this device, where nobody chose one; see `task_dtype`."""
    if accelerator and isinstance(step, PipelineStep) and step.dtype_open:
        return step.model_copy(update={"dtype": "float16"})
    return step


def task_dtype(step: TaskStep, *, accelerator: bool) -> DType:
    """Returns the dtype of a task's models: half the bytes where they move to an accelerator."""
    return "float16" if accelerator and not step.on_cpu else "float32"
