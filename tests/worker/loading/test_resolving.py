"""Facts read from library sources without import match the imported libraries."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import transformers
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import fetch_diffusers_config
from torch import nn
from transformers.models.auto.auto_factory import _get_model_class

from app.dialect.installed.constructors import AUTOMATIC, automatic_class, constructor, model_class
from app.dialect.installed.signatures import public_classes, single_file_classes
from app.models.component_files import has_weights
from app.models.single_files import Published, published_model
from app.worker.loading.load import _shape_of

# Warnings of torch about features of some pipelines, on import.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CLASSES = [
    "AnimateDiffPipeline",
    "AudioLDM2Pipeline",
    "FluxControlNetImg2ImgPipeline",
    "FluxPipeline",
    "KandinskyV22CombinedPipeline",
    "KolorsImg2ImgPipeline",
    "LTXImageToVideoPipeline",
    "QwenImageEditPlusPipeline",
    "StableCascadeCombinedPipeline",
    "StableDiffusion3InpaintPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionPAGPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLPAGInpaintPipeline",
    "WanImageToVideoPipeline",
    "ZImagePipeline",
]


class Tensor:
    """Stands for a tensor in a file."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape


@pytest.mark.parametrize("name", CLASSES)
def test_resolved_constructor_matches_class(name: str):
    real, read = _shape_of(getattr(diffusers, name)), constructor(name)
    assert read is not None
    assert list(read.parameters.items()) == list(real.parameters.items())
    assert set(read.optional) == set(real.optional)


@pytest.mark.parametrize("automatic", AUTOMATIC)
def test_resolved_auto_class_matches_diffusers(automatic: str):
    # Imports the pipelines of every family.
    from diffusers.pipelines import auto_pipeline

    table = getattr(auto_pipeline, AUTOMATIC[automatic])
    for name in (*CLASSES, "LatteXLPipeline"):
        real: Any = auto_pipeline._get_task_class(table, name, False)
        assert automatic_class(automatic, name) == (real.__name__ if real else "")


@pytest.mark.parametrize(
    ("automatic", "config_class"),
    [
        ("AutoModelForCausalLM", "Qwen3Config"),
        ("AutoModelForImageTextToText", "Idefics3Config"),
        ("AutoModelForDepthEstimation", "DPTConfig"),
        ("AutoModelForSemanticSegmentation", "UperNetConfig"),
        ("AutoModelForZeroShotObjectDetection", "GroundingDinoConfig"),
    ],
)
def test_resolved_model_class_matches_auto_class(automatic: str, config_class: str):
    config = getattr(transformers, config_class)()
    mapping = getattr(transformers, automatic)._model_mapping
    found = model_class(automatic, {"model_type": config.model_type})
    assert found == _get_model_class(config, mapping).__name__
    assert model_class(automatic, {"model_type": "none"}) is None


def test_single_file_folders_match_diffusers():
    real = {
        name: how.get("default_subfolder", "") for name, how in SINGLE_FILE_LOADABLE_CLASSES.items()
    }
    assert single_file_classes() == real


def test_models_are_distinguished_from_components_without_weights():
    for name, place in public_classes("diffusers").items():
        found = getattr(diffusers, name, None)
        if place.kind in ("model", "scheduler") and hasattr(found, "from_pretrained"):
            # Hugging Face's Auto class makes models but is none.
            is_model = name == "AutoModel" or issubclass(found, nn.Module)
            assert has_weights(f"diffusers.{name}") == is_model, name


@pytest.mark.parametrize(
    "shapes",
    [
        {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
        {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,)},
        {
            "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
            "model.diffusion_model.pos_embed": (1, 36864, 1536),
        },
        {"double_blocks.0.img_attn.norm.key_norm.scale": (128,), "img_in.weight": (3072, 64)},
        {},
    ],
    ids=lambda shapes: next(iter(shapes), "nothing"),
)
def test_single_file_model_matches_diffusers(shapes: dict[str, tuple[int, ...]]):
    real = fetch_diffusers_config({name: Tensor(*shape) for name, shape in shapes.items()})
    found = published_model(shapes)
    assert found == Published(real["pretrained_model_name_or_path"], real.get("subfolder") or "")


def test_unknown_single_file_tensors_are_an_error():
    half_of_it = "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias"
    with pytest.raises(ValueError, match="no published model"):
        published_model({half_of_it: (9216,)})
