"""Quantisation in documents: checked before anything is loaded."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from app.dialect.plan import PipelineStep
from app.dialect.quantisation import QUANTISERS, Quantisation, quantisation, sdnq_types
from app.packages import Package
from tests.plan_bench import MODEL, Bench, Document, drawing, step

UNET = "steps[0].pipeline.unet.quantization_config"


def quantised(config_type: str, **arguments: Any) -> Document:
    """Returns a document whose UNet has this quantisation."""
    return drawing(steps=[step(unet=unet(config_type, **arguments))])


def unet(config_type: str, **arguments: Any) -> Document:
    return {
        "configuration": {"component_type": "UNet2DConditionModel"},
        "from_pretrained_arguments": {"model_name": MODEL, "subfolder": "unet"},
        "quantization_config": {
            "configuration": {"config_type": config_type},
            "arguments": arguments,
        },
    }


def read(bench: Bench, document: Document, **inputs: Any) -> Quantisation:
    [planned] = bench.plan(document, **inputs).steps
    assert isinstance(planned, PipelineStep)
    found = planned.components["unet"].quantisation
    assert found is not None
    return found


def test_quantisation_is_read_in_dialect_form(bench: Bench):
    found = read(
        bench,
        quantised(
            "BitsAndBytesConfig",
            load_in_4bit=True,
            bnb_4bit_quant_type="{nf4}",
            bnb_4bit_compute_dtype="torch.bfloat16",
        ),
    )
    assert found.kind == "bitsandbytes"
    assert found.arguments == {
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_type": "nf4",
        "load_in_4bit": True,
    }


def test_explicit_default_is_same_quantisation(bench: Bench):
    written = quantised("sdnq.SDNQConfig", weights_dtype="{int8}", svd_rank=32, use_svd=False)
    assert read(bench, written) == read(bench, quantised("SDNQConfig"))


def test_placement_is_not_part_of_quantisation(bench: Bench):
    placed = quantised("sdnq.SDNQConfig", quantization_device="cuda", return_device="cpu")
    assert read(bench, placed) == read(bench, quantised("sdnq.SDNQConfig"))


@pytest.mark.parametrize("given", ["int8", "{int8}"])
def test_typed_weight_type_needs_no_braces(bench: Bench, given: str):
    document = quantised("sdnq.SDNQConfig", weights_dtype="variable:weights_dtype")
    document["variables"] = {**document["variables"], "weights_dtype": "{uint4}"}
    assert read(bench, document).arguments == {"weights_dtype": "uint4"}
    assert read(bench, document, weights_dtype=given).arguments == {"weights_dtype": "int8"}


def test_wrong_typed_weight_type_is_reported_at_input(bench: Bench):
    document = quantised("sdnq.SDNQConfig", weights_dtype="variable:weights_dtype")
    document["variables"] = {**document["variables"], "weights_dtype": "{uint4}"}
    assert bench.problems(document, weights_dtype="uint44") == {
        "inputs.weights_dtype": "'uint44' is no type of SDNQ's weights. Did you mean 'uint4'?"
    }


@pytest.mark.parametrize("name", ["torchao.quantization.Int8WeightOnlyConfig", "int8wo"])
def test_torchao_scheme_has_class_name_or_shorthand(bench: Bench, name: str):
    found = read(bench, quantised("TorchAoConfig", quant_type=name))
    assert found.arguments == {"quant_type": "Int8WeightOnlyConfig"}


@pytest.mark.parametrize(
    ("config_type", "arguments", "place", "said"),
    [
        ("os.system", {}, "configuration.config_type", "'os.system' is not a quantiser"),
        (
            "BitsAndByteConfig",
            {},
            "configuration.config_type",
            "Did you mean 'BitsAndBytesConfig'?",
        ),
        ("BitsAndBytesConfig", {}, "arguments", "Exactly one of 'load_in_4bit' and"),
        (
            "BitsAndBytesConfig",
            {"load_in_8bit": True, "bnb_4bit_quant": "{nf4}"},
            "arguments.bnb_4bit_quant",
            "Did you mean 'bnb_4bit_quant_type'?",
        ),
        (
            "BitsAndBytesConfig",
            {"load_in_4bit": True, "bnb_4bit_quant_type": "{nf5}"},
            "arguments.bnb_4bit_quant_type",
            "Did you mean 'nf4'?",
        ),
        (
            "TorchAoConfig",
            {"quant_type": "subprocess.Popen"},
            "arguments.quant_type",
            "'subprocess.Popen' is not one of",
        ),
        ("TorchAoConfig", {}, "arguments", "'quant_type' is missing."),
        ("SDNQConfig", {"is_training": True}, "arguments.is_training", "takes no 'is_training'"),
        ("GGUFQuantizationConfig", {}, "", "is for weights in a .gguf file"),
    ],
)
def test_wrong_quantisation_is_refused_with_place(
    bench: Bench, config_type: str, arguments: Document, place: str, said: str
):
    problems = bench.problems(quantised(config_type, **arguments))
    [(where, sentence)] = problems.items()
    assert where == f"{UNET}.{place}".rstrip(".")
    assert said in sentence


def test_tokenizer_cannot_be_quantised(bench: Bench):
    block = unet("TorchAoConfig", quant_type="int8wo")
    block["configuration"]["component_type"] = "transformers.CLIPTokenizer"
    problems = bench.problems(drawing(steps=[step(tokenizer=block)]))
    place = "steps[0].pipeline.tokenizer.configuration.component_type"
    assert "a model class is needed here" in problems[place]


def test_missing_quantiser_is_reported_with_command(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sdnq", None)
    document = quantised("sdnq.SDNQConfig", weights_dtype="{int8}")
    document["steps"][0]["pipeline"]["configuration"]["pre_load_modules"] = ["sdnq"]
    problems = bench.problems(document)
    assert problems == {
        f"{UNET}.configuration.config_type": "SDNQConfig needs sdnq, which is not installed."
        " Add it with: pip install sdnq==0.2.8",
        "steps[0].pipeline.configuration.pre_load_modules[0]": "'sdnq' is not installed."
        " Add it with: pip install sdnq==0.2.8",
    }


def test_pre_load_modules_must_be_quantisers(bench: Bench):
    document = drawing(steps=[step()])
    configuration = document["steps"][0]["pipeline"]["configuration"]
    configuration["pre_load_modules"] = ["sdnq", "antigravity"]
    place = "steps[0].pipeline.configuration.pre_load_modules[1]"
    assert "'antigravity' is not a module that may be loaded" in bench.problems(document)[place]


def test_all_weight_types_of_sdnq_are_known():
    common = pytest.importorskip("sdnq.common")
    assert sdnq_types() == common.accepted_weight_dtypes


@pytest.mark.parametrize("config_type", QUANTISERS)
def test_defaults_equal_those_of_library(config_type: str):
    """Another default here would be another quantisation there."""
    diffusers, sdnq = pytest.importorskip("diffusers"), pytest.importorskip("sdnq")
    quantiser = QUANTISERS[config_type]
    home = sdnq if quantiser.kind == "sdnq" else diffusers
    import inspect

    theirs = inspect.signature(getattr(home, config_type).__init__).parameters
    for name, field in quantiser.arguments.model_fields.items():
        assert name in theirs
        default = theirs[name].default
        if default is not inspect.Parameter.empty and default is not None:
            assert field.default == default, name


def test_package_without_parent_is_missing():
    assert Package("no_such_package.part", "no-such-package").is_missing


def test_equal_quantisations_have_equal_json():
    quantiser = QUANTISERS["BitsAndBytesConfig"]
    one = quantisation(quantiser, {"load_in_4bit": True, "llm_int8_threshold": 5})
    other = quantisation(quantiser, {"llm_int8_threshold": 5.0, "load_in_4bit": True})
    assert one.model_dump_json() == other.model_dump_json()


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"quant_method": "sdnq"}, "The unet is quantised with sdnq, which is not installed."),
        ({"quant_method": "awq"}, "The unet is quantised with 'awq', which is not supported."),
    ],
)
def test_published_quantised_weights_are_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stored: Document, said: str
):
    monkeypatch.setitem(sys.modules, "sdnq", None)
    folder = bench.model / "unet"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"quantization_config": stored}))
    place = "steps[0].pipeline.from_pretrained_arguments"
    assert said in bench.problems(drawing())[place]
    block = {
        "configuration": {"component_type": "UNet2DConditionModel"},
        "from_pretrained_arguments": {"model_name": MODEL, "subfolder": "unet"},
    }
    at_block = "steps[0].pipeline.unet.from_pretrained_arguments"
    assert said in bench.problems(drawing(steps=[step(unet=block)]))[at_block]


def test_sdnq_optimize_needs_sdnq(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sdnq", None)
    document = drawing(steps=[step()])
    document["steps"][0]["pipeline"]["configuration"]["sdnq_optimize"] = ["unet"]
    place = "steps[0].pipeline.configuration.sdnq_optimize"
    assert "pip install sdnq==0.2.8" in bench.problems(document)[place]


@pytest.mark.parametrize(
    "scheme",
    ["int4wo", "int4_weight_only", "Int4WeightOnlyConfig",
     "torchao.quantization.Float8DynamicActivationInt4WeightConfig"],
)  # fmt: skip
@pytest.mark.parametrize("modular", [False, True])
def test_package_of_int4_packing_is_reported(bench: Bench, scheme: str, modular: bool):
    document, at = quantised("TorchAoConfig", quant_type=scheme), f"{UNET}.arguments"
    if modular:
        block = unet("TorchAoConfig", quant_type=scheme)["quantization_config"]
        loading = {"quantization_config": {"transformer": block}}
        configuration = {"component_type": "ModularPipeline", "load_components": loading}
        document = drawing(steps=[step(configuration=configuration, arguments={})])
        where = "configuration.load_components.quantization_config.transformer"
        at = f"steps[0].pipeline.{where}.arguments"
    problems = bench.problems(document)
    assert list(problems) == [at]
    assert "needs mslk, which is not installed. Add it with: pip install mslk" in problems[at]


@pytest.mark.parametrize("scheme", ["int8wo", "int8dq", "float8wo", "IntxWeightOnlyConfig"])
def test_other_types_of_torchao_need_no_further_package(bench: Bench, scheme: str):
    assert read(bench, quantised("TorchAoConfig", quant_type=scheme)).kind == "torchao"
