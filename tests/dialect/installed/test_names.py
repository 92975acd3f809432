"""Only public classes of the two libraries may be named; nothing is imported to find out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialect.installed.names import UnknownName, class_name, dtype_name, unbraced
from app.dialect.installed.signatures import public_classes


@pytest.mark.parametrize(
    ("name", "kind", "qualified"),
    [
        ("StableDiffusionPipeline", "pipeline", "diffusers.StableDiffusionPipeline"),
        ("diffusers.FluxPipeline", "pipeline", "diffusers.FluxPipeline"),
        ("DiffusionPipeline", "pipeline", "diffusers.DiffusionPipeline"),
        ("AutoencoderKL", "model", "diffusers.AutoencoderKL"),
        ("EulerDiscreteScheduler", "scheduler", "diffusers.EulerDiscreteScheduler"),
        ("transformers.T5EncoderModel", "model", "transformers.T5EncoderModel"),
        ("transformers.CLIPTokenizer", "tokenizer", "transformers.CLIPTokenizer"),
        ("Lumina2Text2ImgPipeline", "pipeline", "diffusers.Lumina2Pipeline"),
    ],
)
def test_public_class_is_qualified_with_package(name: str, kind: str, qualified: str):
    assert class_name(name, kind) == qualified


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "torch.nn.Linear", "diffusers.utils.os", "app.errors.Problem",
     "diffusers.pipelines.StableDiffusionPipeline", ".StableDiffusionPipeline.", "__import__", "",
     "diffusers.", "diffusers.__init__", "transformers.os"],
)  # fmt: skip
def test_class_outside_two_libraries_is_unknown(name: str):
    with pytest.raises(UnknownName):
        class_name(name, "pipeline", "model", "scheduler", "tokenizer")


@pytest.mark.parametrize(
    "name",
    ["ReduxImageEncoder", "Ideogram4PromptEnhancerHead", "StableAudioProjectionModel",
     "CLIPImageProjection", "AudioLDM2UNet2DConditionModel"],
)  # fmt: skip
def test_model_beside_a_pipeline_is_a_model(name: str):
    assert class_name(name, "model") == f"diffusers.{name}"
    with pytest.raises(UnknownName, match="is a model; a pipeline class is needed here"):
        class_name(name, "pipeline", "modular pipeline")


@pytest.mark.parametrize(
    "name", ["ImagePipelineOutput", "StableDiffusionMixin", "MidiProcessor", "OnnxRuntimeModel"]
)
def test_class_beside_a_pipeline_that_is_none_is_unknown(name: str):
    with pytest.raises(UnknownName, match="is not a diffusers pipeline class"):
        class_name(name, "pipeline")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kinds_of_classes_equal_their_bases():
    """For every public class in the folder of pipelines, compared with the class itself."""
    import diffusers

    checked = set()
    for name, place in public_classes("diffusers").items():
        if place.file.startswith("pipelines/") and not place.needs:
            found = getattr(diffusers, name)
            is_pipeline = issubclass(found, diffusers.DiffusionPipeline)
            is_pipeline = is_pipeline or name.startswith("AutoPipelineFor")
            assert (place.kind == "pipeline") == is_pipeline, name
            assert (place.kind == "model") == issubclass(found, diffusers.ModelMixin), name
            checked.add(place.kind)
    assert {"pipeline", "model"} <= checked


def test_unknown_class_suggests_nearest_of_kind():
    with pytest.raises(UnknownName) as caught:
        class_name("EulerDiscretScheduler", "scheduler")
    assert str(caught.value) == (
        "'EulerDiscretScheduler' is not a diffusers scheduler class. "
        "Did you mean 'EulerDiscreteScheduler'?"
    )


def test_class_of_wrong_kind_is_refused_with_its_kind():
    with pytest.raises(UnknownName) as caught:
        class_name("FluxPipeline", "model", "scheduler")
    assert str(caught.value) == (
        "'FluxPipeline' is a pipeline; a model or scheduler class is needed here."
    )


@given(st.text())
def test_any_name_is_public_class_or_unknown(name: str):
    try:
        package, _, bare = class_name(name, "pipeline").rpartition(".")
    except UnknownName:
        return
    assert bare in public_classes(package)


@pytest.mark.parametrize("name", ["float16", "torch.float16"])
def test_dtype_may_be_written_with_or_without_torch(name: str):
    assert dtype_name(name) == "float16"


@pytest.mark.parametrize("name", ["int8", "torch.load", "torch.torch.float16", "", "Float16"])
def test_unknown_dtype_is_refused_with_choices(name: str):
    with pytest.raises(UnknownName, match=r"torch\.float32, torch\.float16, torch\.bfloat16"):
        dtype_name(name)


@given(st.text())
def test_braced_text_is_unwrapped(text: str):
    assert unbraced(f"{{{text}}}") == text
    assert unbraced(f"{text}}}") is None or text.startswith("{")
