"""The list of the models in the folders of their kinds."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from app.dialect.model_kinds import Kind
from app.models.base_family import base_family
from app.models.inventory import ListedModel, list_models, trigger_words
from app.settings import PathSettings
from tests.standins import build_sd
from tests.standins.checkpoint import build_checkpoint

OUTLINE = Path(__file__).resolve().parents[2] / "models" / "shapes" / "outline"
LORA_DOWN = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
LORA_UP = LORA_DOWN.replace("down.weight", "up.weight")
DIFFUSERS = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
IN_BLOCK = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
INPUT = "model.diffusion_model.input_blocks.0.0.weight"
ATTENDED = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


def listed(root: Path, kind: Kind | None = None, **settings: Any) -> dict[str, ListedModel]:
    """Returns the models of this models folder, by kind and name."""
    paths = PathSettings(models=(root,), **settings)
    return {f"{each.kind}/{each.name}": each for each in list_models(paths, kind)}


def write(file: Path, metadata: dict[str, str] | None = None, **shapes: tuple[int, ...]) -> Path:
    """Writes a safetensors file with float16 zeros of these shapes."""
    header: dict[str, Any] = {"__metadata__": metadata or {}}
    end = 0
    for name, shape in shapes.items():
        count = 2
        for length in shape:
            count *= length
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + count]}
        end += count
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(file, file.stat().st_size + end)
    return file


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_sd(folder)
    return folder


def test_checkpoint_and_lora_are_listed_from_their_headers(tiny: Path, tmp_path: Path):
    (tmp_path / "Stable-diffusion" / "old").mkdir(parents=True)
    (tmp_path / "Lora").mkdir()
    file = tmp_path / "Stable-diffusion" / "old" / "tiny_v1.safetensors"
    build_checkpoint(tiny, file)
    [outline] = OUTLINE.glob("*.safetensors")
    lora = tmp_path / "Lora" / "outline.safetensors"
    save_file(load_file(outline), lora, {"ss_output_name": "outline"})
    assert listed(tmp_path) == {
        "checkpoints/old/tiny_v1": ListedModel(
            kind="checkpoints", name="old/tiny_v1", family="SD 1.5", dtype="float32",
            size_bytes=file.stat().st_size, path=str(file),
        ),
        "loras/outline": ListedModel(
            kind="loras", name="outline", family="SD 1.5 or 2.x", dtype="float32",
            size_bytes=lora.stat().st_size, trigger_words=("outline",), path=str(lora),
        ),
    }  # fmt: skip
    assert list(listed(tmp_path, "loras")) == ["loras/outline"]


def test_folders_in_diffusers_layout_are_listed(tiny: Path, tmp_path: Path):
    (tmp_path / "diffusers" / "sub").mkdir(parents=True)
    (tmp_path / "diffusers" / "sub" / "tiny").symlink_to(tiny)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(tiny)
    found = listed(tmp_path)
    assert list(found) == ["diffusers/sub/tiny", "diffusers/owner/name"]
    for each in found.values():
        assert (each.family, each.dtype) == ("StableDiffusionPipeline", "float32")
        assert each.size_bytes == sum(f.stat().st_size for f in tiny.rglob("*.safetensors"))


def test_embeddings_of_a1111_lie_beside_its_models(tmp_path: Path):
    (tmp_path / "models" / "Stable-diffusion").mkdir(parents=True)
    write(tmp_path / "embeddings" / "bad.safetensors", emb_params=(3, 1024))
    assert listed(tmp_path / "models")["embeddings/bad"].family == "SD 2.x"
    (tmp_path / "models" / "Stable-diffusion").rename(tmp_path / "models" / "checkpoints")
    assert listed(tmp_path / "models") == {}


def test_broken_files_are_listed_with_the_reason(tmp_path: Path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "page.safetensors").write_text("<!DOCTYPE html>")
    (folder / "empty.safetensors").touch()
    (folder / "code.ckpt").write_bytes(b"PK\x03\x04...")
    (folder / "renamed.safetensors").write_bytes(b"PK\x03\x04...")
    (folder / "header.safetensors").write_bytes(struct.pack("<Q", 2) + b"{]....")
    cut = write(folder / "cut.safetensors", a=(500,))
    os.truncate(cut, cut.stat().st_size - 100)
    huge = folder / "huge.safetensors"
    huge.write_bytes(struct.pack("<Q", 200_000_000) + b"{")
    os.truncate(huge, 300_000_000)
    (folder / "dangling.safetensors").symlink_to(tmp_path / "gone")
    found = {name.partition("/")[2]: each.problem for name, each in listed(tmp_path).items()}
    size = cut.stat().st_size
    assert found.pop("header").startswith("The header of 'header.safetensors' cannot be read: ")
    assert found == {
        "page": "It is not a safetensors file: it begins with '<!DOCTYPE html>'.",
        "empty": "It is not a safetensors file: it is empty.",
        "code": "It may hold code and is not read.",
        "renamed": "It is a pickle file, not a safetensors file.",
        "cut": f"It is cut off: {size} of {size + 100} bytes are there.",
        "dangling": "No such file or directory.",
        "huge": "The header of 'huge.safetensors' has 200000000 bytes.",
    }
    assert listed(tmp_path, allow_pickles=True)["checkpoints/code"].problem == ""


@pytest.mark.parametrize(
    ("family", "shapes"),
    [
        ("SD 1.5", {ATTENDED: (320, 768)}),
        ("SD 2.x", {ATTENDED: (320, 1024)}),
        ("SDXL", {ATTENDED: (640, 2048)}),
        ("SDXL refiner", {ATTENDED: (768, 1280)}),
        ("SDXL inpainting", {ATTENDED: (64, 2048), INPUT: (64, 9, 3, 3)}),
        ("SD 1.5", {f"control_model.{IN_BLOCK}": (320, 768)}),
        ("SDXL", {f"{DIFFUSERS}.to_k.weight": (640, 2048)}),
        # A transformer's own width tells nothing.
        ("", {"transformer_blocks.0.attn2.to_k.weight": (2048, 2048)}),
        ("SD3", {"model.diffusion_model.joint_blocks.37.x_block.mlp.fc1.weight": (9, 9)}),
        ("FLUX.1", {"double_blocks.0.img_attn.norm.key_norm.scale": (128,)}),
        ("SD 1.5, SD 2.x or SDXL", {"decoder.conv_in.weight": (512, 4, 3, 3)}),
        ("SD3 or FLUX.1", {"first_stage_model.decoder.conv_in.weight": (512, 16, 3, 3)}),
        ("SDXL", {"clip_l": (2, 768), "clip_g": (2, 1280)}),
        ("", {"some.weight": (2, 2)}),
        ("", {}),
    ],
)  # fmt: skip
def test_family_is_told_by_tensors(family: str, shapes: dict[str, tuple[int, ...]]):
    assert base_family(shapes) == family


@pytest.mark.parametrize(
    ("family", "shapes"),
    [
        # The other factor has the rank of the LoRA, which may be any number.
        ("SD 1.5", {LORA_UP: (320, 1024), LORA_DOWN: (8, 768)}),
        ("SD 2.x", {LORA_DOWN: (8, 1024)}),
        ("SDXL", {LORA_DOWN: (8, 2048)}),
        ("SDXL", {f"unet.{DIFFUSERS}.to_k.lora_A.weight": (4, 2048)}),
        ("SDXL", {f"unet.{DIFFUSERS}.processor.to_k_lora.down.weight": (4, 2048)}),
        ("SD 1.5", {LORA_DOWN.replace("lora_down.weight", "hada_w1_b"): (4, 768)}),
        ("FLUX.1", {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (4, 3072)}),
        ("", {"some.weight": (2, 2)}),
    ],
)  # fmt: skip
def test_family_of_a_lora_is_told_by_tensors(family: str, shapes: dict[str, tuple[int, ...]]):
    assert base_family(shapes, is_lora=True) == family


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"modelspec.trigger_phrase": "ink, black", "ss_output_name": "x"}, ["ink", "black"]),
        ({"ss_tag_frequency": '{"a": {"ink ": 3, "fox": 1}, "b": {"fox": 7}}'}, ["fox", "ink"]),
        ({"ss_tag_frequency": "{", "ss_output_name": "ink\u202e_v1\n"}, ["ink _v1"]),
        ({"ss_tag_frequency": json.dumps({"a": 3, "b": {"c": "d"}})}, []),
        ({"ss_output_name": "w" * 500}, ["w" * 39 + "…"]),
        ({}, []),
    ],
)  # fmt: skip
def test_trigger_words_come_from_the_metadata(metadata: dict[str, str], words: list[str]):
    assert list(trigger_words(metadata)) == words
