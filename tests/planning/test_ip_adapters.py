"""IP-adapters are planned: several in a list, and those of other families."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plan_bench import Bench, Document, drawing, safetensors, step

PIPELINE = "steps[0].pipeline"


@pytest.fixture(autouse=True)
def pictures(bench: Bench) -> None:
    for name in ("a.png", "b.png"):
        bench.picture(name, bench.workflows)


def adapter(bench: Bench, name: str, **changes: Any) -> Document:
    folder = bench.model.parent / name
    folder.mkdir(exist_ok=True)
    safetensors(folder / "eye.safetensors", a=4)
    return {"model_name": f"../models/{name}", "weight_name": "eye.safetensors", **changes}


def looking(
    adapters: Any, image: Any, kind: str = "StableDiffusionPipeline", **arguments: Any
) -> Document:
    return drawing(
        steps=[
            step(
                configuration={"component_type": kind},
                ip_adapter=adapters,
                arguments={"prompt": "a fox", "ip_adapter_image": image, **arguments},
            )
        ]
    )


def test_list_of_adapters_is_planned_in_order(bench: Bench):
    both = [
        adapter(bench, "one", scale=0.5),
        adapter(bench, "two", scale={"down": {"block_2": [0.0, 1.0]}}, subfolder=""),
    ]
    (planned,) = bench.plan(looking(both, ["a.png", "b.png"])).steps
    assert [(each.source.model, each.scale) for each in planned.ip_adapters] == [
        ("../models/one", 0.5),
        ("../models/two", {"down": {"block_2": [0.0, 1.0]}}),
    ]
    # One image encoder serves all.
    assert [each.image_encoder for each in planned.ip_adapters] == ["image_encoder", ""]


@pytest.mark.parametrize(
    ("count", "image", "told"),
    [
        (2, "a.png", "1 picture for 2 IP-adapters."),
        (2, ["a.png"] * 3, "3 pictures for 2 IP-adapters."),
        (1, ["a.png", "b.png"], "2 pictures for 1 IP-adapter."),
    ],
)
def test_images_are_one_for_each_adapter(bench: Bench, count: int, image: Any, told: str):
    blocks = [adapter(bench, f"n{index}") for index in range(count)]
    assert bench.problems(looking(blocks, image)) == {
        f"{PIPELINE}.arguments.ip_adapter_image": f"{told} A list with one for each is needed, in"
        " their order; several for one are a list in it."
    }


@pytest.mark.parametrize("image", ["a.png", ["a.png"], [["a.png", "b.png"]]])
def test_one_adapter_takes_one_image_or_a_list_of_several(bench: Bench, image: Any):
    bench.plan(looking(adapter(bench, "one"), image))
    bench.plan(looking([adapter(bench, "one")], image))


def test_mistakes_in_a_list_have_their_places(bench: Bench):
    wrong = [adapter(bench, "one", weight_name="eya.bin"), adapter(bench, "two", wait=1)]
    assert set(bench.problems(looking(wrong, ["a.png"] * 2))) == {
        f"{PIPELINE}.ip_adapter[0].weight_name",
        f"{PIPELINE}.ip_adapter[1].wait",
    }
    del wrong[1]["wait"]
    wrong[1]["scale"] = [0.5]
    problems = bench.problems(looking(wrong, ["a.png"] * 2))
    assert set(problems) == {
        f"{PIPELINE}.ip_adapter[0].weight_name",
        f"{PIPELINE}.ip_adapter[1].scale",
    }
    assert "Did you mean 'eye.safetensors'?" in problems[f"{PIPELINE}.ip_adapter[0].weight_name"]
    assert bench.problems(looking([], []))[f"{PIPELINE}.ip_adapter"]
    assert bench.problems(looking("one", "a.png"))[f"{PIPELINE}.ip_adapter"]


def test_encoder_of_a_later_adapter_is_warned_of(bench: Bench):
    both = [adapter(bench, "one"), adapter(bench, "two", image_encoder_folder="other/encoder")]
    assert bench.plan(looking(both, ["a.png"] * 2)).warnings == (
        f"{PIPELINE}.ip_adapter[1].image_encoder_folder has no effect: the first adapter's image"
        " encoder serves all.",
    )


def test_sd3_takes_one_adapter_with_one_scale(bench: Bench):
    kind = "StableDiffusion3Pipeline"
    one = adapter(bench, "one")
    bench.plan(looking(one, "a.png", kind))
    bench.plan(looking(one, ["a.png", "b.png"], kind))
    assert bench.problems(looking([one, one], ["a.png"] * 2, kind)) == {
        f"{PIPELINE}.ip_adapter": f"{kind} takes one IP-adapter, not 2. Keep one of them."
    }
    assert bench.problems(looking({**one, "scale": [0.5]}, "a.png", kind)) == {
        f"{PIPELINE}.ip_adapter.scale": f"{kind} has one scale for all blocks of its denoiser: a"
        " number is needed."
    }


def test_flux_takes_scales_for_the_blocks_of_each_adapter(bench: Bench):
    both = [adapter(bench, "one", scale=[0.5, 1.0]), adapter(bench, "two", scale=0.3)]
    bench.plan(looking(both, ["a.png"] * 2, "FluxPipeline"))
    negative = {"negative_ip_adapter_image": ["a.png"] * 3}
    assert set(bench.problems(looking(both, ["a.png"] * 2, "FluxPipeline", **negative))) == {
        f"{PIPELINE}.arguments.negative_ip_adapter_image"
    }


def test_adapter_may_bring_no_image_encoder(bench: Bench):
    blocks = [adapter(bench, "face", image_encoder_folder=None)]
    (planned,) = bench.plan(looking(blocks, "a.png")).steps
    assert planned.ip_adapters[0].image_encoder == ""
