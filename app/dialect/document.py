"""The typed workflow document, after its variables have been replaced.

Unknown keys are errors here; `loader` decides which of them are allowed all the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    StrictBool,
    StrictInt,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app.dialect.block_scales import Scale
from app.dialect.input_kinds import InputKind
from app.dialect.model_kinds import Kind
from app.dialect.offloads import Offload
from app.dialect.plan_settings import LayerwiseCasting
from app.dialect.plan_sources import list_entry
from app.dialect.references import Path
from app.dialect.result_kinds import ContentType
from app.dialect.segments import MAX_SEGMENTS, FrameSnap
from app.dialect.setting_blocks import (
    CACHE_BLOCKS,
    SETTING_BLOCKS,
    AttentionBackend,
    CacheBlock,
    ComponentSettings,
    DTypeSettings,
    GroupOffload,
    HubBackend,
    TeaCacheBlock,
    TransformerSettings,
    UnetSettings,
    VaeSettings,
)
from app.dialect.setting_blocks import Block as Block

OTHER_CALLS = {
    "inversion": "only a pipeline of other software has such an 'invert'. Leave it out; a picture"
    " is changed by an image-to-image pipeline",
    "generate": "models of transformers are not called as pipelines. Use the tasks text_generation"
    " and image_to_text instead",
}
"""Settings that call a pipeline in another way, and why each is refused."""
IGNORED_ADAPTER_ARGUMENTS = frozenset({
    "cache_dir", "force_download", "local_files_only", "proxies", "resume_download", "token",
    "use_auth_token", "hotswap",
})  # fmt: skip
"""Arguments of adapter loading that do not change the result."""

MAX_SEED = 2**64 - 1
DRAWN_SEED_BITS = 53
"""JavaScript rounds larger whole numbers, and a rounded seed draws something else."""
Seed = Annotated[StrictInt, Field(ge=0, le=MAX_SEED)]


def drawn_seed() -> int:
    """Returns a random seed that every JSON reader represents exactly."""
    return secrets.randbits(DRAWN_SEED_BITS)


class QuantisationConfiguration(Block):
    config_type: str


class QuantisationBlock(Block):
    """How weights are quantised while they load."""

    configuration: QuantisationConfiguration
    arguments: dict[str, Any] = Field(default_factory=dict)


def _listed(names: Any) -> Any:
    """Returns a list; a single name becomes a list of one, as in diffusers."""
    return (names,) if isinstance(names, str) else names


class LoadComponents(Block):
    """The components that a modular pipeline loads, and their dtypes and quantisation."""

    names: Annotated[tuple[str, ...], BeforeValidator(_listed)] | None = None
    dtype: str | dict[str, str] | None = None
    """One dtype, or one per component; `default` applies to the components not named."""
    torch_dtype: str | dict[str, str] | None = None
    """Alias of `dtype`; `dtype` takes precedence."""
    quantization_config: dict[str, QuantisationBlock] = Field(default_factory=dict)


class ComponentsManager(Block):
    """No effect: components are always moved to the device when they are needed and evicted to make
    room."""

    enable_auto_cpu_offload: StrictBool = False
    memory_reserve_margin: str | int | float = "3GB"


class Configuration(Block):
    component_type: str
    offload: Offload | None = None
    no_generator: StrictBool = False
    inversion: StrictBool = False
    generate: StrictBool = False
    device: str | None = None
    exclude_from_cpu_offload: tuple[str, ...] = ()
    group_offload: GroupOffload | None = None
    preserve_device_placement: StrictBool = False
    """No effect: the program decides where components are placed."""
    pre_load_modules: tuple[str, ...] = ()
    """Quantisers that must be installed. Packages needed for loading are imported automatically."""
    sdnq_optimize: tuple[str, ...] = ()
    """Components quantised with SDNQ that use its quantised matrix multiplication on a GPU."""
    components: dict[str, ComponentSettings] = Field(default_factory=dict)
    enable_layerwise_casting: LayerwiseCasting | None = None
    enable_attention_slicing: StrictBool = False
    disable_attention_slicing: StrictBool = False
    """No effect: attention is sliced only if `enable_attention_slicing` is set."""
    shared_components: tuple[str, ...] = ()
    reused_components: tuple[str, ...] = ()
    vae: VaeSettings = VaeSettings()
    unet: UnetSettings = UnetSettings()
    transformer: TransformerSettings = TransformerSettings()
    component_dtypes: dict[str, DTypeSettings] = Field(default_factory=dict)
    """Collected from blocks that set the dtype of another component: `text_encoder`, …"""
    cache: CacheBlock | None = None
    teacache: TeaCacheBlock | None = None
    prompt_weighting: StrictBool = False
    attention_backend: Literal[AttentionBackend, HubBackend] | None = None
    load_components: LoadComponents | None = None
    configs: dict[str, str | int | float | bool | list[JsonValue] | None] = Field(
        default_factory=dict
    )
    components_manager: ComponentsManager | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather_dtypes(cls, block: Any) -> Any:
        """Collects every other key whose object has `torch_dtype`: it describes a component."""
        return _collected(cls, block, "torch_dtype", "component_dtypes")

    @field_validator(*OTHER_CALLS)
    @classmethod
    def _is_called_as_a_pipeline(cls, asked: bool, info: ValidationInfo) -> bool:
        if asked:
            raise ValueError(f"'{info.field_name}': {OTHER_CALLS[str(info.field_name)]}")
        return asked

    @model_validator(mode="after")
    def _has_one_cache(self) -> Configuration:
        if self.cache is not None and self.teacache is not None:
            raise ValueError("a pipeline has one of 'cache' and 'teacache'")
        return self


class ComponentConfiguration(Block):
    component_type: str
    device: str | None = None
    offload: Offload | None = None
    group_offload: GroupOffload | None = None
    enable_layerwise_casting: LayerwiseCasting | None = None
    preserve_device_placement: StrictBool = False
    """No effect: the program decides where components are placed."""


class SchedulerConfiguration(Block):
    scheduler_type: str
    """A class of diffusers, or a name that people use: `DPM++ 2M Karras`."""


class SchedulerBlock(Block):
    configuration: SchedulerConfiguration | None = None
    from_config_args: dict[str, JsonValue] = Field(default_factory=dict)
    shift: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> SchedulerBlock:
        if self.configuration is None and self.shift is None and not self.from_config_args:
            raise ValueError("a scheduler needs a 'configuration' or a 'shift'")
        return self


class AdapterBlock(Block):
    """Base of adapters; arguments that do not change the result are removed."""

    @model_validator(mode="before")
    @classmethod
    def _remove_ignored(cls, block: Any) -> Any:
        if not isinstance(block, dict):
            return block
        ignored = IGNORED_ADAPTER_ARGUMENTS - cls.model_fields.keys()
        return {key: value for key, value in block.items() if key not in ignored}


class LoraBlock(AdapterBlock):
    model_name: str | None
    """Null or "": no LoRA, so that a form can offer none."""
    weight_name: str | None = None
    subfolder: str | None = None
    revision: str | None = None
    adapter_name: str | None = None
    scale: Scale = 1.0
    """One number, or one per component and block, as diffusers' `set_adapters` takes them."""
    use_safetensors: Literal[True] | None = None
    """Weights are always safetensors."""
    low_cpu_mem_usage: StrictBool | None = None
    """No effect on the result."""


