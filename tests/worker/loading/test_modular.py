"""Modular pipelines: shells over shared components, with their own blocks, calls and loops."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from diffusers import FluxAutoBlocks

from app.dialect.plan import Plan
from app.dialect.plan_values import LiteralValue
from app.planning.planner import make_plan
from app.protocol import Event, PhaseChanged, Preview, RunCancelled, RunFailed, StepProgress
from app.settings import PathSettings
from app.worker.modular_blocks import loops_in
from tests.doubles.accelerator import Accelerator
from tests.engines import Finished
from tests.standins import build_flux, build_sdxl, build_wan
from tests.standins.minimax_music3 import SAMPLE_RATE_HZ, build_minimax_music3
from tests.worker.bench import Bench, Document, document, pixels, same
from tests.worker.encoding import counting

SIZE_PX = 64
FLUX_PARTS = 7
"""Two text encoders with their tokenizers, the transformer, the autoencoder, the scheduler."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, build in (("flux", build_flux), ("sdxl", build_sdxl), ("wan", build_wan)):
        build(folder / "tiny" / name)
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def modular(
    model: str = "flux",
    kind: str = "ModularPipeline",
    *,
    loading: Document | None = None,
    configuration: Document | None = None,
    **arguments: Any,
) -> Document:
    """Returns a step that draws a small image with this model's blocks."""
    size = {"width": SIZE_PX, "height": SIZE_PX}
    return {
        "name": "draw",
        "pipeline": {
            "configuration": {"component_type": kind, **(configuration or {})},
            "from_pretrained_arguments": {"model_name": f"tiny/{model}", **(loading or {})},
            "arguments": {"prompt": "a fox", "num_inference_steps": 2, **size, **arguments},
        },
        "result": {"content_type": "image/png"},
    }


def film(configuration: Document | None = None) -> Document:
    """Returns a step that makes a short video."""
    step = modular("wan", configuration=configuration, num_frames=5)
    return {**step, "result": {"content_type": "video/mp4"}}


def planned(bench: Bench, models: Path, *steps: Document, seed: int = 7) -> Plan:
    # One file per model: another version of the same file would drop its model.
    model = steps[0]["pipeline"]["from_pretrained_arguments"]["model_name"]
    path = bench.write(document(*steps), Path(model).name)
    return make_plan(path, {}, paths=PathSettings(models=(models,)), seed=seed)


def progress(finished: Finished) -> list[tuple[int, int]]:
    return [(e.done, e.total) for e in finished.events if isinstance(e, StepProgress)]


def test_modular_pipeline_shares_components_with_ordinary_one(bench: Bench, models: Path):
    ordinary = bench.run(planned(bench, models, modular(kind="FluxPipeline")))
    assert len(ordinary.success.loaded) == FLUX_PARTS
    drawn = bench.run(planned(bench, models, modular()))
    assert drawn.success.loaded == ()
    # The blocks compute what the pipeline does, and a seed means the same to both.
    assert same(ordinary, drawn)


def test_modular_pipeline_is_equal_warm_and_cold(bench: Bench, models: Path):
    bench.free()
    flux, sdxl = planned(bench, models, modular()), planned(bench, models, modular("sdxl"))
    cold = bench.run(flux)
    assert len(cold.success.loaded) == FLUX_PARTS
    other = bench.run(sdxl)
    assert other.success.loaded
    for plan, before in ((flux, cold), (sdxl, other), (flux, cold)):
        again = bench.run(plan)
        assert again.success.loaded == ()
        assert same(again, before)


@pytest.mark.parametrize("model", ["flux", "sdxl", "wan"])
def test_modular_pipeline_memoises_prompts(bench: Bench, models: Path, tmp_path: Path, model: str):
    known = film() if model == "wan" else modular(model, prompt="a known fox")
    other = film() if model == "wan" else modular(model, prompt="a known fox")
    other["pipeline"]["arguments"]["prompt"] = "another one"
    (tmp_path / "forgetful").mkdir()
    forgetful = Bench(tmp_path / "forgetful", prompt_memo_bytes=0)
    for drawing in (known, other):
        plan = planned(bench, models, drawing)
        with counting() as calls:
            first = bench.run(plan)
            encoded = len(calls)
            again = bench.run(plan)
            assert len(calls) == encoded > 0
        for finished in (again, forgetful.run(plan)):
            assert shown(finished) == shown(first)


def shown(finished: Finished) -> bytes:
    assert finished.success
    with av.open(finished.results[0].path) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return b"".join(frame.tobytes() for frame in frames)


def test_modular_memo_depends_on_other_encoder_inputs(bench: Bench, models: Path):
    plain = modular("sdxl", prompt="a told fox", negative_prompt="")
    bench.run(planned(bench, models, plain))
    zeros = modular(
        "sdxl",
        configuration={"configs": {"force_zeros_for_empty_prompt": False}},
        prompt="a told fox",
        negative_prompt="",
    )
    for changed in (
        zeros,
        modular("sdxl", prompt="a told fox", negative_prompt="blue"),
        modular("sdxl", prompt=["a told fox"], negative_prompt=""),
    ):
        with counting() as calls:
            assert bench.run(planned(bench, models, changed)).success
        assert calls


