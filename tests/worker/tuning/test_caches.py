"""Denoiser caches of modular pipelines and of denoisers with sound, also in the segments of chains.

Those of Flux are in `test_attention`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.worker.device import Device
from app.worker.loading.load import assemble, find_parts
from app.worker.tuning.loras import HeldLoras
from app.worker.tuning.tune import tuned
from tests.engines import Finished
from tests.standins import build_flux, build_wan
from tests.standins.ltx2 import build_ltx2
from tests.standins.minimax_h3 import build_minimax_h3
from tests.worker.bench import Bench, Document, document, pixels, same
from tests.worker.results.files import Film, seen

FIRST_BLOCK = {"type": "first_block", "threshold": 1e9}
TAYLORSEER = {"type": "taylorseer", "cache_interval": 2, "max_order": 0}
MAG = {"type": "mag", "threshold": 9.0, "retention_ratio": 0.0, "num_inference_steps": 6,
       "max_skip_steps": 9, "mag_ratios": [1.0, 1, 0.9]}  # fmt: skip
STEPS = 6
FPS = 24
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    builds = {
        "flux": build_flux, "wan": build_wan, "ltx2": build_ltx2, "h3": build_minimax_h3,
    }  # fmt: skip
    for name, build in builds.items():
        build(bench.models / "tiny" / name)
    Image.new("RGB", (64, 64), "red").save(bench.folder / "start.png")
    return bench


def drawing(model: str, cache: Document | None, **arguments: Any) -> Document:
    """Returns a document of one modular step."""
    given = {"prompt": "a fox", "num_inference_steps": STEPS, "width": 64, "height": 64}
    configuration = {"component_type": "ModularPipeline"}
    step = {
        "name": "draw",
        "pipeline": {
            "configuration": configuration if cache is None else {**configuration, "cache": cache},
            "from_pretrained_arguments": {"model_name": f"tiny/{model}"},
            "arguments": {**given, **arguments},
        },
        "result": {"content_type": "video/mp4" if model == "wan" else "image/png"},
    }
    return document(step, id=f"{model}-{'plain' if cache is None else cache['type']}")


def computed(bench: Bench, wanted: Document) -> int:
    """Returns how often the last block of the denoiser is computed."""
    bench.run(wanted)
    held = {entry.key: entry.component for entry in bench.runner.residency.entries}
    planned = bench.plan(wanted).steps[-1]
    (key,) = (part.key for part in find_parts(planned).parts if part.name == "transformer")
    denoiser = held[key]
    lists = [each for each in denoiser.children() if isinstance(each, torch.nn.ModuleList)]
    # A module inside it: the block's own call is replaced by the cache's.
    inner = next(each for each in lists[-1][-1].modules() if not list(each.children()))
    calls: list[object] = []
    handle = inner.register_forward_hook(lambda *_: calls.append(None))
    assert bench.run(wanted).success
    handle.remove()
    return len(calls)


@pytest.mark.parametrize("cache", [FIRST_BLOCK, TAYLORSEER, MAG], ids=lambda each: each["type"])
def test_modular_pipeline_has_caches_of_ordinary_one(bench: Bench, cache: Document):
    plain, wanted = drawing("flux", None), drawing("flux", cache)
    ordinary = drawing("flux", cache)
    ordinary["steps"][0]["pipeline"]["configuration"]["component_type"] = "FluxPipeline"
    before, cached = bench.run(plain), bench.run(wanted)
    assert not same(before, cached)
    assert same(cached, bench.run(wanted)), "the state of the run before was left"
    assert same(cached, bench.run(ordinary))
    assert same(before, bench.run(plain))


@pytest.mark.parametrize(("model", "branches"), [("wan", 2), ("flux", 1)])
def test_cache_of_modular_pipeline_is_separate_for_guidance_branches(
    bench: Bench, model: str, branches: int
):
    frames = {"num_frames": 5} if model == "wan" else {}
    assert computed(bench, drawing(model, None, **frames)) == branches * STEPS
    assert computed(bench, drawing(model, FIRST_BLOCK, **frames)) == branches


# --- videos with sound ----------------------------------------------------------------------------


def filming(model: str, cache: Document | None, segments: int | None = None) -> Document:
    wanted = drawing(model, cache)
    pipeline = wanted["steps"][0]["pipeline"]
    pipeline["arguments"]["image"] = "start.png"
    if model == "ltx2":
        pipeline["configuration"]["component_type"] = "LTX2ImageToVideoPipeline"
        pipeline["arguments"] |= {"num_frames": 9, "frame_rate": FPS, "guidance_scale": 3.0}
    else:
        pipeline["arguments"] |= {"num_frames": 124, "height": 32}
    if segments is not None:
        pipeline["chain"] = {"segments": segments, "fps": FPS, "trim_frames": 0}
    wanted["steps"][0]["result"] = {"content_type": "video/mp4", "fps": FPS}
    return wanted


def film(finished: Finished) -> Film:
    assert finished.success, finished.terminal
    return seen(finished.results[0].path)


@pytest.mark.parametrize(
    ("model", "cache"),
    [("h3", FIRST_BLOCK), ("h3", TAYLORSEER), ("h3", MAG), ("ltx2", FIRST_BLOCK),
     ("ltx2", TAYLORSEER)],
)  # fmt: skip
def test_cache_of_video_with_sound_is_on_for_one_run_only(
    bench: Bench, model: str, cache: Document
):
    plain, wanted = filming(model, None), filming(model, cache)
    before, cached = film(bench.run(plain)), film(bench.run(wanted))
    assert (cached.frames != before.frames).any()
    again, after = film(bench.run(wanted)), film(bench.run(plain))
    np.testing.assert_array_equal(again.frames, cached.frames)
    np.testing.assert_array_equal(again.sound, cached.sound)
    np.testing.assert_array_equal(after.frames, before.frames)
    np.testing.assert_array_equal(after.sound, before.sound)


@pytest.mark.parametrize("model", ["h3", "ltx2"])
@pytest.mark.parametrize("segments", [None, 2, 3])
def test_each_segment_of_a_chain_starts_with_an_empty_cache(
    bench: Bench, model: str, segments: int | None
):
    # LTX-2 calls its denoiser for three predictions, each with a state of its own.
    calls = 3 if model == "ltx2" else 1
    assert computed(bench, filming(model, FIRST_BLOCK, segments)) == calls * (segments or 1)


def test_each_call_of_a_step_starts_with_an_empty_cache(bench: Bench):
    wanted = drawing("flux", FIRST_BLOCK, prompt="previous_result:words")
    words = {"name": "words", "task": {"command": "gather_inputs", "inputs": ["a hen", "a cow"]}}
    assert computed(bench, {**wanted, "steps": [words, *wanted["steps"]]}) == 2
    alone = pixels(bench.run(drawing("flux", FIRST_BLOCK, prompt="a hen")))
    both = pixels(bench.run({**wanted, "steps": [words, *wanted["steps"]]}))
    np.testing.assert_array_equal(both[0], alone[0])


@pytest.mark.parametrize("model", ["h3", "ltx2"])
def test_skipped_call_returns_what_equal_input_gave(bench: Bench, model: str):
    """Both streams, the video and its sound, get what the skipped blocks added."""
    wanted = filming(model, FIRST_BLOCK)
    wanted["steps"][0]["pipeline"]["arguments"]["num_inference_steps"] = 2
    bench.run(wanted)
    (planned,) = bench.plan(wanted).steps
    held = {entry.key: entry.component for entry in bench.runner.residency.entries}
    parts = find_parts(planned)
    pipeline = assemble(planned, parts, held)
    denoiser = pipeline.transformer
    seen_inputs: list[dict[str, Any]] = []
    watching = denoiser.register_forward_pre_hook(
        lambda _module, _args, named: seen_inputs.append(named), with_kwargs=True
    )
    bench.run(wanted)
    watching.remove()
    with tuned(pipeline, planned, parts, Device("cpu"), HeldLoras(0)), torch.inference_mode():
        for named in seen_inputs:
            pairs = []
            for _ in range(2):
                with denoiser.cache_context("test"):
                    pairs.append(denoiser(**named))
            first, skipped = pairs
            for one, other in zip(first, skipped, strict=True):
                torch.testing.assert_close(one, other)
            denoiser._reset_stateful_cache()


@pytest.mark.parametrize(
    ("model", "cache", "why"),
    [
        ("ltx2", MAG, "It would skip the sound without predicting it."),
        ("ltx2", {"type": "faster"}, "Its latents are a sequence, which this cache cannot split."),
        ("h3", {"type": "faster"}, "It does not tell the timestep, which this cache needs."),
        ("flux", {"type": "faster"}, "It does not tell the timestep, which this cache needs."),
    ],
)
def test_cache_that_does_not_fit_the_denoiser_is_refused(
    bench: Bench, model: str, cache: Document, why: str
):
    make = drawing if model == "flux" else filming
    ended = bench.run(make(model, cache)).terminal
    assert ended.type == "run_failed"
    assert f"has no cache of the kind '{cache['type']}'" in ended.error.message
    assert ended.error.hint == why
    # Nothing of it stays with the held denoiser.
    assert bench.run(make(model, FIRST_BLOCK)).success