class TextualInversionBlock(AdapterBlock):
    """A word that the text encoders learn for the step (an addition to the dialect)."""

    model_name: str | None
    """Null or "": no word."""
    weight_name: str | None = None
    subfolder: str | None = None
    revision: str | None = None
    token: Annotated[str, Field(min_length=1)] | None = None
    """The word in prompts; by default the one in its file, else the file's name."""


class IpAdapterBlock(AdapterBlock):
    model_name: str
    weight_name: str
    subfolder: str | None = None
    revision: str | None = None
    image_encoder_folder: str | None = "image_encoder"
    """Folder relative to the weights, or to the repository's root if it contains a `/`; null for
    none. Of several adapters, the first one's encoder serves all."""
    image_encoder_pretrained_model_name_or_path: str | None = None
    """A separate image encoder model, as used by adapters for Flux; takes precedence over
    `image_encoder_folder`."""
    scale: float | list[JsonValue] | dict[str, JsonValue] = 1.0
    """One number, or one per block of the denoiser, as in diffusers."""


IpAdapters = Annotated[
    Annotated[IpAdapterBlock, Tag("one")]
    | Annotated[tuple[IpAdapterBlock, ...], Field(min_length=1), Tag("several")],
    Discriminator(lambda block: "several" if isinstance(block, list | tuple) else "one"),
]
"""One IP-adapter, or several in a list."""


