"""Blocks of a document that have a denoiser compute only now and then.

What each of them does is diffusers' business, and these are its own options and defaults; TeaCache,
which diffusers does not have, is in `app/worker/tuning/teacache.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, StrictInt, field_validator, model_validator

from app.workflow.setting_blocks import Block

MAG_RATIOS = ("flux",)
"""The models diffusers has ratios of, as `FLUX_MAG_RATIOS` of its module."""
TEACACHES = (
    "hunyuan_video", "mochi", "ltx_video", "cogvideox_2b", "cogvideox_5b", "cogvideox1.5_5b",
    "cogvideox1.5_5b_i2v", "lumina2", "lumina2_v2", "wan2.1_t2v_1.3b", "wan2.1_t2v_14b",
    "wan2.1_i2v_480p", "wan2.1_i2v_720p",
)  # fmt: skip
"""Models other than Flux that the dialect has TeaCaches of in name."""


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


CacheBlock = Annotated[
    FirstBlockCache | TaylorSeerCache | FasterCache | MagCache | TextKvCache,
    Field(discriminator="type"),
]


class TeaCacheBlock(Block):
    rel_l1_thresh: Annotated[float, Field(ge=0)] = 0.6
    coefficients: tuple[float, ...] | None = None
    """Of the polynomial, the highest power first; None: Flux's."""
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
    FirstBlockCache, TaylorSeerCache, FasterCache, MagCache, TextKvCache, TeaCacheBlock,
)  # fmt: skip
