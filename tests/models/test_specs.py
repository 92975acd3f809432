"""A component spec says everything that decides what is loaded; its key is made of all of that."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from app.dialect.fingerprint import FileIdentity
from app.dialect.plan_settings import ComponentChanges
from app.dialect.plan_sources import ModelSource
from app.dialect.quantisation import Quantisation
from app.models.component_files import in_a_folder
from app.models.specs import NOT_DECISIVE, ComponentSpec, Selection
from app.settings import PROJECT
from tests.plan_bench import safetensors

SPEC = ComponentSpec(
    "unet",
    "diffusers.UNet2DConditionModel",
    ModelSource(model="a"),
    Path("unet"),
    (FileIdentity(name="config.json", content="1"),),
    "float32",
    None,
    16,
)
OTHER_VALUES: dict[str, Any] = {
    "class_name": "diffusers.AutoencoderKL",
    "files": (FileIdentity(name="config.json", content="2"),),
    "dtype": "float16",
    "variant": "fp16",
    "quantisation": Quantisation(kind="sdnq", arguments={"weights_dtype": "int8"}),
    "quantiser": "sdnq",
    "file": Path("unet.safetensors"),
    "code": True,
    "tool_files": {"weights": "a.pt"},
    "changes": ComponentChanges(channels_last=True),
    "sdnq_matmul": True,
}


def key(folder: Path, class_name: str = "diffusers.UNet2DConditionModel", **changes: Any) -> str:
    source = ModelSource(model="a", variant=changes.pop("variant", None))
    dtype = changes.pop("dtype", "float32")
    return in_a_folder("unet", class_name, folder, dtype, source, **changes).key


def test_every_field_changes_the_key_unless_it_is_named_as_not_decisive():
    assert set(OTHER_VALUES) == {each.name for each in fields(ComponentSpec)} - NOT_DECISIVE
    changed = {name: replace(SPEC, **{name: value}) for name, value in OTHER_VALUES.items()}
    assert len({SPEC.key, *(spec.key for spec in changed.values())}) == len(OTHER_VALUES) + 1


def test_name_place_and_sharing_leave_the_key_as_it_is():
    other = replace(
        SPEC,
        name="transformer",
        source=ModelSource(model="b"),
        folder=Path("elsewhere"),
        weight_bytes=8,
        shared_by="before",
    )
    assert other.key == SPEC.key
    in_a_module = replace(SPEC, class_name="diffusers.models.unet.UNet2DConditionModel")
    assert in_a_module.key == SPEC.key


def test_two_workflows_that_load_the_same_share_the_key(component: Path):
    assert key(component) == key(component)
    assert len(key(component)) == 32


def test_everything_that_decides_what_is_loaded_is_in_the_key(component: Path, tmp_path: Path):
    keys = [
        key(component),
        key(component, dtype="float16"),
        key(component, variant="fp16"),
        key(component, class_name="diffusers.AutoencoderKL"),
    ]
    safetensors(component / "diffusion_pytorch_model.safetensors", a=11, b=6)
    keys.append(key(component))
    (component / "config.json").write_text('{"changed": true}')
    keys.append(key(component))
    assert len(set(keys)) == len(keys)


def test_weights_that_would_not_be_loaded_are_not_in_the_key(component: Path):
    before = key(component)
    safetensors(component / "diffusion_pytorch_model.fp16.safetensors", a=5)
    assert key(component) == before
    assert key(component, variant="fp16") != before


NAMES = [
    "model_index.json",
    "model.safetensors",
    "pipeline.py",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/inner/model.safetensors",
    "old.ckpt",
]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Selection(), ["model_index.json", "unet/config.json"]),
        (Selection(whole=True), ["model_index.json"]),
        (
            Selection(folders=("unet",)),
            ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"],
        ),
        (
            Selection(folders=("unet",), variant="fp16"),
            ["unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"],
        ),
        (
            Selection(folders=("",)),
            ["model_index.json", "unet/config.json", "model.safetensors"],
        ),
        (
            Selection(files=("model.ckpt", "old.ckpt", "none.gguf")),
            ["model.safetensors", "old.ckpt", "none.gguf"],
        ),
        (
            Selection(adapters=("unet",)),
            [
                "unet/diffusion_pytorch_model.safetensors",
                "unet/diffusion_pytorch_model.fp16.safetensors",
            ],
        ),
        (Selection(code=True), ["model_index.json", "unet/config.json", "pipeline.py"]),
    ],
    ids=str,
)
def test_wanted_files_are_chosen_from_a_repository(wanted: Selection, chosen: list[str]):
    assert wanted.of(NAMES) == chosen


RESOLVING = {
    "identify_files": {"component_files"},
    "component_bytes": {"component_files"},
    "single_file_bytes": {"component_files"},
    "stored_quantiser": {"component_files", "components", "quantisers"},
    "constructor": {"pipeline_layout", "pipeline_shapes", "null_components"},
    "automatic_class": {"pipeline_shapes", "called"},
    "model_class": {"resolve"},
    "published_model": {"file_places"},
    "read_pipeline_index": {"pipeline_layout", "load"},
}
"""Functions that tell what a step loads, and the modules that may call them. Beside the resolver
the worker asks what a repository's own code and its blocks need, and refuses quantisers; planning
asks for the class whose arguments and components it checks."""


@pytest.mark.parametrize("name", RESOLVING)
def test_only_the_resolver_works_out_what_a_step_loads(name: str):
    called = re.compile(rf"(?<!def )\b{name}\(")
    files = (PROJECT / "app").rglob("*.py")
    calling = {file.stem for file in files if called.search(file.read_text())}
    defining = {
        file.stem for file in (PROJECT / "app").rglob("*.py") if f"def {name}(" in file.read_text()
    }
    assert calling - defining == RESOLVING[name]