class ComponentDocument(Block):
    configuration: ComponentConfiguration
    from_pretrained_arguments: dict[str, Any]
    quantization_config: QuantisationBlock | None = None
    group_offload: GroupOffload | None = None
    enable_layerwise_casting: LayerwiseCasting | None = None
    """Both blocks may be given here or in `configuration`."""


class RemoteTextEncoder(Block):
    """The server to which other software sends the prompt and an access token for encoding."""

    url: str


class ChainBlock(Block):
    """A video in segments, each of which continues the previous one."""

    segments: Annotated[StrictInt, Field(ge=1, le=MAX_SEGMENTS)] | None = None
    match_audio: StrictBool = False
    continuity: Literal["last_frame", "last_segment"] = "last_frame"
    segment_argument: Annotated[str, Field(min_length=1)] = "image"
    carry_frames: Annotated[StrictInt, Field(ge=1)] | None = None
    carry_audio: StrictBool = True
    trim_frames: Annotated[StrictInt, Field(ge=0)] = 1
    crossfade_ms: Annotated[float, Field(ge=0, le=60_000, strict=True)] = 75
    fps: Annotated[float, Field(gt=0, le=240, strict=True)] | None = None
    frame_snap: FrameSnap | None = None
    prompts: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    save_segments: StrictBool = False
    keep_segments: StrictBool = False


class PipelineBlock(Block):
    configuration: Configuration
    from_pretrained_arguments: dict[str, Any]
    arguments: dict[str, Any]
    seed: Seed | None = None
    scheduler: SchedulerBlock | None = None
    audio_scheduler: SchedulerBlock | None = None
    loras: tuple[LoraBlock, ...] = ()
    textual_inversions: tuple[TextualInversionBlock, ...] = ()
    ip_adapter: IpAdapters | None = None
    chain: ChainBlock | None = None
    remote_text_encoder: RemoteTextEncoder | None = None
    """No effect: nothing is sent; the model's own text encoder encodes the prompt locally."""
    shared_components: tuple[str, ...] = ()
    reused_components: tuple[str, ...] = ()
    """Both lists may be given here or in `configuration`; lists in both places are combined."""
    component_blocks: dict[str, ComponentDocument] = Field(default_factory=dict)
    component_lists: dict[str, tuple[ComponentDocument, ...]] = Field(default_factory=dict)
    """Components that are lists: several ControlNets."""

    @model_validator(mode="before")
    @classmethod
    def _gather_components(cls, block: Any) -> Any:
        """Collects every other key with `from_pretrained_arguments` in it: it is a component."""
        mark = "from_pretrained_arguments"
        block = _collected(cls, block, mark, "component_blocks")
        return _collected(cls, block, mark, "component_lists", in_lists=True)

    @property
    def ip_adapters(self) -> list[tuple[Path, IpAdapterBlock]]:
        """The IP-adapters with their places below the block."""
        match self.ip_adapter:
            case None:
                return []
            case tuple(several):
                return [(("ip_adapter", index), each) for index, each in enumerate(several)]
            case one:
                return [(("ip_adapter",), one)]

    @property
    def all_component_blocks(self) -> Iterator[tuple[str, Path, ComponentDocument]]:
        """Yields each component's name in the plan, its place below the block, and its block."""
        for name, block in self.component_blocks.items():
            yield name, (name,), block
        for name, blocks in self.component_lists.items():
            for index, block in enumerate(blocks):
                yield list_entry(name, index), (name, index), block


