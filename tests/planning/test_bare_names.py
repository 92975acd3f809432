"""Models named as A1111 and ComfyUI name them: by bare name, in the folder of their kind."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from app.dialect.plan import PipelineStep, TaskStep
from app.dialect.plan_sources import LoraSource, ModelSource
from app.planning.single_files import class_of_checkpoint
from tests.plan_bench import Bench, Document, drawing, safetensors, step
from tests.standins.families import build_narrow

FILE = "steps[0].pipeline.from_pretrained_arguments.from_single_file"
MODEL = "steps[0].pipeline.from_pretrained_arguments.model_name"
LORA = "steps[0].pipeline.loras[0].model_name"
A1111 = {
    "checkpoints": "Stable-diffusion", "loras": "Lora", "vae": "VAE", "controlnet": "ControlNet",
    "upscale_models": "RealESRGAN",
}  # fmt: skip
COMFYUI = {kind: kind for kind in A1111}


PACKAGES = Path(__file__).resolve().parents[1] / "doubles" / "packages"


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes spandrel and torchvision count as installed."""
    there = types.ModuleType("torchvision")
    there.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision", there)
    monkeypatch.syspath_prepend(str(PACKAGES))


def put(bench: Bench, place: str, content: bytes = b"") -> Path:
    """Writes a file of weights below the models folder: safetensors unless it has a content."""
    file = bench.model.parent / place
    file.parent.mkdir(parents=True, exist_ok=True)
    if content:
        file.write_bytes(content)
        return file
    return safetensors(file, weight=4)


def put_model(bench: Bench, place: str) -> Path:
    """Writes a folder in diffusers' layout."""
    folder = bench.model.parent / place
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def from_file(name: str) -> Document:
    return drawing(steps=[step(from_pretrained_arguments={"from_single_file": name})])


def from_model(name: str, **more: Any) -> Document:
    return drawing(steps=[step(from_pretrained_arguments={"model_name": name, **more})])


def with_lora(name: str, **more: Any) -> Document:
    return drawing(steps=[step(loras=[{"model_name": name, **more}])])


def with_part(part: str, kind: str, name: str) -> Document:
    block = {
        "configuration": {"component_type": kind},
        "from_pretrained_arguments": {"from_single_file": name},
    }
    return drawing(steps=[step(**{part: block})])


def planned(bench: Bench, document: Document, **inputs: Any) -> PipelineStep:
    [found] = bench.plan(document, **inputs).steps
    assert isinstance(found, PipelineStep)
    return found


def lora(bench: Bench, document: Document, **inputs: Any) -> LoraSource:
    [found] = planned(bench, document, **inputs).loras
    return found


def path_of(source: ModelSource | None) -> Path:
    assert source is not None
    return Path(source.folder or "") / source.file


# --- found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [A1111, COMFYUI], ids=["A1111", "ComfyUI"])
@pytest.mark.parametrize("name", ["dream_v8", "dream_v8.safetensors"])
def test_checkpoint_is_found_by_bare_name(bench: Bench, layout: dict[str, str], name: str):
    file = put(bench, f"{layout['checkpoints']}/dream_v8.safetensors")
    assert path_of(planned(bench, from_file(name)).source) == file


@pytest.mark.parametrize("layout", [A1111, COMFYUI], ids=["A1111", "ComfyUI"])
@pytest.mark.parametrize("name", ["ink", "ink.safetensors", "style/ink", "style\\ink.safetensors"])
def test_lora_in_sub_folder_is_found_by_bare_name(bench: Bench, layout: dict[str, str], name: str):
    file = put(bench, f"{layout['loras']}/style/ink.safetensors")
    found = lora(bench, with_lora(name))
    assert (found.source.folder, found.weight_name) == (str(file.parent), "ink.safetensors")


@pytest.mark.parametrize("layout", [A1111, COMFYUI], ids=["A1111", "ComfyUI"])
def test_components_and_upscalers_are_found_in_folders_of_their_kinds(
    bench: Bench, layout: dict[str, str]
):
    for kind in ("vae", "controlnet", "upscale_models", "checkpoints"):
        put(bench, f"{layout[kind]}/same.safetensors")
    vae = planned(bench, with_part("vae", "AutoencoderKL", "same")).components["vae"]
    assert path_of(vae.source).parent.name == layout["vae"]
    control = planned(bench, with_part("controlnet", "ControlNetModel", "same"))
    assert path_of(control.components["controlnet"].source).parent.name == layout["controlnet"]