def test_modular_pipeline_reports_phases_and_steps(bench: Bench, models: Path):
    bench.free()
    finished = bench.run(planned(bench, models, modular(num_inference_steps=3)))
    phases = [event.phase for event in finished.events if isinstance(event, PhaseChanged)]
    assert phases == ["loading", "encoding", "denoising", "decoding", "saving"]
    assert progress(finished) == [(1, 3), (2, 3), (3, 3)]


def test_modular_run_leaves_library_blocks_unchanged(bench: Bench, models: Path):
    """Many blocks are module-level objects, shared by all pipelines."""
    assert bench.run(planned(bench, models, modular())).success
    loops = list(loops_in(FluxAutoBlocks()))
    assert loops
    assert not any({"loop_step", "progress_bar"} & vars(loop).keys() for loop in loops)


def test_modular_pipeline_previews_known_latents(bench: Bench, models: Path):
    for kind in (modular("sdxl"), modular()):
        shown = bench.run(planned(bench, models, kind), previews=True)
        assert shown.success
        assert any(isinstance(event, Preview) for event in shown.events)


@pytest.mark.parametrize("phase", ["encoding", "denoising", "decoding"])
def test_modular_pipeline_cancelled_in_any_phase_keeps_components_intact(
    bench: Bench, models: Path, phase: str
):
    plan = planned(bench, models, modular("sdxl"))
    before = bench.run(plan)

    def cancel(event: Event) -> None:
        if isinstance(event, PhaseChanged) and event.phase == phase:
            bench.cancel(event.run_id)

    bench.when = cancel
    # A memoised prompt is not encoded again.
    cancelled = bench.run(planned(bench, models, modular("sdxl", prompt=f"stopped {phase}")))
    bench.when = lambda _event: None
    assert isinstance(cancelled.terminal, RunCancelled)
    assert cancelled.terminal.phase == phase
    again = bench.run(plan)
    assert again.success.loaded == ()
    assert same(before, again)


def test_modular_pipeline_without_output_returns_block_outputs(bench: Bench, models: Path):
    whole = bench.run(planned(bench, models, modular()))
    one = bench.run(planned(bench, models, modular(output="images")))
    several = bench.run(planned(bench, models, modular(output=["images", "latents"])))
    assert same(whole, one)
    assert same(whole, several)


def test_modular_video_of_ordinary_model_is_saved(bench: Bench, models: Path):
    finished = bench.run(planned(bench, models, film()))
    assert [result.content_type for result in finished.results] == ["video/mp4"]
    assert (finished.results[0].width, finished.results[0].height) == (SIZE_PX, SIZE_PX)


# --- what it is put together of ------------------------------------------------------------------


def test_modular_config_affects_its_step_only(bench: Bench, models: Path):
    plain = planned(bench, models, modular("sdxl"))
    before = bench.run(plain)
    changed = modular("sdxl", configuration={"configs": {"force_zeros_for_empty_prompt": False}})
    other = bench.run(planned(bench, models, changed))
    assert other.success.loaded == ()
    assert not same(before, other)
    assert same(before, bench.run(plain, fresh=False))


def test_modular_components_may_have_own_dtypes(bench: Bench, models: Path):
    bench.free()
    dtype = {"vae": "torch.float32", "default": "torch.bfloat16"}
    step = film(configuration={"load_components": {"dtype": dtype}})
    loaded = bench.run(planned(bench, models, step)).success.loaded
    assert "vae of wan (float32)" in loaded
    assert "transformer of wan (bfloat16)" in loaded


def test_modular_names_limit_loaded_components(bench: Bench, models: Path):
    bench.free()
    names = ["scheduler", "text_encoder", "tokenizer"]
    plan = planned(bench, models, modular(configuration={"load_components": {"names": names}}))
    finished = bench.run(plan)
    loaded = [entry.title.split()[0] for entry in bench.runner.residency.described()]
    assert sorted(loaded) == sorted(names)
    assert isinstance(finished.terminal, RunFailed)


def test_modular_pipeline_reuses_component_of_earlier_step(
    bench: Bench, models: Path, tmp_path: Path
):
    build_flux(models / "tiny" / "flux2nd", seed=5)
    first = modular(kind="FluxPipeline", configuration={"shared_components": ["transformer"]})
    reusing = {"reused_components": ["transformer"]}
    second = {**modular("flux2nd", configuration=reusing), "name": "again"}
    bench.free()
    finished = bench.run(planned(bench, models, first, second))
    assert "transformer of flux (float32)" in finished.success.loaded
    assert "transformer of flux2nd (float32)" not in finished.success.loaded
    assert finished.success.loaded


