"""Each alternative of a setting that may have several types is planned, sent and identified."""

from __future__ import annotations

import types
import typing
from typing import Any

import pytest

from app.dialect import document, plan_settings, setting_blocks
from app.dialect.plan import PipelineStep, Plan
from app.frozen import Frozen
from app.planning.request_keys import request_key
from app.planning.result_keys import result_key
from tests.plan_bench import Bench, Document, drawing, step


def flux(**configuration: Any) -> Document:
    return step(configuration={"component_type": "FluxPipeline", **configuration}, arguments={})


def modular(**configuration: Any) -> Document:
    return step(configuration={"component_type": "ModularPipeline", **configuration}, arguments={})


def adapted(scale: Any) -> Document:
    adapter = {"model_name": "owner/adapter", "weight_name": "a.safetensors", "scale": scale}
    arguments = {"prompt": "a fox", "ip_adapter_image": "a.png"}
    return step(ip_adapter=adapter, arguments=arguments)


def with_lora(scale: Any) -> Document:
    return step(loras=[{"model_name": "owner/lora", "scale": scale}])


def mag(ratios: Any) -> Document:
    return flux(cache={"type": "mag", "mag_ratios": ratios})


FLUX = {
    "vae": ["diffusers", "AutoencoderKL"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
}
ALTERNATIVES: dict[str, list[Document]] = {
    "LoadComponents.dtype": [
        modular(load_components={"dtype": "torch.float16"}),
        modular(load_components={"dtype": {"vae": "torch.float16"}}),
    ],
    "LoadComponents.torch_dtype": [
        modular(load_components={"torch_dtype": "torch.float16"}),
        modular(load_components={"torch_dtype": {"vae": "torch.float16"}}),
    ],
    "ComponentsManager.memory_reserve_margin": [
        modular(components_manager={"memory_reserve_margin": margin}) for margin in ("3GB", 3, 0.5)
    ],
    "IpAdapterBlock.scale": [
        adapted(scale) for scale in (0.5, [0.5, {"down": 0.1}], {"down": {"block_0": [0.1]}})
    ],
    "LoraBlock.scale": [with_lora(scale) for scale in (0.5, {"unet": {"down": 0.5}})],
    "ComponentSettings.enable_tiling": [
        flux(components={"vae": {"enable_tiling": tiling}})
        for tiling in (True, {"tile_sample_min_height": 256})
    ],
    "MagCache.mag_ratios": [mag("flux"), mag([1.0, 0.9, 1])],
}
"""By class and field, one step for each type but null."""


def unions() -> dict[str, int]:
    """Returns the number of types, without null, of each field of a block with several."""
    found = {}
    for module in (document, setting_blocks, plan_settings):
        for name, block in vars(module).items():
            if isinstance(block, type) and issubclass(block, Frozen):
                for field, info in block.model_fields.items():
                    origin = typing.get_origin(info.annotation)
                    if origin in (typing.Union, types.UnionType):
                        kinds = [*typing.get_args(info.annotation)]
                        count = len(kinds) - (type(None) in kinds)
                        if count > 1:
                            found[f"{name}.{field}"] = count
    return found


def test_every_field_of_several_types_is_tested():
    assert {name: len(steps) for name, steps in ALTERNATIVES.items()} == unions()


CASES = [
    pytest.param(each, id=f"{name}-{index}")
    for name, steps in ALTERNATIVES.items()
    for index, each in enumerate(steps)
]


@pytest.mark.parametrize("wanted", CASES)
def test_alternative_is_planned_sent_and_identified(bench: Bench, wanted: Document):
    bench.picture("a.png", bench.workflows)
    bench.consists_of(FLUX)
    plan = bench.plan(drawing(steps=[wanted]), seed=1)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    (planned,) = plan.steps
    assert isinstance(planned, PipelineStep)
    assert result_key(planned, loaded={}, machine={}, earlier={})
    assert request_key(plan)


@pytest.mark.parametrize("cache", [mag, lambda ratios: mag("variable:ratios")])
@pytest.mark.parametrize("ratios", [{"a": 1}, 5, [], ["much"], [None], True])
def test_value_of_no_alternative_is_refused_at_its_place(bench: Bench, cache: Any, ratios: Any):
    wanted = drawing(steps=[cache(ratios)])
    wanted["variables"]["ratios"] = ratios
    at = "steps[0].pipeline.configuration.cache.mag_ratios"
    assert set(bench.problems(wanted)) <= {at, f"{at}[0]"}