@pytest.mark.parametrize("layout", [A1111, COMFYUI], ids=["A1111", "ComfyUI"])
def test_upscaler_is_found_by_bare_name(bench: Bench, layout: dict[str, str], spandrel: None):
    file = put(bench, f"{layout['upscale_models']}/4x.SAFETENSORS")
    bench.picture("a.png", bench.workflows)
    task = {"command": "upscale", "arguments": {"image": "a.png", "model_name": "4x"}}
    [found] = bench.plan(drawing(steps=[{"name": "up", "task": task}])).steps
    assert isinstance(found, TaskStep)
    assert path_of(found.components["model"].source) == file


def test_vae_is_taken_from_a_checkpoint_if_no_vae_has_the_name(bench: Bench):
    file = put(bench, "checkpoints/dream.safetensors")
    put(bench, "vae/other.safetensors")
    vae = planned(bench, with_part("vae", "AutoencoderKL", "dream")).components["vae"]
    assert path_of(vae.source) == file


def test_folder_in_diffusers_layout_is_found_by_bare_name(bench: Bench):
    folder = put_model(bench, "diffusers/anime/v3")
    assert planned(bench, from_model("v3")).named_source.folder == str(folder)
    assert planned(bench, from_model("anime/v3")).named_source.folder == str(folder)


def test_pickle_name_means_the_safetensors_file(bench: Bench):
    file = put(bench, "checkpoints/old.safetensors")
    assert path_of(planned(bench, from_file("old.ckpt")).source) == file
    put(bench, "checkpoints/old.ckpt", b"PK\x03\x04")
    assert path_of(planned(bench, from_file("old")).source) == file


def test_person_may_name_a_file_by_bare_name(bench: Bench):
    file = put(bench, "loras/ink.safetensors")
    document = with_lora("variable:style")
    document["variables"]["style"] = "none"
    found = lora(bench, document, style="ink")
    assert found.source.folder == str(file.parent)


# --- what keeps its meaning ----------------------------------------------------------------------


def test_file_beside_the_document_comes_first(bench: Bench):
    put(bench, "checkpoints/dream.safetensors")
    own = safetensors(bench.workflows / "dream.safetensors", weight=4)
    assert path_of(planned(bench, from_file("dream.safetensors")).source) == own
    put(bench, "loras/ink.safetensors")
    safetensors(bench.workflows / "ink.safetensors", weight=4)
    assert lora(bench, with_lora("ink.safetensors")).source.folder == str(bench.workflows)


def test_repository_is_one_unless_a_file_has_its_name(bench: Bench):
    put(bench, "loras/other.safetensors")
    assert lora(bench, with_lora("style/ink")).source == ModelSource(model="style/ink")
    put(bench, "loras/style/ink.safetensors")
    assert lora(bench, with_lora("style/ink")).source.folder is not None
    named = lora(bench, with_lora("style/ink", weight_name="ink.safetensors"))
    assert named.source == ModelSource(model="style/ink")
    put_model(bench, "diffusers/owner/name")
    assert planned(bench, from_model("owner/name")).named_source.folder is not None
    pinned = planned(bench, from_model("owner/name", revision="v1")).named_source
    assert (pinned.folder, pinned.revision) == (None, "v1")


def test_file_of_a_repository_keeps_its_meaning(bench: Bench):
    put(bench, "loras/other.safetensors")
    found = lora(bench, with_lora("owner/name/ink.safetensors"))
    assert found.source == ModelSource(model="owner/name")
    assert found.weight_name == "ink.safetensors"
    put(bench, "loras/owner/name/ink.safetensors")
    assert "loras" in str(lora(bench, with_lora("owner/name/ink.safetensors")).source.folder)
    own = put(bench, "owner/name/ink.safetensors")
    found = lora(bench, with_lora("owner/name/ink.safetensors"))
    assert found.source.folder == str(own.parent)