def test_modular_pipeline_is_offloaded_if_too_large(models: Path, tmp_path: Path):
    resident = Bench(tmp_path)
    plan = planned(resident, models, modular("sdxl"))
    expected = resident.run(plan)
    weights = [entry.weight_bytes for entry in resident.runner.residency.described()]
    accelerator = Accelerator()
    small = Bench(tmp_path, accelerator, device_budget=max(weights) + 1, ram_budget=10**9)
    for _ in range(2):
        turns = small.run(plan)
        assert turns.results[0].path
        record = json.loads(Path(turns.results[0].sidecar).read_text())
        assert record["mode"]["offload"] == "model"
        np.testing.assert_array_equal(pixels(turns)[0], pixels(expected)[0])
    assert turns.success.loaded == ()


# --- what is refused before anything is loaded ---------------------------------------------------


def refused(bench: Bench, plan: Plan) -> str:
    """Returns the error of a run that ended before loading anything."""
    bench.free()
    finished = bench.run(plan)
    assert isinstance(finished.terminal, RunFailed)
    assert bench.runner.residency.entries == ()
    error = finished.terminal.error
    return f"{error.message} {error.hint}"


def test_modular_arguments_unknown_to_blocks_are_refused(bench: Bench, models: Path):
    """For a model not downloaded yet, only the worker knows the blocks."""
    plan = planned(bench, models, modular())
    for name, message in (("promt", "'prompt'"), ("output", "make no 'fim'")):
        value = LiteralValue(value="fim")
        arguments = {**plan.steps[0].arguments, name: value}  # type: ignore[union-attr]
        step = plan.steps[0].model_copy(update={"arguments": arguments})
        assert message in refused(bench, plan.model_copy(update={"steps": (step,)}))


@pytest.fixture
def copy(models: Path, bench: Bench) -> Path:
    """Copies a model, with a modular index that a test may change."""
    folder = models / "tiny" / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(models / "tiny" / "flux", folder)
    write_index(folder, model="tiny/copy")
    return folder


def write_index(folder: Path, *, model: str, **changes: Any) -> None:
    """Writes the components' places, as a modular repository does."""
    index = json.loads((folder / "model_index.json").read_text())
    modular: dict[str, Any] = {"_class_name": "FluxModularPipeline"}
    for name, entry in index.items():
        if isinstance(entry, list):
            spec = {"pretrained_model_name_or_path": model, "subfolder": name, "type_hint": entry}
            modular[name] = [*entry, spec]
    (folder / "modular_model_index.json").write_text(json.dumps({**modular, **changes}))


def test_modular_blocks_of_a_model_are_not_run(bench: Bench, models: Path, copy: Path):
    (copy / "modular_config.json").write_text(
        json.dumps({"auto_map": {"ModularPipelineBlocks": "planted.Blocks"}})
    )
    (copy / "planted.py").write_text("raise SystemExit('this code ran')")
    assert "--trust-remote-code" in refused(bench, planned(bench, models, modular("copy")))


def test_modular_index_classes_of_other_libraries_are_refused(
    bench: Bench, models: Path, copy: Path
):
    spec = {"subfolder": "vae", "type_hint": ["os", "system"]}
    write_index(copy, model="tiny/copy", vae=["os", "system", spec])
    assert "os.system" in refused(bench, planned(bench, models, modular("copy")))


def test_modular_components_of_another_repository_are_shared(
    bench: Bench, models: Path, copy: Path
):
    """An index may combine components of other models, which are held once."""
    for name in ("transformer", "vae"):
        shutil.rmtree(copy / name)
    write_index(copy, model="tiny/flux")
    bench.free()
    bench.run(planned(bench, models, modular(kind="FluxPipeline")))
    finished = bench.run(planned(bench, models, modular("copy")))
    loaded = {title.split()[0] for title in finished.success.loaded}
    assert loaded == {"scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}


# --- songs ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")
def test_modular_song_is_made_with_and_without_offload(tmp_path: Path):
    build_minimax_music3(tmp_path / "tiny" / "song")
    song = modular(
        "song",
        configuration={
            "components_manager": {"enable_auto_cpu_offload": True},
            "load_components": {"dtype": "torch.float32"},
        },
    )
    song["pipeline"]["arguments"] = {
        "prompt": "a slow waltz",
        "lyrics": "[verse]\nthe snow falls",
        "audio_duration": 1.0,
        "num_inference_steps": 2,
    }
    song["result"] = {"content_type": "audio/wav", "sample_rate": SAMPLE_RATE_HZ}
    heard: dict[str | None, bytes] = {}
    for bench in (Bench(tmp_path), Bench(tmp_path, Accelerator(), device_budget=5_450_000)):
        finished = bench.run(planned(bench, tmp_path, song))
        assert finished.success.loaded
        assert progress(finished) == [(1, 2), (2, 2)]
        (result,) = finished.results
        with wave.open(result.path) as sound:
            assert (sound.getframerate(), sound.getnchannels()) == (SAMPLE_RATE_HZ, 2)
            offload = json.loads(Path(result.sidecar).read_text())["mode"]["offload"]
            heard[offload] = sound.readframes(sound.getnframes())
    assert heard[None]
    assert heard[None] == heard["model"]
