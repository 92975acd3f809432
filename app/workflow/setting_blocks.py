"""Blocks of a document that set how a pipeline and its components are stored and run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StrictBool, StrictInt

from app.workflow.plan_settings import DType, StorageDType


class Block(BaseModel):
    """A document object that allows no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _bare(name: Any) -> Any:
    """Returns the bare name: `bfloat16` for `torch.bfloat16` and `{bfloat16}`."""
    if not isinstance(name, str):
        return name
    return name.removeprefix("{").removesuffix("}").removeprefix("torch.")


NamedDType = Annotated[DType, BeforeValidator(_bare)]
NamedStorageDType = Annotated[StorageDType, BeforeValidator(_bare)]

AttentionBackend = Literal[
    "native", "_native_cudnn", "_native_efficient", "_native_flash", "_native_math", "flex",
    "flash", "flash_varlen", "_flash_3", "_flash_varlen_3", "sage", "sage_varlen", "xformers",
]  # fmt: skip
"""Backends of torch and of packages."""
HubBackend = Literal[
    "flash_hub", "flash_varlen_hub", "flash_4_hub", "_flash_3_hub", "_flash_3_varlen_hub",
    "aiter_fa2_hub", "sage_hub", "sage_blackwell_hub",
]  # fmt: skip
"""Backends that would run code from the model hub; torch's own, which is equivalent, is used."""


class GroupOffload(Block):
    """Moves weights through the device in groups. None of these settings changes the result."""

    offload_type: Annotated[Literal["block_level", "leaf_level"], BeforeValidator(_bare)]
    onload_device: str | None = None
    offload_device: str | None = None
    num_blocks_per_group: Annotated[StrictInt, Field(ge=1)] | None = None
    use_stream: StrictBool = False
    record_stream: StrictBool = False
    low_cpu_mem_usage: StrictBool = False
    non_blocking: StrictBool = False
    offload_to_disk_path: str | None = None


class LayerwiseCasting(Block):
    """Weights are stored in one dtype, and each layer computes in another."""

    storage_dtype: NamedStorageDType
    compute_dtype: NamedDType


class CompileBlock(Block):
    repeated_blocks: StrictBool = False
    """Compiles only the component's repeated block, once; this is faster."""
    mode: (
        Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None
    ) = None
    fullgraph: StrictBool = False
    dynamic: StrictBool | None = None


class ComponentSettings(Block):
    """Settings under `components.<name or dotted.path>`."""

    truncate_layers: dict[str, Annotated[StrictInt, Field(ge=1)]] = Field(default_factory=dict)
    remove_modules: tuple[str, ...] = ()
    group_offload: GroupOffload | None = None
    enable_tiling: StrictBool | dict[str, JsonValue] = False
    residency: Literal["resident", "on_demand"] = "resident"
    device: str | None = None
    attention_backend: Literal[AttentionBackend, HubBackend] | None = None
    compile: CompileBlock | None = None


class DTypeSettings(Block):
    """Settings in the block of any component."""

    torch_dtype: NamedDType | None = None


class VaeSettings(DTypeSettings):
    enable_tiling: StrictBool = False
    enable_slicing: StrictBool = False
    channels_last: StrictBool = False


class UnetSettings(DTypeSettings):
    attn_processor_type: str | None = None
    enable_forward_chunking: StrictBool = False
    channels_last: StrictBool = False


class TransformerSettings(DTypeSettings):
    attn_processor_type: str | None = None


SETTING_BLOCKS = (
    GroupOffload, LayerwiseCasting, CompileBlock, ComponentSettings, DTypeSettings, VaeSettings,
    UnetSettings, TransformerSettings,
)  # fmt: skip