def test_cached_repository_keeps_its_name(bench: Bench, tmp_path: Path, monkeypatch: Any):
    put(bench, "loras/style/ink.safetensors")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "cache" / "models--style--ink"
    (root / "snapshots" / "abc").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    assert lora(bench, with_lora("style/ink")).source == ModelSource(model="style/ink")


def test_folder_of_owner_and_name_comes_before_folders_of_kinds(bench: Bench):
    put(bench, "loras/style/ink.safetensors")
    put(bench, "style/ink/pytorch_lora_weights.safetensors")
    assert lora(bench, with_lora("style/ink")).source.folder == str(
        bench.model.parent / "style" / "ink"
    )


# --- refused -------------------------------------------------------------------------------------


def test_two_files_of_one_name_are_refused_with_both_places(bench: Bench):
    put(bench, "Lora/style/ink.safetensors")
    put(bench, "LyCORIS/ink.safetensors")
    assert bench.problems(with_lora("ink"))[LORA] == (
        "'ink' is the name of 2: 'models/Lora/style/ink.safetensors' and"
        " 'models/LyCORIS/ink.safetensors'."
        " Write 'Lora/style/ink' or 'LyCORIS/ink'."
    )
    assert lora(bench, with_lora("LyCORIS/ink")).source.folder == str(
        bench.model.parent / "LyCORIS"
    )
    assert lora(bench, with_lora("style/ink")).source.folder is not None


def test_name_of_two_formats_is_refused_without_its_suffix(bench: Bench):
    put(bench, "checkpoints/a.safetensors")
    put(bench, "checkpoints/a.gguf", b"GGUF")
    assert bench.problems(from_file("a"))[FILE].endswith("Write 'a.gguf' or 'a.safetensors'.")
    assert planned(bench, from_file("a.safetensors")).named_source.file == "a.safetensors"


def test_two_links_to_one_file_are_one(bench: Bench):
    file = put(bench, "loras/ink.safetensors")
    (bench.model.parent / "Lora").symlink_to(file.parent)
    assert lora(bench, with_lora("ink")).weight_name == "ink.safetensors"


def test_unknown_name_is_refused_with_folders_and_near_names(bench: Bench):
    put(bench, "checkpoints/anime/Dream_V8.safetensors")
    put(bench, "Stable-diffusion/dream_v9.safetensors")
    assert bench.problems(from_file("dream_v7"))[FILE] == (
        "There is no file 'dream_v7' in 'models/Stable-diffusion', 'models/checkpoints'."
        " Did you mean 'dream_v9' or 'Dream_V8'?"
    )
    # Names are compared as they are written.
    assert "Did you mean 'Dream_V8'" in bench.problems(from_file("dream_v8"))[FILE]
    assert "'models/Lora'" not in bench.problems(from_file("dream_v7"))[FILE]


def test_unknown_lora_and_model_are_refused(bench: Bench):
    put(bench, "Lora/ink.safetensors")
    assert bench.problems(with_lora("imk"))[LORA] == (
        "There is no file 'imk' in 'models/Lora'. Did you mean 'ink'?"
    )
    put(bench, "checkpoints/dream.safetensors")
    told = bench.problems(from_model("dream"))[MODEL]
    assert told == (
        "There is no model folder 'dream' in 'models/checkpoints'."
        " It is a file: name it as 'from_single_file' instead."
    )


def test_bare_name_without_folder_of_its_kind_is_refused(bench: Bench):
    told = bench.problems(from_file("dream"))[FILE]
    assert told == "There is no file 'dream', and no folder checkpoints/ in 'models'."
    assert "There is no model folder 'ink'." in bench.problems(with_lora("ink"))[LORA]


@pytest.mark.parametrize("name", ["../secret", "loras/../../secret", "/secret", "~/secret", ".ink"])
def test_bare_name_leads_nowhere_else(bench: Bench, name: str):
    put(bench, "loras/ink.safetensors")
    safetensors(bench.model.parent.parent / "secret.safetensors", weight=4)
    document = with_lora("variable:style")
    document["variables"]["style"] = "ink"
    assert lora(bench, document).weight_name == "ink.safetensors"
    assert "inputs.style" in bench.problems(document, style=name)


