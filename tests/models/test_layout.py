"""ComfyUI's `extra_model_paths.yaml`."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import BadRequest
from app.models.inventory import list_models
from app.models.kind_folders import find_known, roots
from app.models.layout import MAX_BYTES, layout_folders
from app.settings import PathSettings
from tests.plan_bench import safetensors

LAYOUT = """
# As ComfyUI's example has it.
comfyui:
    base_path: comfy
    is_default: true
    checkpoints: models/checkpoints/
    text_encoders: |
         models/text_encoders/
         models/clip/  # legacy location still supported
    clip_vision: models/clip_vision/
    ultralytics_bbox: models/ultralytics/bbox
a111:
    base_path: {webui}
    checkpoints: models/Stable-diffusion
    loras: |
         models/Lora

         models/LyCORIS
    embeddings: embeddings
other:
    vae: vae_files
empty:
"""


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout over folders of ComfyUI and A1111, and one beside it."""
    webui = tmp_path / "web ui"
    for folder in (
        tmp_path / "comfy/models/checkpoints", tmp_path / "comfy/models/clip",
        tmp_path / "vae_files",
        tmp_path / "comfy/models/clip_vision", webui / "models/Stable-diffusion",
        webui / "models/Lora", webui / "embeddings",
    ):  # fmt: skip
        folder.mkdir(parents=True)
    file = tmp_path / "extra_model_paths.yaml"
    file.write_text(LAYOUT.replace("{webui}", f'"{webui}"'))
    return file


def test_folders_that_exist_are_found_by_kind(layout: Path, tmp_path: Path):
    webui = tmp_path / "web ui"
    assert layout_folders(layout) == (
        ("checkpoints", tmp_path / "comfy/models/checkpoints"),
        ("text_encoders", tmp_path / "comfy/models/clip"),
        ("checkpoints", webui / "models/Stable-diffusion"),
        ("loras", webui / "models/Lora"),
        ("embeddings", webui / "embeddings"),
        ("vae", tmp_path / "vae_files"),
    )


def test_files_of_the_layout_have_bare_names(layout: Path, tmp_path: Path):
    file = safetensors(tmp_path / "web ui/models/Lora/ink.safetensors", weight=4)
    paths = PathSettings(models=(), models_layout=layout)
    found = find_known("ink", ("loras",), paths)
    assert found is not None
    assert found.path == file
    assert file.parent in roots(paths)
    assert tmp_path / "web ui" not in roots(paths)
    assert [each.name for each in list_models(paths)] == ["ink"]


def test_folder_that_is_also_below_a_models_folder_is_searched_once(layout: Path, tmp_path: Path):
    safetensors(tmp_path / "web ui/models/Lora/ink.safetensors", weight=4)
    paths = PathSettings(models=(tmp_path / "web ui" / "models",), models_layout=layout)
    assert [each.name for each in list_models(paths)] == ["ink"]


def test_changed_layout_is_read_again(layout: Path):
    assert len(layout_folders(layout)) == 6
    layout.write_text("other:\n  vae: vae_files\n")
    assert len(layout_folders(layout)) == 1
    layout.write_text("")
    with pytest.raises(BadRequest, match="it holds null instead of sections"):
        layout_folders(layout)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "line 1: expected the node content"),
        ("- a", 'it holds ["a"] instead of sections'),
        ("a: models", "section 'a' holds 'models' instead of folders by kind"),
        ("a: {base_path: 3}", "'base_path' of section 'a' is 3, not a folder"),
        ("a: {base_path: gone}", "'base_path' of section 'a' names no folder: '"),
        ("a: {loras: [x, y]}", "'loras' of section 'a' is [\"x\", \"y\"], not a folder or lines"),
        ("a: {checkpoint: x}", "'checkpoint' of section 'a' is no kind. Did you mean 'checkp"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: " + "[" * 5000, "not understood"),
        (" " * (MAX_BYTES + 1), f"it has {MAX_BYTES + 1} bytes"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_a_sentence(tmp_path: Path, text: str, said: str):
    file = tmp_path / "extra.yaml"
    file.write_text(text)
    with pytest.raises(BadRequest) as caught:
        layout_folders(file)
    told = str(caught.value)
    assert told.startswith("The layout 'extra.yaml' is not understood: ")
    assert said in told
    assert "\n" not in told


def test_unreadable_layout_is_refused(tmp_path: Path):
    with pytest.raises(BadRequest, match=r"cannot be read: No such file or directory\."):
        layout_folders(tmp_path / "gone.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRequest, match="is not understood"):
        layout_folders(tmp_path / "binary.yaml")
