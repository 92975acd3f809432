"""Several ControlNets in one step, held by identity and called as diffusers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
)
from diffusers.models import ControlNetModel
from PIL import Image

from app.models.needs import step_need, weighed_specs
from tests.doubles.accelerator import Accelerator
from tests.standins.stable_diffusion import build_controlnet
from tests.worker.bench import Bench, Document, document, pixels, same, step

HINTS = ["red.png", "blue.png"]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two ControlNets. Read-only."""
    folder = tmp_path_factory.mktemp("nets")
    for seed, name in enumerate(("canny", "depth"), start=1):
        build_controlnet(folder / name, seed)
    return folder


@pytest.fixture(autouse=True)
def pictures(bench: Bench) -> None:
    for file in HINTS:
        Image.new("RGB", (64, 64), file.removesuffix(".png")).save(bench.folder / file)


def block(folder: Path, **changes: Any) -> Document:
    return {
        "configuration": {"component_type": "ControlNetModel"},
        "from_pretrained_arguments": {"model_name": str(folder), **changes},
    }


def controlled(
    model: Path, nets: list[Document], kind: str = "ControlNet", **arguments: Any
) -> Document:
    hints = {"image": HINTS, "width": 64, "height": 64}
    if kind == "ControlNetImg2Img":
        hints = {"image": HINTS[0], "control_image": HINTS, "strength": 1.0}
    loading = {"safety_checker": None}
    blocks = {"controlnet": nets}
    return step(model=model, kind=kind, loading=loading, blocks=blocks, **hints | arguments)


@pytest.mark.parametrize(
    ("kind", "pipeline_class", "arguments"),
    [
        ("ControlNet", StableDiffusionControlNetPipeline, {}),
        (
            "ControlNet",
            StableDiffusionControlNetPipeline,
            {"controlnet_conditioning_scale": [0.3, 1.5], "control_guidance_start": [0.0, 0.5]},
        ),
        (
            "ControlNetImg2Img",
            StableDiffusionControlNetImg2ImgPipeline,
            {"controlnet_conditioning_scale": [1.5, 0.3]},
        ),
    ],
)
def test_list_of_controlnets_draws_what_diffusers_draws(
    bench: Bench,
    tiny: Path,
    nets: Path,
    kind: str,
    pipeline_class: type[DiffusionPipeline],
    arguments: Document,
):
    listed = [block(nets / "canny"), block(nets / "depth")]
    drawn = controlled(tiny, listed, kind, **arguments)
    (ours,) = pixels(bench.run(document(drawn)))
    stock = pipeline_class.from_pretrained(
        tiny,
        controlnet=[ControlNetModel.from_pretrained(nets / name) for name in ("canny", "depth")],
        safety_checker=None,
    )
    stock.set_progress_bar_config(disable=True)
    hints = [Image.open(bench.folder / file) for file in HINTS]
    given = drawn["pipeline"]["arguments"]
    given |= {"image": hints} if kind == "ControlNet" else {"image": hints[0]}
    given |= {"control_image": hints} if kind != "ControlNet" else {}
    theirs = stock(**given, generator=torch.Generator("cpu").manual_seed(7)).images[0]
    assert np.array_equal(ours, np.asarray(theirs))


def test_controlnets_of_a_list_are_held_by_identity(bench: Bench, tiny: Path, nets: Path):
    both = controlled(tiny, [block(nets / "canny"), block(nets / "depth")])
    one = step(
        "one",
        model=tiny,
        kind="ControlNet",
        loading={"safety_checker": None},
        blocks={"controlnet": block(nets / "depth")},
        image=HINTS[0],
    )
    twice = controlled(tiny, [block(nets / "depth"), block(nets / "depth")])
    ran = bench.run(document(both, one, {**twice, "name": "twice"}))
    loaded = [title for title in ran.success.loaded if title.startswith("controlnet")]
    assert loaded == ["controlnet.0 of canny (float32)", "controlnet.1 of depth (float32)"]
    held = [entry for entry in bench.runner.residency.entries if "controlnet" in entry.title]
    assert len(held) == 2
    first, alone, same_twice = pixels(ran)
    assert not np.array_equal(first, alone)
    assert not np.array_equal(alone, same_twice)


def test_order_and_dtype_of_a_list_count(bench: Bench, tiny: Path, nets: Path):
    canny, depth = block(nets / "canny"), block(nets / "depth")
    forth = bench.run(document(controlled(tiny, [canny, depth])), fresh=False)
    back = bench.run(document(controlled(tiny, [depth, canny])), fresh=False)
    assert back.success.loaded == ()
    assert not same(forth, back)
    assert same(forth, bench.run(document(controlled(tiny, [canny, depth])), fresh=False))
    half = block(nets / "depth", torch_dtype="torch.bfloat16")
    loaded = bench.assembled(document(controlled(tiny, [canny, half]))).controlnet.nets
    assert [net.dtype for net in loaded] == [torch.float32, torch.bfloat16]


def test_reused_list_is_the_same_list(bench: Bench, tiny: Path, nets: Path):
    first = controlled(tiny, [block(nets / "canny"), block(nets / "depth")])
    first["pipeline"]["shared_components"] = ["controlnet"]
    again = {**controlled(tiny, []), "name": "again"}
    del again["pipeline"]["controlnet"]
    again["pipeline"]["reused_components"] = ["controlnet"]
    one, other = pixels(bench.run(document(first, again)))
    assert np.array_equal(one, other)


def test_memory_counts_each_controlnet_of_a_list(bench: Bench, tiny: Path, nets: Path):
    canny, depth = block(nets / "canny"), block(nets / "depth")

    def need(*listed: Document) -> Any:
        (planned,) = bench.plan(document(controlled(tiny, [*listed]))).steps
        return step_need(planned, weighed_specs(planned), {})

    one, both, twice = need(canny, canny), need(canny, depth), need(depth, depth)
    assert one.total_bytes == twice.total_bytes
    net_bytes = both.total_bytes - one.total_bytes
    assert net_bytes > 0
    # diffusers offloads the list as one component.
    (listed,) = [each for each in both.weights if each.name == "controlnet"]
    assert listed.weight_bytes == 2 * net_bytes


def test_list_is_offloaded_and_given_back(bench: Bench, tmp_path: Path, tiny: Path, nets: Path):
    listed = controlled(tiny, [block(nets / "canny"), block(nets / "depth")])
    plain = bench.run(document(listed))
    bench = Bench(tmp_path, Accelerator())
    for name in ("draw", "again"):
        listed["pipeline"]["configuration"]["offload"] = "model"
        ran = bench.run(document({**listed, "name": name}))
        assert same(plain, ran)
    held = [each for each in bench.runner.residency.entries if "controlnet" in each.title]
    assert [each.place for each in held] == ["ram", "ram"]
    assert not any(hasattr(module, "_hf_hook") for e in held for module in e.component.modules())
