"""Configurations of ControlNets in one file: facts, and what the tensors' shapes tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from app.models.family_configs import configuration_of_controlnet, written
from app.models.single_files import Shapes
from tests.standins.checkpoint import original_controlnet
from tests.standins.families import configs_of
from tests.standins.webui import narrow_controlnet

FAMILIES = ["sd15", "sd21", "sdxl"]


def published(family: str, **changes: Any) -> ControlNetModel:
    """Returns a ControlNet of the published size, without memory."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs_of(family)["unet"])
        return ControlNetModel.from_unet(unet, load_weights_from_unet=False, **changes)


def shapes_of(controlnet: ControlNetModel, naming: str) -> Shapes:
    """Returns the shapes of its tensors, as files name them."""
    tensors = controlnet.state_dict()
    if naming != "diffusers":
        tensors = original_controlnet(tensors, controlnet.config)
    prefix = "control_model." if naming == "original" else ""
    return {f"{prefix}{name}": tuple(tensor.shape) for name, tensor in tensors.items()}


def config_of(shapes: Shapes, unet: Mapping[str, Any]) -> dict[str, Any]:
    found = configuration_of_controlnet(shapes, unet)
    assert found is not None
    return json.loads(found.files["config.json"])  # type: ignore[no-any-return]


def plainly(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings alone, with lists."""
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    return {n: [*value] if isinstance(value, tuple) else value for n, value in settings.items()}


@pytest.mark.parametrize("naming", ["original", "without prefix", "diffusers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_published_controlnet_has_the_settings_of_its_unet(family: str, naming: str):
    controlnet = published(family)
    found = config_of(shapes_of(controlnet, naming), {})
    with torch.device("meta"):
        made = ControlNetModel.from_config(found)
    assert plainly(made.config) == plainly(controlnet.config)


def test_layers_of_the_picture_come_from_the_shapes():
    widths = (8, 16, 24, 32, 40)
    controlnet = published(
        "sd15", conditioning_embedding_out_channels=widths, conditioning_channels=1
    )
    for naming in ("original", "diffusers"):
        found = config_of(shapes_of(controlnet, naming), {})
        assert found["conditioning_embedding_out_channels"] == [*widths]
        assert found["conditioning_channels"] == 1


def test_unet_of_other_widths_tells_nothing():
    """The pipeline's own U-Net counts only for a ControlNet that is a copy of it."""
    unet = configs_of("sd15")["unet"]
    assert config_of(shapes_of(published("sd15"), "original"), {**unet, "norm_eps": 1e-3}) == {
        **config_of(shapes_of(published("sd15"), "original"), {}),
        "norm_eps": 1e-3,
    }
    narrow = shapes_of(narrow_controlnet("sd15"), "original")
    assert config_of(narrow, unet) == config_of(narrow, {})


@pytest.mark.parametrize(
    "name", ["task_embedding", "down_blocks.0.motion_modules.0.proj_in.weight"]
)
def test_controlnet_of_another_kind_has_none(name: str):
    """A union of several, and one for videos."""
    shapes = {**shapes_of(published("sdxl"), "diffusers"), name: (6, 320)}
    assert configuration_of_controlnet(shapes, {}) is None


@pytest.mark.parametrize("missing", ["down_blocks.1.attentions.0.transformer", "mid_block.att"])
def test_small_controlnet_of_sdxl_has_none(missing: str):
    shapes = shapes_of(published("sdxl"), "diffusers")
    left = {name: shape for name, shape in shapes.items() if not name.startswith(missing)}
    assert configuration_of_controlnet(left, {}) is None


def test_whole_pipeline_with_a_controlnet_has_its_configuration():
    shapes = shapes_of(published("sd15"), "original")
    whole = {**shapes, "model.diffusion_model.out.2.weight": (4, 320, 3, 3)}
    assert config_of(whole, {}) == config_of(shapes, {})


def test_incomplete_file_is_refused():
    shapes = dict(shapes_of(published("sd15"), "original"))
    del shapes["control_model.input_blocks.1.0.out_layers.3.weight"]
    with pytest.raises(ValueError, match=r"no published layout: .*input_blocks\.1\.0"):
        configuration_of_controlnet(shapes, {})


def test_folder_has_the_configuration_alone(tmp_path: Path):
    found = configuration_of_controlnet(shapes_of(published("sd15"), "original"), {})
    assert found is not None
    folder = written(found, tmp_path)
    assert folder.name.startswith("controlnet-sd15-")
    assert [each.name for each in folder.iterdir()] == ["config.json"]
    assert written(found, tmp_path) == folder
