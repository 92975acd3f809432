"""Limits of a guest's run: form limits, size, and models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.catalog.catalog import Catalog
from app.catalog.guests import GuestCheck, GuestLimits, value_at
from app.errors import InvalidInputs
from app.planning.planner import make_plan
from app.settings import PathSettings

LIMITS = GuestLimits(pixels=4_000_000, steps=50)
AT = "/steps/0/pipeline/arguments"


@pytest.fixture
def paths(tmp_path: Path, shipped_workflows: Path) -> PathSettings:
    document = {
        "id": "any",
        "variables": {"prompt": "a star", "model": "example/named", "lora": "example/lora"},
        "inputs": {"model": {"choices": ["example/named", "example/other"]}},
        "steps": [
            {
                "name": "draw",
                "pipeline": {
                    "configuration": {"component_type": "StableDiffusionPipeline"},
                    "from_pretrained_arguments": {"model_name": "variable:model"},
                    "loras": [{"model_name": "variable:lora"}],
                    "arguments": {"prompt": "variable:prompt"},
                },
                "result": {"content_type": "image/png"},
            }
        ],
    }
    (tmp_path / "any.json").write_text(json.dumps(document))
    return PathSettings(
        workflows=(shipped_workflows, tmp_path), media=(tmp_path,), outputs=tmp_path / "outputs"
    )


def refusals(
    paths: PathSettings, name: str, inputs: dict[str, Any], changes: dict[str, Any]
) -> list[str]:
    """Returns the problems that a guest is told; operators may."""
    catalog = Catalog(paths)
    entry = catalog.find(name)
    plan = make_plan(Path(entry.path), inputs, paths=paths, changes=changes)
    try:
        GuestCheck(catalog, entry, inputs, changes, LIMITS)(plan)
    except InvalidInputs as error:
        return [str(problem) for problem in error.problems]
    return []


def test_guest_may_change_arguments_within_the_limits(paths: PathSettings) -> None:
    changes = {f"{AT}/width": 64, f"{AT}/height": 64, f"{AT}/num_inference_steps": 50}
    assert refusals(paths, "text-to-image", {"pictures": 4}, changes) == []


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/steps/0/pipeline/from_pretrained_arguments/model_name", "../models/shapes"),
        ("/steps/0/seed", 1),
        ("/seed", 1),
        ("/steps/0/result/content_type", "image/webp"),
    ],
)
def test_guest_may_change_nothing_but_arguments(
    paths: PathSettings, pointer: str, value: object
) -> None:
    (told,) = refusals(paths, "text-to-image", {}, {pointer: value})
    assert told.startswith(f"{pointer}: Only values below the arguments")


def test_limits_of_the_form_hold_for_changes_too(paths: PathSettings) -> None:
    told = refusals(paths, "text-to-image", {}, {f"{AT}/num_inference_steps": 1000})
    assert any("1000 is outside 1 to 50" in each for each in told), told


def test_guest_s_run_has_a_limited_number_of_pixels_and_steps(paths: PathSettings) -> None:
    changes = {f"{AT}/width": 2048, f"{AT}/height": 2048}
    (told,) = refusals(paths, "text-to-image", {"pictures": 4}, changes)
    assert "16.8 million pixels would be drawn" in told
    assert "4.0 million" in told
    (told,) = refusals(paths, "any", {}, {f"{AT}/num_inference_steps": 200})
    assert "200 steps are asked for; a guest's run may have 50" in told


def test_guest_may_not_hand_in_a_larger_picture(paths: PathSettings, tmp_path: Path) -> None:
    Image.new("1", (2001, 2000)).save(tmp_path / "large.png")
    told = refusals(paths, "variations", {"image": str(tmp_path / "large.png")}, {})
    assert any("2001x2000 pixels is handed in" in each for each in told), told


@pytest.mark.parametrize("model", ["example/named", "example/other"])
def test_guest_may_choose_models_that_the_catalog_names(paths: PathSettings, model: str) -> None:
    assert refusals(paths, "any", {"model": model, "lora": "example/lora"}, {}) == []


@pytest.mark.parametrize("lora", ["unlisted/lora", "example/lora2", "xexample/lora"])
def test_guest_may_not_have_any_repository_downloaded(paths: PathSettings, lora: str) -> None:
    (told,) = refusals(paths, "any", {"lora": lora}, {})
    assert f"No workflow here names the model '{lora}'" in told


def test_value_at_a_pointer_is_found_in_objects_and_lists() -> None:
    tree = {"steps": [{"a/b": 1}]}
    assert value_at(tree, "/steps/0/a~1b") == 1
    assert value_at(tree, "/steps/1/x") is None
    assert value_at(tree, "/steps/0/none/x") is None
