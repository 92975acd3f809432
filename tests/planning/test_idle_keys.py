"""Keys without effect: warned of with their place, and not part of what is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from app.planning.loading_arguments import IDLE_LOADING_ARGUMENTS
from tests.plan_bench import MODEL, Bench, Document, drawing, step

PIPELINE = "StableDiffusionPipeline"
COMPONENT: Document = {
    "configuration": {"component_type": "AutoencoderKL", "preserve_device_placement": True},
    "from_pretrained_arguments": {"model_name": MODEL, "device_map": "auto"},
}


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.consists_of({"vae": ["diffusers", "AutoencoderKL"]})
    return bench


def warnings(bench: Bench, **pipeline: Any) -> list[str]:
    return [told.partition(" has no effect: ")[0] for told in plan(bench, **pipeline).warnings]


def plan(bench: Bench, **pipeline: Any) -> Any:
    return bench.plan(drawing(steps=[step(**pipeline)]), seed=1)


@pytest.mark.parametrize("key", ["preserve_device_placement", "disable_attention_slicing"])
def test_idle_configuration_key_is_a_warning(bench: Bench, key: str):
    asked, left, unsaid = (
        {"configuration": {"component_type": PIPELINE, **said}}
        for said in ({key: True}, {key: False}, {})
    )
    assert warnings(bench, **asked) == [f"steps[0].pipeline.configuration.{key}"]
    assert warnings(bench, **left) == []
    assert plan(bench, **asked).steps == plan(bench, **unsaid).steps


def test_idle_component_keys_are_warnings(bench: Bench):
    assert warnings(bench, vae=COMPONENT) == [
        "steps[0].pipeline.vae.configuration.preserve_device_placement",
        "steps[0].pipeline.vae.from_pretrained_arguments.device_map",
    ]


@pytest.mark.parametrize("key", IDLE_LOADING_ARGUMENTS)
def test_idle_loading_argument_is_a_warning(bench: Bench, key: str):
    told, left = (
        warnings(bench, from_pretrained_arguments={"model_name": MODEL, key: value})
        for value in (True, False)
    )
    assert told == [f"steps[0].pipeline.from_pretrained_arguments.{key}"]
    assert left == []


@pytest.mark.parametrize(
    ("content_type", "asked", "told"),
    [
        ("image/png", True, []),
        ("image/png", None, []),
        ("image/webp", False, ["steps[0].result.embed_metadata"]),
        ("image/gif", True, ["steps[0].result.embed_metadata"]),
        ("image/gif", False, []),
    ],
)
def test_contradicted_embed_metadata_is_a_warning(
    bench: Bench, content_type: str, asked: bool | None, told: list[str]
):
    result = {"content_type": content_type}
    result |= {} if asked is None else {"embed_metadata": asked}
    document = drawing(steps=[{**step(), "result": result}])
    found = [each.partition(" has no effect: ")[0] for each in bench.plan(document).warnings]
    assert found == told
