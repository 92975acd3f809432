"""Blocks of a document that set how a pipeline and its components are stored and run."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    StrictBool,
    StrictInt,
    field_validator,
    model_validator,
)

from app.dialect.plan_settings import CompileBlock, LayerwiseCasting, NamedDType, bare
from app.frozen import Frozen


class Block(Frozen):
    """A document object that allows no unknown keys."""


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

    offload_type: Annotated[Literal["block_level", "leaf_level"], BeforeValidator(bare)]
    onload_device: str | None = None
    offload_device: str | None = None
    num_blocks_per_group: Annotated[StrictInt, Field(ge=1)] | None = None
    use_stream: StrictBool = False
    record_stream: StrictBool = False
    low_cpu_mem_usage: StrictBool = False
    non_blocking: StrictBool = False
    offload_to_disk_path: str | None = None


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


# --- caches ---------------------------------------------------------------------------------------

# The options and defaults of caches are those of diffusers; TeaCache, which it does not have, is in
# `app/worker/tuning/teacache.py`.
MAG_RATIOS = ("flux",)
"""Models with ratios in diffusers, as `FLUX_MAG_RATIOS` of its module."""
TEACACHES = (
    "hunyuan_video", "mochi", "ltx_video", "cogvideox_2b", "cogvideox_5b", "cogvideox1.5_5b",
    "cogvideox1.5_5b_i2v", "lumina2", "lumina2_v2", "wan2.1_t2v_1.3b", "wan2.1_t2v_14b",
    "wan2.1_i2v_480p", "wan2.1_i2v_720p",
)  # fmt: skip
"""Models other than Flux whose TeaCaches the dialect names."""


class FirstBlockCache(Block):
    type: Literal["first_block"]
    threshold: Annotated[float, Field(gt=0)] = 0.05


class TaylorSeerCache(Block):
    type: Literal["taylorseer"]
    cache_interval: Annotated[int, Field(ge=1)] = 5
    max_order: Annotated[int, Field(ge=0)] = 1


class FasterCache(Block):
    type: Literal["faster"]


class MagCache(Block):
    type: Literal["mag"]
    threshold: Annotated[float, Field(ge=0)] = 0.06
    num_inference_steps: Annotated[StrictInt, Field(ge=1)] = 28
    max_skip_steps: Annotated[StrictInt, Field(ge=0)] = 3
    retention_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    calibrate: StrictBool = False
    mag_ratios: str | Annotated[tuple[float, ...], Field(min_length=1)] | None = None

    @field_validator("mag_ratios")
    @classmethod
    def _is_a_known_preset(cls, ratios: str | tuple[float, ...] | None) -> object:
        if isinstance(ratios, str) and ratios.lower() not in MAG_RATIOS:
            offered = ", ".join(MAG_RATIOS)
            raise ValueError(f"there are no ratios '{ratios}', only {offered} or a list of numbers")
        return ratios.lower() if isinstance(ratios, str) else ratios

    @model_validator(mode="after")
    def _has_ratios(self) -> Self:
        if self.mag_ratios is None and not self.calibrate:
            raise ValueError(
                "a 'mag' cache needs 'mag_ratios' of its model ('flux' or a list of numbers), or"
                " 'calibrate': true to have them measured and logged"
            )
        return self


class TextKvCache(Block):
    type: Literal["text_kv"]


class CacheDit(Block):
    """The cache of the package cache-dit, with its defaults."""

    type: Literal["cache_dit"]
    threshold: Annotated[float, Field(gt=0)] = 0.08
    first_blocks: Annotated[StrictInt, Field(ge=1)] = 8
    last_blocks: Annotated[StrictInt, Field(ge=0)] = 0
    warmup_steps: Annotated[StrictInt, Field(ge=0)] = 8
    max_skip_steps: Annotated[StrictInt, Field(ge=-1)] = -1


CacheBlock = Annotated[
    FirstBlockCache | TaylorSeerCache | FasterCache | MagCache | TextKvCache | CacheDit,
    Field(discriminator="type"),
]


class TeaCacheBlock(Block):
    rel_l1_thresh: Annotated[float, Field(ge=0)] = 0.6
    coefficients: tuple[float, ...] | None = None
    """Polynomial coefficients, the highest power first; None for Flux's."""
    variant: str = "flux"

    @field_validator("coefficients")
    @classmethod
    def _are_five(cls, coefficients: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if coefficients is not None and len(coefficients) != 5:
            raise ValueError(f"five coefficients are needed, not {len(coefficients)}")
        return coefficients

    @field_validator("variant")
    @classmethod
    def _is_flux(cls, variant: str) -> str:
        if variant in TEACACHES:
            raise ValueError(f"a TeaCache of '{variant}' is not supported, only that of 'flux'")
        if variant != "flux":
            raise ValueError(f"there is no TeaCache '{variant}', only that of 'flux'")
        return variant


CACHE_BLOCKS = (
    FirstBlockCache, TaylorSeerCache, FasterCache, MagCache, TextKvCache, CacheDit, TeaCacheBlock,
)  # fmt: skip
