"""Loading arguments: dtypes, and kinds of components."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialect.plan import PipelineStep
from tests.plan_bench import MODEL, Bench, drawing, step

LOADING = "steps[0].pipeline.from_pretrained_arguments"


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.consists_of(
        {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    )
    return bench


def loaded(bench: Bench, blocks: dict[str, Any] | None = None, **loading: Any) -> PipelineStep:
    found = step(from_pretrained_arguments={"model_name": MODEL, **loading}, **(blocks or {}))
    (planned,) = bench.plan(drawing(steps=[found])).steps
    assert isinstance(planned, PipelineStep)
    return planned


@pytest.mark.parametrize(
    ("named", "dtype"),
    [
        ("torch.half", "float16"),
        ("torch.float", "float32"),
        ("{bfloat16}", "bfloat16"),
        ("bfloat16", "bfloat16"),
        (None, "float32"),
        ("{auto}", "float32"),
    ],
)
def test_dtype_may_be_written_in_any_known_form(bench: Bench, named: str | None, dtype: str):
    assert loaded(bench, torch_dtype=named).dtype == dtype


def test_auto_dtype_of_pipeline_is_float32_with_warning(bench: Bench):
    document = drawing(
        steps=[step(from_pretrained_arguments={"model_name": MODEL, "torch_dtype": "{auto}"})]
    )
    (warning,) = bench.plan(document).warnings
    assert warning.startswith(f"{LOADING}.torch_dtype: 'auto' is float32")


def test_auto_dtype_of_component_is_that_of_pipeline(bench: Bench):
    vae = {
        "configuration": {"component_type": "AutoencoderKL"},
        "from_pretrained_arguments": {"model_name": "owner/vae", "torch_dtype": "{auto}"},
    }
    found = loaded(bench, {"vae": vae}, torch_dtype="torch.bfloat16")
    assert found.components["vae"].dtype == "bfloat16"


def test_each_component_may_have_its_own_dtype(bench: Bench):
    found = loaded(bench, torch_dtype={"vae": "torch.float32", "default": "torch.bfloat16"})
    assert (found.dtype_of("vae"), found.dtype_of("unet")) == ("float32", "bfloat16")
    assert loaded(bench, torch_dtype={"vae": "torch.bfloat16"}).dtype_of("unet") == "float32"


@pytest.mark.parametrize(
    ("dtype", "place", "told"),
    [
        ("bf16", "", "'bf16' is not a dtype to load weights in. Use one of torch.float32, "),
        ({"vae": "int8"}, ".vae", "'int8' is not a dtype to load weights in."),
        ({"vea": "torch.bfloat16"}, ".vea", "has no component 'vea'. Did you mean 'vae'?"),
    ],
)
def test_unknown_dtype_is_refused_with_place(bench: Bench, dtype: Any, place: str, told: str):
    wanted = step(from_pretrained_arguments={"model_name": MODEL, "torch_dtype": dtype})
    assert told in bench.problems(drawing(steps=[wanted]))[f"{LOADING}.torch_dtype{place}"]


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("transformers.AutoProcessor", "processor"),
        ("transformers.Gemma3Processor", "processor"),
        ("transformers.T5TokenizerFast", "tokenizer"),
        ("transformers.CLIPFeatureExtractor", "feature_extractor"),
    ],
)
def test_processors_and_tokenizers_may_be_components(bench: Bench, name: str, of: str):
    block = {
        "configuration": {"component_type": name},
        "from_pretrained_arguments": {"model_name": "owner/name", "subfolder": of},
    }
    block_planned = loaded(bench, {of: block}).components[of]
    assert not block_planned.has_weights


def test_misplaced_quantiser_is_refused_with_right_place(bench: Bench):
    inline = {"config_type": "BitsAndBytesConfig", "from_arguments": {"load_in_4bit": True}}
    wanted = step(from_pretrained_arguments={"model_name": MODEL, "quantization_config": inline})
    assert bench.problems(drawing(steps=[wanted])) == {
        f"{LOADING}.quantization_config": "A whole pipeline is not quantised at once. Give each "
        "component to quantise a block with its own 'quantization_config'."
    }


@pytest.mark.parametrize(
    ("key", "hint"),
    [("torch_dtpe", " Did you mean 'torch_dtype'?"), ("use_onnx", ""), ("zz", "")],
)
def test_unknown_loading_argument_is_ignored_with_a_warning(bench: Bench, key: str, hint: str):
    loading = {"model_name": MODEL, key: True}
    plan = bench.plan(drawing(steps=[step(from_pretrained_arguments=loading)]))
    assert plan.warnings == (
        f"steps[0].pipeline.from_pretrained_arguments.{key} has no effect: '{key}' is not a known"
        f" loading argument.{hint}",
    )
