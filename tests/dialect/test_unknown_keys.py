"""Unknown keys: a warning where any key is allowed, refused elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialect.loader import without
from tests.plan_bench import Bench, drawing, step

PIPELINE = "steps[0].pipeline"


def test_keys_of_other_software_are_ignored(bench: Bench):
    document = drawing(editor={"zoom": 2}, steps=[{**step(vendor=[1]), "xy": [3, 4]}])
    document["steps"][0]["result"]["colour"] = "red"
    assert set(bench.plan(document).warnings) == {
        "editor: The key 'editor' is not known and is ignored.",
        f"{PIPELINE}.vendor: The key 'vendor' is not known and is ignored.",
        "steps[0].xy: The key 'xy' is not known and is ignored.",
        "steps[0].result.colour: The key 'colour' is not known and is ignored.",
    }


@pytest.mark.parametrize(
    ("changes", "place", "right"),
    [
        ({"shceduler": {}}, f"{PIPELINE}.shceduler", "scheduler"),
        ({"configuration": {"component_type": "StableDiffusionPipeline",
                            "vae": {"enable_tilling": True}}},
         f"{PIPELINE}.configuration.vae.enable_tilling", "enable_tiling"),
        ({"configuration": {"component_type": "StableDiffusionPipeline",
                            "cache": {"type": "first_block", "treshold": 0.1}}},
         f"{PIPELINE}.configuration.cache.treshold", "threshold"),
    ],
)  # fmt: skip
def test_typo_in_open_block_is_warning_with_nearest(
    bench: Bench, changes: dict[str, Any], place: str, right: str
):
    (warning,) = bench.plan(drawing(steps=[step(**changes)])).warnings
    key = place.rpartition(".")[2]
    assert warning == (
        f"{place}: The key '{key}' is not known and is ignored. Did you mean '{right}'?"
    )


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"configuration": {"component_type": "StableDiffusionPipeline", "noise": 1}},
         f"{PIPELINE}.configuration.noise"),
        ({"loras": [{"model_name": "a/b", "wieght_name": "x.safetensors"}]},
         f"{PIPELINE}.loras[0].wieght_name"),
        ({"scheduler": {"shift": 2, "shfit": 3}}, f"{PIPELINE}.scheduler.shfit"),
    ],
)  # fmt: skip
def test_unknown_key_in_closed_block_is_refused(bench: Bench, changes: dict[str, Any], place: str):
    assert list(bench.problems(drawing(steps=[step(**changes)]))) == [place]


def test_mistyped_required_key_is_one_problem(bench: Bench):
    mistyped = step()
    mistyped["pipeline"]["argumens"] = mistyped["pipeline"].pop("arguments")
    nameless = {"nmae": "second", **step()}
    del nameless["name"]
    actionless = {"name": "third", "taks": {"command": "x", "arguments": {}}}
    assert bench.problems(drawing(steps=[mistyped, nameless, actionless])) == {
        f"{PIPELINE}.argumens": "'argumens' is not a known key. Did you mean 'arguments'?",
        "steps[1].nmae": "'nmae' is not a known key. Did you mean 'name'?",
        "steps[2].taks": "'taks' is not a known key. Did you mean 'task'?",
    }


def test_other_steps_are_checked_beside_broken_one(bench: Bench):
    broken = step("broken")
    del broken["pipeline"]["arguments"]
    after = step("after", arguments={"ip_adapter_image": "previous_result:broken", "promt": 1})
    assert list(bench.problems(drawing(steps=[broken, after]))) == [
        "steps[0].pipeline.arguments",
        "steps[1].pipeline.arguments.promt",
    ]


def test_removing_keys_leaves_rest_unchanged():
    tree = {"a": [{"b": 1, "c": 2}, 3], "d": {"e": 4}}
    assert without(tree, [("a", 0, "b"), ("d", "e")]) == {"a": [{"c": 2}, 3], "d": {}}
    assert tree["d"] == {"e": 4}