def _collected(
    model: type[Block], block: Any, mark: str, into: str, *, in_lists: bool = False
) -> Any:
    """Returns the block with all unknown keys whose objects, or lists of objects, contain `mark`
    moved below `into`."""
    if not isinstance(block, dict):
        return block
    if into in block:
        raise ValueError(f"'{into}' is not a known key")
    names = {
        key
        for key, value in block.items()
        if key not in model.model_fields
        and isinstance(value, list if in_lists else dict)
        and any(isinstance(each, dict) and mark in each for each in _each(value))
    }
    rest = {key: value for key, value in block.items() if key not in names}
    return {**rest, into: {name: block[name] for name in sorted(names)}}


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class PipelineReference(Block):
    """The pipeline of an earlier step, called with other arguments."""

    reference_name: str
    arguments: dict[str, Any]
    chain: ChainBlock | None = None


class SubWorkflow(Block):
    path: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class TaskBlock(Block):
    command: str
    arguments: dict[str, Any] | None = None
    inputs: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _has_one_kind_of_arguments(self) -> TaskBlock:
        if (self.arguments is None) == (self.inputs is None):
            raise ValueError("a task has exactly one of 'arguments' and 'inputs'")
        return self


SampleRate = Annotated[StrictInt, Field(ge=1000, le=768_000)]


class ResultBlock(Block):
    content_type: ContentType
    save: StrictBool = True
    file_base_name: str = ""
    fps: Annotated[float, Field(gt=0, le=240, strict=True)] | None = None
    sample_rate: SampleRate | None = None
    samplerate: SampleRate | None = None
    """Alias of `sample_rate`."""
    audio_sample_rate: SampleRate | None = None
    subtype: str | None = None
    format: str | None = None
    compression_level: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    bitrate_mode: Literal["CONSTANT", "AVERAGE", "VARIABLE"] | None = None
    embed_metadata: StrictBool = False
    """No effect: the complete record is always in every image and in a JSON file next to it."""


class StepDocument(Block):
    name: Annotated[str, Field(min_length=1)]
    pipeline: PipelineBlock | None = None
    task: TaskBlock | None = None
    pipeline_reference: PipelineReference | None = None
    workflow: SubWorkflow | None = None
    seed: Seed | None = None
    release_pipeline: StrictBool = False
    """After the step, evicts what only its pipeline (or its sub-workflow's pipelines) needs."""
    release_models: StrictBool = False
    """After the step, evicts the models that only the tasks up to this one need."""
    result: ResultBlock | None = None

    @model_validator(mode="after")
    def _has_one_action(self) -> StepDocument:
        actions = (self.pipeline, self.pipeline_reference, self.task, self.workflow)
        if sum(action is not None for action in actions) != 1:
            raise ValueError(
                "a step has exactly one of 'pipeline', 'pipeline_reference', 'task' and 'workflow'"
            )
        return self


class InputBlock(Block):
    """The form field of a variable, and its limits (an addition to the dialect)."""

    label: str = ""
    kind: InputKind | None = None
    help: str = ""
    group: Literal["", "advanced"] = ""
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str | int | float, ...] = ()
    lines: Annotated[int, Field(ge=1, le=40)] = 1
    required: StrictBool = False
    mask_of: str | None = None
    models: Kind | None = None
    """The input takes a bare name of such a model; the page lists those that are there."""
    examples: tuple[str, ...] = ()


class WorkflowDocument(Block):
    id: Annotated[str, Field(min_length=1)]
    steps: Annotated[tuple[StepDocument, ...], Field(min_length=1)]
    variables: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, InputBlock] = Field(default_factory=dict)
    seed: Seed | None = None
    description: str = ""


COLLECTED = frozenset({"component_blocks", "component_lists", "component_dtypes"})
"""Fields that are not document keys; they collect the objects under component names."""
KNOWN_KEYS = frozenset(
    name
    for model in (
        WorkflowDocument, StepDocument, PipelineBlock, Configuration, ComponentConfiguration,
        SchedulerBlock, SchedulerConfiguration, LoraBlock, IpAdapterBlock,
        TextualInversionBlock, PipelineReference, ChainBlock, FrameSnap, SubWorkflow,
        ResultBlock, InputBlock, TaskBlock,
        *CACHE_BLOCKS, RemoteTextEncoder, ComponentDocument, QuantisationBlock,
        QuantisationConfiguration, LoadComponents, ComponentsManager, *SETTING_BLOCKS,
    )
    for name in model.model_fields
    if name not in COLLECTED
)  # fmt: skip
