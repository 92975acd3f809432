"""Files of `from_single_file`: resolved while planning, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.dialect.files import safe_name
from app.dialect.installed.signatures import single_file_classes
from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import ModelSource
from app.dialect.quantisation import Quantisation
from app.errors import BadRequest
from app.models.needs import lines
from app.planning.planner import make_plan
from app.settings import PathSettings
from tests.plan_bench import MODEL, Bench, Document, drawing, step

NAMED = "steps[0].pipeline.unet.from_pretrained_arguments.from_single_file"
HUB = "https://huggingface.co"
PICKLE = b"PK\x03\x04 and more"


def from_file(file: Any, kind: str = "UNet2DConditionModel", **loading: Any) -> Document:
    """Returns a document whose UNet comes from this file."""
    block = {
        "configuration": {"component_type": kind},
        "from_pretrained_arguments": {"from_single_file": file, **loading},
    }
    return drawing(steps=[step(unet=block)])


def planned(bench: Bench, document: Document, **inputs: Any) -> PipelineStep:
    [found] = bench.plan(document, **inputs).steps
    assert isinstance(found, PipelineStep)
    return found


def source(bench: Bench, document: Document, **inputs: Any) -> ModelSource:
    return planned(bench, document, **inputs).components["unet"].source


@pytest.fixture
def file(bench: Bench) -> Path:
    path = bench.workflows / "unet.safetensors"
    save_file({"model.diffusion_model.a.weight": np.zeros((400, 500), np.float32)}, path)
    return path


def test_file_beside_workflow_is_found(bench: Bench, file: Path):
    found = source(bench, from_file("unet.safetensors"))
    assert (found.folder, found.file) == (str(file.parent), "unet.safetensors")
    assert found.short_name == "unet.safetensors"


def test_hub_file_is_named_by_url(bench: Bench):
    found = source(bench, from_file(f"{HUB}/owner/name/blob/main/sub/unet%201.safetensors"))
    assert found == ModelSource(model="owner/name", file="sub/unet 1.safetensors")
    old = source(bench, from_file(f"{HUB}/owner/name/resolve/v1/unet.safetensors"))
    assert old.revision == "v1"


def test_hub_file_may_be_in_models_folder(bench: Bench):
    file = bench.model.parent / "owner" / "name" / "unet.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF")
    found = planned(bench, from_file(f"{HUB}/owner/name/blob/main/unet.gguf")).components["unet"]
    assert found.source.folder == str(file.parent)
    # A GGUF file needs no quantisation block.
    assert found.quantisation == Quantisation(kind="gguf")


def test_pickle_means_safetensors_file_beside_it(bench: Bench, file: Path):
    file.with_suffix(".ckpt").touch()
    assert source(bench, from_file("unet.ckpt")).file == "unet.safetensors"
    on_the_hub = source(bench, from_file(f"{HUB}/owner/name/blob/main/unet.ckpt"))
    assert on_the_hub.file == "unet.safetensors"


def test_pickle_alone_is_refused_unless_allowed(bench: Bench):
    (bench.workflows / "unet.ckpt").write_bytes(PICKLE)
    document = from_file("unet.ckpt")
    assert bench.problems(document) == {
        NAMED: "'unet.ckpt' may hold code and is not read. Put a safetensors file of its name"
        " beside it, or start with --allow-pickles."
    }
    paths = PathSettings(models=(bench.model.parent,), allow_pickles=True)
    [found] = make_plan(bench.write(document), {}, paths=paths).steps
    assert isinstance(found, PipelineStep)
    assert found.components["unet"].source.file == "unet.ckpt"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("https://example.org/unet.safetensors", "not a file of the model hub"),
        (
            "http://huggingface.co/owner/name/blob/main/unet.safetensors",
            "not a file of the model hub",
        ),
        ("https://huggingface.co.example.org/o/n/blob/main/a.gguf", "not a file of the model hub"),
        (f"{HUB}/owner/name/blob/main/../../unet.gguf", "names no file of a model"),
        (f"{HUB}/owner/name/blob/main/unet.onnx", "neither a .safetensors nor a .gguf file"),
        ("file:///etc/passwd", "not a file of the model hub"),
        ("unet.safetensor", "neither a .safetensors nor a .gguf file"),
        ("une.safetensors", "Did you mean 'unet.safetensors'?"),
        (7, "The name of a file is needed, not 7."),
        ("a\0.gguf", "No file can have this name."),
    ],
)
def test_other_files_are_refused(bench: Bench, file: Path, named: Any, said: str):
    assert said in bench.problems(from_file(named))[NAMED]


def test_typed_file_must_be_in_model_folders(bench: Bench, tmp_path: Path, file: Path):
    outside = tmp_path / "outside.safetensors"
    outside.touch()
    document = from_file("variable:checkpoint")
    document["variables"] = {**document["variables"], "checkpoint": "unet.safetensors"}
    assert source(bench, document).file == "unet.safetensors"
    problems = bench.problems(document, checkpoint=str(outside))
    assert "lies outside the folders of models" in problems["inputs.checkpoint"]
    missing = bench.problems(document, checkpoint="/etc/no-such.safetensors")
    assert "lies outside the folders of models" in missing["inputs.checkpoint"]


def test_class_without_single_files_is_refused(bench: Bench, file: Path):
    problems = bench.problems(from_file("unet.safetensors", "transformers.T5EncoderModel"))
    assert "diffusers loads no T5EncoderModel from a single file." in problems[NAMED]
    assert "FluxTransformer2DModel" in single_file_classes()


def test_gguf_file_is_one_component_with_own_quantisation(bench: Bench):
    (bench.workflows / "unet.gguf").write_bytes(b"GGUF")
    document = from_file("unet.gguf")
    document["steps"][0]["pipeline"]["unet"]["quantization_config"] = {
        "configuration": {"config_type": "TorchAoConfig"},
        "arguments": {"quant_type": "int8wo"},
    }
    place = "steps[0].pipeline.unet.quantization_config"
    assert "quantised as a GGUF file is, and stays so" in bench.problems(document)[place]
    whole = drawing(steps=[step(from_pretrained_arguments={"from_single_file": "unet.gguf"})])
    at = "steps[0].pipeline.from_pretrained_arguments.from_single_file"
    assert "one component, not a whole pipeline" in bench.problems(whole)[at]


def test_config_is_for_single_files_only(bench: Bench, file: Path):
    named = planned(bench, from_file("unet.safetensors", config=MODEL, subfolder="unet"))
    config = named.components["unet"].config
    assert config is not None
    assert (config.folder, config.subfolder) == (str(bench.model), "unet")
    wrong = bench.problems(from_file("unet.safetensors", config="../models/none"))
    place = "steps[0].pipeline.unet.from_pretrained_arguments.config"
    assert "There is no model folder '../models/none'." in wrong[place]
    document = from_file("unet.safetensors")
    document["steps"][0]["pipeline"]["unet"]["from_pretrained_arguments"] = {
        "model_name": MODEL,
        "config": MODEL,
    }
    assert "'config' is for 'from_single_file' alone." in bench.problems(document)[place]


def test_weight_of_unknown_checkpoint_comes_from_header(bench: Bench, file: Path):
    save_file({"a.weight": np.zeros((400, 500), np.float32)}, file)
    whole = drawing(
        steps=[step(from_pretrained_arguments={"from_single_file": "unet.safetensors"})]
    )
    [told] = lines(bench.plan(whole), None)
    assert "800 kB of weights (checkpoint 800 kB)" in told


@pytest.mark.parametrize(
    ("name", "files", "chosen"),
    [
        ("a.gguf", [], "a.gguf"),
        ("sub/a.bin", ["sub/a.safetensors", "sub/a.bin"], "sub/a.safetensors"),
        ("a.bin", ["a.bin"], None),
        ("a.py", ["a.py", "a.safetensors"], None),
    ],
)
def test_only_files_without_code_are_read(name: str, files: list[str], chosen: str | None):
    assert safe_name(name, files) == chosen


def test_allowed_pickle_is_read_without_safetensors_file():
    assert safe_name("a.bin", ["a.bin"], allow_pickles=True) == "a.bin"
    assert safe_name("a.bin", ["a.safetensors"], allow_pickles=True) == "a.safetensors"


# --- content that is not what the name says ------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "beginning"),
    [
        (b"<!DOCTYPE html>\n<html>", "begins with '<!DOCTYPE html>.<html>'"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1", "begins with 'version https://git-lfs.'"),
        ((10**6).to_bytes(8, "little") + b"{", "begins with '@B......{'"),
    ],
    ids=["a saved page", "empty", "a pointer of Git LFS", "cut off"],
)
@pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
def test_file_that_is_none_of_weights_is_refused(
    bench: Bench, content: bytes, beginning: str, suffix: str
):
    (bench.workflows / f"page.{suffix}").write_bytes(content)
    kind = "GGUF" if suffix == "gguf" else suffix
    message = bench.problems(from_file(f"page.{suffix}"))[NAMED]
    assert message.startswith(f"'page.{suffix}' is not a {kind} file: it {beginning}"[:60])
    assert message.endswith("Download it again, or take another file.")


@pytest.mark.parametrize("lost", [1, 8])
def test_file_that_lacks_its_end_is_refused(bench: Bench, file: Path, lost: int):
    whole = file.read_bytes()
    file.write_bytes(whole[:-lost])
    assert bench.problems(from_file(file.name))[NAMED] == (
        f"'{file.name}' is cut off: {len(whole) - lost:,} of {len(whole):,} bytes are here."
        " Download it again."
    )


@pytest.mark.parametrize("name", ["unet.safetensors", "unet.SAFETENSORS", "unet.gguf"])
def test_pickle_under_another_name_is_refused(bench: Bench, name: str):
    (bench.workflows / name).write_bytes(PICKLE)
    assert "may hold code and is not read" in bench.problems(from_file(name))[NAMED]
    paths = PathSettings(models=(bench.model.parent,), allow_pickles=True)
    with pytest.raises(BadRequest, match="Give its name the suffix"):
        make_plan(bench.write(from_file(name)), {}, paths=paths)


def test_formats_under_each_others_names_are_told(bench: Bench, file: Path):
    (bench.workflows / "other.safetensors").write_bytes(b"GGUF and more")
    file.rename(bench.workflows / "other.gguf")
    assert bench.problems(from_file("other.safetensors"))[NAMED] == (
        "'other.safetensors' is a GGUF file, not a safetensors file. Give its name the suffix"
        " .gguf."
    )
    assert bench.problems(from_file("other.gguf"))[NAMED] == (
        "'other.gguf' is a safetensors file, not a GGUF file. Give its name the suffix"
        " .safetensors."
    )


@pytest.mark.parametrize("name", ["unet.SAFETENSORS", "unet.SafeTensors", "U.Net.Safetensors"])
def test_suffix_may_have_capitals(bench: Bench, file: Path, name: str):
    file.rename(bench.workflows / name)
    assert source(bench, from_file(name)).file == name


# --- checkpoints of another family ---------------------------------------------------------------

TENSORS = {
    "sd": {"model.diffusion_model.input_blocks.0.0.weight": (4, 4), "first_stage_model.a": (1,)},
    "sdxl": {
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (4,),
        "model.diffusion_model.input_blocks.0.0.weight": (4, 4),
    },
    "flux": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (4,),
        "guidance_in.in_layer.bias": (4,),
        "img_in.weight": (4, 64),
    },
}
"""Some of the tensors by which diffusers recognises a checkpoint, by family."""
WHOLE = "steps[0].pipeline.from_pretrained_arguments.from_single_file"


def whole(bench: Bench, family: str, pipeline: str) -> Document:
    """Returns a document that loads this pipeline from a checkpoint of the family."""
    tensors = {name: np.zeros(shape, np.float32) for name, shape in TENSORS[family].items()}
    save_file(tensors, bench.workflows / f"{family}.safetensors")
    made = step(configuration={"component_type": pipeline})
    made["pipeline"]["from_pretrained_arguments"] = {"from_single_file": f"{family}.safetensors"}
    return drawing(steps=[made])


@pytest.mark.parametrize(
    ("family", "pipeline", "said"),
    [
        ("sdxl", "StableDiffusionPipeline",
         "'sdxl.safetensors' is a Stable Diffusion XL model by its tensors;"
         " StableDiffusionPipeline takes a Stable Diffusion 1 or 2 model."
         " Name StableDiffusionXLPipeline as 'component_type', or take another file."),
        ("sd", "StableDiffusionXLPipeline", "Name StableDiffusionPipeline as 'component_type'"),
        ("sd", "FluxPipeline", "Name StableDiffusionPipeline as 'component_type'"),
        ("flux", "StableDiffusionXLPipeline", "'flux.safetensors' is a FLUX.1 model"),
        ("flux", "Flux2Pipeline", "Flux2Pipeline takes a FLUX.2 model"),
    ],
)  # fmt: skip
def test_checkpoint_of_another_family_is_refused(
    bench: Bench, family: str, pipeline: str, said: str
):
    assert said in bench.problems(whole(bench, family, pipeline))[WHOLE]


@pytest.mark.parametrize(
    ("family", "pipeline"),
    [("sd", "StableDiffusionPipeline"), ("sdxl", "StableDiffusionXLPipeline"),
     ("flux", "FluxPipeline"), ("sd", "StableDiffusionControlNetPipeline")],
)  # fmt: skip
def test_checkpoint_of_its_own_family_is_accepted(bench: Bench, family: str, pipeline: str):
    assert WHOLE not in dict.fromkeys(problems_of(bench, whole(bench, family, pipeline)))


def problems_of(bench: Bench, document: Document) -> list[str]:
    try:
        bench.plan(document)
    except BadRequest as error:
        return [problem.place for problem in error.problems]
    return []