def test_person_may_not_follow_a_link_out_of_the_models_folder(bench: Bench, tmp_path: Path):
    outside = safetensors(tmp_path / "outside.safetensors", weight=4)
    for kind in ("loras", "checkpoints"):
        (bench.model.parent / kind).mkdir()
        (bench.model.parent / kind / "link.safetensors").symlink_to(outside)
    assert lora(bench, with_lora("link")).weight_name == "link.safetensors"
    assert planned(bench, from_file("link")).named_source.file == "link.safetensors"
    for document in (with_lora("variable:name"), from_file("variable:name")):
        document["variables"]["name"] = "none"
        problems = bench.problems(document, name="link")
        assert "lies outside the folders of models" in problems["inputs.name"]


def test_link_that_leads_back_is_not_followed(bench: Bench):
    put(bench, "loras/ink.safetensors")
    (bench.model.parent / "loras" / "again").symlink_to(bench.model.parent / "loras")
    assert lora(bench, with_lora("ink")).weight_name == "ink.safetensors"


def test_pickled_lora_is_refused(bench: Bench):
    put(bench, "loras/ink.pt", b"PK\x03\x04")
    assert "'ink.pt' is not a safetensors file" in bench.problems(with_lora("ink"))[LORA]


# --- chosen by the family, or none ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "named", "blocks", "expected"),
    [
        ("sd15", "AutoPipelineForText2Image", (), "StableDiffusionPipeline"),
        ("sd15", "DiffusionPipeline", (), "StableDiffusionPipeline"),
        ("sd15", "AutoPipelineForInpainting", (), "StableDiffusionInpaintPipeline"),
        ("sd15", "AutoPipelineForText2Image", ("controlnet",), "StableDiffusionControlNetPipeline"),
        ("sdxl", "AutoPipelineForText2Image", (), "StableDiffusionXLPipeline"),
        ("sdxl", "AutoPipelineForImage2Image", (), "StableDiffusionXLImg2ImgPipeline"),
        ("sd15", "StableDiffusionImg2ImgPipeline", (), "StableDiffusionImg2ImgPipeline"),
    ],
)
def test_class_for_any_model_is_chosen_by_the_checkpoint(
    tmp_path: Path, family: str, named: str, blocks: tuple[str, ...], expected: str
):
    file = tmp_path / "dream.safetensors"
    build_narrow(family, file)
    source = ModelSource(model="dream", folder=str(tmp_path), file=file.name)
    controlnet = "controlnet" in blocks
    found = class_of_checkpoint(f"diffusers.{named}", source, controlnet=controlnet)
    assert found == f"diffusers.{expected}"


@pytest.mark.parametrize("none", [None, ""])
def test_lora_and_vae_of_no_name_are_left_out(bench: Bench, none: str | None):
    put(bench, "loras/ink.safetensors")
    document = with_part("vae", "AutoencoderKL", "variable:vae")
    document["steps"][0]["pipeline"]["loras"] = [{"model_name": "variable:lora"}]
    document["variables"] |= {"lora": none, "vae": none}
    found = planned(bench, document)
    assert found.loras == ()
    assert found.components == {}
    assert len(planned(bench, document, lora="ink").loras) == 1


@pytest.mark.parametrize("folder", ["embeddings", "Embeddings"])
@pytest.mark.parametrize("name", ["style/grain", "grain", "grain.safetensors"])
def test_textual_inversion_is_found_by_bare_name(bench: Bench, folder: str, name: str):
    file = bench.model.parent / folder / "style" / "grain.safetensors"
    file.parent.mkdir(parents=True)
    save_file({"emb_params": torch.zeros(2, 8)}, file)
    [found] = planned(bench, inverted(name)).textual_inversions
    assert (found.source.folder, found.source.file) == (str(file.parent.resolve()), file.name)


def inverted(name: str) -> Document:
    return drawing(steps=[step(textual_inversions=[{"model_name": name}])])


def test_textual_inversion_of_two_folders_is_refused_with_both(bench: Bench):
    for folder in ("embeddings/a", "embeddings/b"):
        file = bench.model.parent / folder / "grain.safetensors"
        file.parent.mkdir(parents=True)
        save_file({"emb_params": torch.zeros(2, 8)}, file)
    [message] = bench.problems(inverted("grain")).values()
    assert "a/grain" in message
    assert "b/grain" in message
    assert planned(bench, inverted("b/grain")).textual_inversions
