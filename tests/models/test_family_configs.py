"""Configurations for checkpoints of known families: facts, and what the tensors' shapes tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from app.models.family_configs import FACTS, configuration_of, written
from app.models.single_files import Shapes, tells_model
from tests.standins.families import (
    configs_of,
    narrow_configs,
    original_tensors,
    published_shapes,
)

FAMILIES = ["sd15", "sd21", "sdxl", "sdxl-refiner"]
PARAMETERS = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "sdxl-refiner": {"unet": 2_259_526_660, "vae": 83_653_863, "text_encoder_2": 694_659_840},
}  # fmt: skip
"""Of the published models; the refiner's is what its facts make."""
NOT_TOLD = {"attention_head_dim", "num_attention_heads", "projection_dim"}
"""Settings of a narrow model that no shape tells."""


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())  # type: ignore[no-any-return]


def family_folder(shapes: Shapes, cache: Path) -> Path | None:
    """Returns the folder with the configuration for these tensors; None where there is none."""
    found = configuration_of(shapes)
    return None if found is None else written(found, cache)


def narrow_shapes(family: str) -> Shapes:
    with torch.device("meta"):
        tensors = original_tensors(family, narrow_configs(family))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_make_models_of_the_published_sizes(family: str):
    classes: dict[str, Any] = {
        "unet": UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
        "text_encoder": lambda config: CLIPTextModel(CLIPTextConfig(**config)),
        "text_encoder_2": lambda config: CLIPTextModelWithProjection(CLIPTextConfig(**config)),
    }
    with torch.device("meta"):
        made = {name: classes[name](config) for name, config in configs_of(family).items()}
    counted = {name: sum(p.numel() for p in model.parameters()) for name, model in made.items()}
    assert counted == PARAMETERS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_published_checkpoint_has_exactly_the_facts(family: str, tmp_path: Path):
    folder = family_folder(published_shapes(family), tmp_path / "cache")
    assert folder is not None
    assert folder.name.startswith(f"{family}-")
    for file in sorted((FACTS / family).rglob("*.json")):
        name = file.relative_to(FACTS / family).as_posix()
        assert read(folder, name) == read(FACTS / family, name), name


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sdxl-refiner"])
def test_widths_and_layers_come_from_the_shapes(family: str, tmp_path: Path):
    folder = family_folder(narrow_shapes(family), tmp_path)
    assert folder is not None
    for name, config in narrow_configs(family).items():
        found = read(folder, f"{name}/config.json")
        assert {k: v for k, v in found.items() if k not in NOT_TOLD} == {
            k: v for k, v in config.items() if k not in NOT_TOLD
        }, name


def test_inpainting_checkpoint_has_its_own_channels(tmp_path: Path):
    name = "model.diffusion_model.input_blocks.0.0.weight"
    shapes = {**published_shapes("sd15"), name: (320, 9, 3, 3)}
    folder = family_folder(shapes, tmp_path)
    assert folder is not None
    assert read(folder, "unet/config.json")["in_channels"] == 9


def test_vae_alone_has_a_configuration(tmp_path: Path):
    prefix = "first_stage_model."
    shapes = {n: s for n, s in published_shapes("sd15").items() if n.startswith(prefix)}
    bare = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    for each in (shapes, bare):
        folder = family_folder(each, tmp_path)
        assert folder is not None
        assert read(folder, "vae/config.json") == configs_of("sd15")["vae"]


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl", "sdxl-refiner"])
def test_unet_alone_has_a_configuration(family: str, tmp_path: Path):
    prefix = "model.diffusion_model."
    shapes = {n: s for n, s in published_shapes(family).items() if n.startswith(prefix)}
    folder = family_folder(shapes, tmp_path)
    assert folder is not None
    assert read(folder, "unet/config.json") == configs_of(family)["unet"]
    # The version of some is told; others have the configuration of their pipeline's model.
    assert tells_model(shapes) == (family == "sd21")


def test_other_families_have_none(tmp_path: Path):
    shapes = published_shapes("sd15")
    assert family_folder({**shapes, "edm_mean": (4,)}, tmp_path) is None
    assert family_folder({"double_blocks.0.img_attn.norm.key_norm.scale": (1,)}, tmp_path) is None
    assert family_folder({"some.weight": (1,)}, tmp_path) is None


def test_irregular_checkpoint_is_refused(tmp_path: Path):
    shapes = published_shapes("sd15")
    del shapes["model.diffusion_model.out.2.weight"]
    with pytest.raises(ValueError, match=r"its unet has no published layout: 'model.*out\.2"):
        family_folder(shapes, tmp_path)
    shapes = published_shapes("sd15")
    shapes["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = (300, 768)
    with pytest.raises(ValueError, match=r"its text_encoder has .* a vocabulary of 49408 tokens"):
        family_folder(shapes, tmp_path)


@pytest.mark.parametrize(
    ("family", "part", "pad"),
    [("sd15", "tokenizer", 49407), ("sd21", "tokenizer", 0), ("sdxl", "tokenizer_2", 0)],
)
def test_tokenizer_gives_the_ids_of_clip(family: str, part: str, pad: int, tmp_path: Path):
    folder = family_folder(published_shapes(family), tmp_path)
    assert folder is not None
    tokenizer = CLIPTokenizer.from_pretrained(folder / part)
    ids = tokenizer("a photo of a cat", padding="max_length").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407, *[pad] * 70]
    assert tokenizer("A photo  of A CAT").input_ids == ids[:7]
    assert len(tokenizer) == 49408
    assert tokenizer.decode(tokenizer("naïve 東京 🦊").input_ids[1:-1]).strip() == "naïve 東京 🦊"


def test_folder_is_written_once_and_again_if_it_is_deleted(tmp_path: Path):
    shapes = published_shapes("sd15")
    folder = family_folder(shapes, tmp_path)
    assert folder is not None
    before = (folder / "unet" / "config.json").stat()
    assert family_folder(shapes, tmp_path) == folder
    assert (folder / "unet" / "config.json").stat() == before
    assert [each.name for each in tmp_path.iterdir()] == [folder.name]
    folder.rename(tmp_path / "gone")
    assert family_folder(shapes, tmp_path) == folder
