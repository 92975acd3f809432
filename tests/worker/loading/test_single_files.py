"""Components with weights in one file: GGUF, safetensors, and pickles."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.errors import LoadError
from app.models.hub import this_machine
from app.models.wanted import Wanted, bring_all
from app.planning.planner import make_plan
from app.settings import PathSettings
from app.worker.loading.quantising import held_bytes
from tests.standins import build_flux
from tests.standins.checkpoint import build_checkpoint
from tests.standins.gguf import build_gguf
from tests.worker.bench import Bench, Document, document, same, step

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "flux"
    build_flux(folder)
    return folder


def drawing(flux: Path, file: str | Path | None, **loading: Any) -> Document:
    """Returns a document that draws with the transformer of this file, or the model's own."""
    block: Document = {
        "configuration": {"component_type": "FluxTransformer2DModel"},
        "from_pretrained_arguments": {"from_single_file": str(file), **loading},
    }
    return {
        "name": "draw",
        "pipeline": {
            "configuration": {"component_type": "FluxPipeline"},
            "from_pretrained_arguments": {"model_name": str(flux)},
            **({} if file is None else {"transformer": block}),
            "arguments": {
                "prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 2,
            },
        },
        "result": {"content_type": "image/png"},
    }  # fmt: skip


def transformer(bench: Bench) -> Any:
    [entry] = [e for e in bench.runner.residency.entries if e.title.startswith("transformer of")]
    return entry


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_gguf_file_is_equal_warm_and_cold_and_held_quantised(
    kind: str, flux: Path, tmp_path: Path, bench: Bench
):
    file = tmp_path / f"flux-{kind}.gguf"
    build_gguf(flux / "transformer", file, kind)
    wanted = document(drawing(flux, file))
    whole = bench.run(bench.plan(bench.write(document(drawing(flux, None)), "whole")))
    bench.free()
    cold = bench.run(wanted)
    assert cold.success.loaded[-1] == f"transformer of flux-{kind}.gguf (float32, GGUF)"
    assert not same(whole, cold)
    entry = transformer(bench)
    assert entry.weight_bytes == held_bytes(entry.component) < file.stat().st_size
    assert bench.run(wanted).success.loaded == ()
    bench.free()
    assert same(cold, bench.run(wanted))


def test_single_file_draws_same_as_folder(flux: Path, tmp_path: Path, bench: Bench):
    file = shutil.copy(flux / "transformer" / WEIGHTS, tmp_path / "flux.safetensors")
    whole = bench.run(bench.plan(bench.write(document(drawing(flux, None)), "whole")))
    wanted = bench.plan(bench.write(document(drawing(flux, file)), "file"))
    cold = bench.run(wanted)
    assert cold.success.loaded == ("transformer of flux.safetensors (float32)",)
    assert same(whole, cold)
    bench.free()
    again = bench.run(wanted)
    assert same(whole, again)
    # Reloaded without its library: its weights are mapped from the file.
    assert transformer(bench).origin.is_whole


@pytest.mark.parametrize("name", ["flux.SAFETENSORS", "Flux.Dev.SafeTensors"])
def test_suffix_in_capitals_is_no_pickle(flux: Path, tmp_path: Path, bench: Bench, name: str):
    file = shutil.copy(flux / "transformer" / WEIGHTS, tmp_path / name)
    whole = bench.run(bench.plan(bench.write(document(drawing(flux, None)), "whole")))
    wanted = bench.plan(bench.write(document(drawing(flux, file)), "file"))
    assert same(whole, bench.run(wanted))
    bench.free()
    assert same(whole, bench.run(wanted))
    assert transformer(bench).origin.is_whole


def test_gguf_suffix_in_capitals_is_read(flux: Path, tmp_path: Path, bench: Bench):
    build_gguf(flux / "transformer", tmp_path / "flux.gguf", "Q8_0")
    usual = bench.run(document(drawing(flux, tmp_path / "flux.gguf")))
    (tmp_path / "flux.gguf").rename(tmp_path / "flux.GGUF")
    bench.free()
    assert same(usual, bench.run(document(drawing(flux, tmp_path / "flux.GGUF"))))


def test_single_file_weights_are_converted_and_cached(flux: Path, tmp_path: Path, bench: Bench):
    file = shutil.copy(flux / "transformer" / WEIGHTS, tmp_path / "flux.safetensors")
    block = document(drawing(flux, file, torch_dtype="torch.bfloat16"))
    block["steps"][0]["pipeline"]["from_pretrained_arguments"]["torch_dtype"] = "torch.bfloat16"
    cold = bench.run(block)
    bench.runner.clean_up()
    assert transformer(bench).origin.is_whole
    assert same(cold, bench.run(block))
    bench.free()
    assert same(cold, bench.run(block))


def test_single_file_config_can_be_set(flux: Path, tmp_path: Path, bench: Bench):
    """The named one of two models that differ in configuration only."""
    other = tmp_path / "schnell"
    build_flux(other, guidance_embeds=False)
    file = shutil.copy(other / "transformer" / WEIGHTS, tmp_path / "schnell.safetensors")
    named = document(drawing(flux, file, config=str(other), subfolder="transformer"))
    assert bench.run(named).success
    assert not transformer(bench).component.config.guidance_embeds
    error = bench.refused(document(drawing(flux, file, config=str(other), subfolder="vae")))
    assert "transformer" in error.message


def test_pickled_single_file_is_read_only_if_allowed(flux: Path, tmp_path: Path, bench: Bench):
    file = tmp_path / "flux.ckpt"
    torch.save({"state_dict": load_file(flux / "transformer" / WEIGHTS)}, file)
    path = bench.write(document(drawing(flux, file)))
    allowing = PathSettings(media=(tmp_path,), allow_pickles=True)
    drawn = bench.run(make_plan(path, {}, paths=allowing, seed=7))
    assert same(drawn, bench.run(document(drawing(flux, None))))


def test_code_in_pickled_weights_is_never_run(flux: Path, tmp_path: Path, bench: Bench):
    class Harm:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "harmed",)

    file = tmp_path / "flux.ckpt"
    torch.save({"state_dict": Harm()}, file)
    path = bench.write(document(drawing(flux, file)))
    allowing = PathSettings(media=(tmp_path,), allow_pickles=True)
    finished = bench.run(make_plan(path, {}, paths=allowing, seed=7))
    assert finished.terminal.type == "run_failed"
    assert not (tmp_path / "harmed").exists()


# --- whole pipelines -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The Stable Diffusion stand-in as one file."""
    file = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    build_checkpoint(tiny, file)
    return file


def from_checkpoint(checkpoint: Path, **loading: Any) -> Document:
    wanted = step()
    wanted["pipeline"]["from_pretrained_arguments"] = {
        "from_single_file": str(checkpoint),
        **loading,
    }
    return document(wanted)


def test_single_file_pipeline_draws_same_as_folders(checkpoint: Path, tiny: Path, bench: Bench):
    folders = document(step(model=tiny, loading={"safety_checker": None}))
    apart = bench.run(bench.plan(bench.write(folders, "folders")))
    wanted = bench.plan(bench.write(from_checkpoint(checkpoint, config=str(tiny)), "file"))
    cold = bench.run(wanted)
    named = {title.partition(" ")[0] for title in cold.success.loaded if "safetensors" in title}
    assert named == {"unet", "vae", "text_encoder"}
    assert same(apart, cold)
    assert bench.run(wanted).success.loaded == ()
    bench.free()
    assert same(cold, bench.run(wanted))


def test_single_file_pipeline_mixes_and_shares_components(
    checkpoint: Path, tiny: Path, bench: Bench
):
    wanted = from_checkpoint(checkpoint, config=str(tiny))
    wanted["steps"][0]["pipeline"]["vae"] = {
        "configuration": {"component_type": "AutoencoderKL"},
        "from_pretrained_arguments": {"model_name": str(tiny), "subfolder": "vae"},
    }
    loaded = bench.run(wanted).success.loaded
    assert "vae of tiny (float32)" in loaded
    assert "unet of tiny.safetensors (float32)" in loaded


def test_single_file_config_is_inferred_from_tensors(checkpoint: Path, tiny: Path, bench: Bench):
    """A Stable Diffusion 1, whose configuration is looked up in the models folders first."""
    models = bench.folder / "models"
    shutil.copytree(tiny, models / "stable-diffusion-v1-5/stable-diffusion-v1-5")
    path = bench.write(from_checkpoint(checkpoint))
    plan = make_plan(path, {}, paths=PathSettings(models=(models,)), seed=7)
    named = bench.plan(bench.write(from_checkpoint(checkpoint, config=str(tiny)), "named"))
    assert same(bench.run(plan), bench.run(named))


def test_single_file_without_config_names_the_missing_one(
    checkpoint: Path, tmp_path: Path, bench: Bench
):
    """A family whose configuration is not included."""
    asked: list[str] = []

    def bring(model: Wanted) -> None:
        asked.append(model.source.model)
        raise LoadError("The model could not be downloaded.")

    file = tmp_path / "playground.safetensors"
    save_file({**load_file(checkpoint), "edm_mean": torch.zeros(4)}, file)
    wanted = from_checkpoint(file)
    kind = "StableDiffusionXLPipeline"
    wanted["steps"][0]["pipeline"]["configuration"]["component_type"] = kind
    plan = bench.plan(bench.write(wanted))
    with pytest.raises(LoadError) as raised:
        bring_all(plan, bring, this_machine())
    assert asked == ["playgroundai/playground-v2.5-1024px-aesthetic"]
    assert f"by its tensors it is a '{asked[0]}'. The model could not" in raised.value.message
    assert "as 'config' beside 'from_single_file'" in raised.value.hint


def test_single_file_of_another_vocabulary_is_refused(checkpoint: Path, bench: Bench):
    error = bench.refused(from_checkpoint(checkpoint))
    assert error.message == "'tiny.safetensors' cannot be read."
    assert "its text_encoder has no published layout: a vocabulary of 49408" in error.hint
