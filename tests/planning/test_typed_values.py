"""Typed values are literal: they refer to nothing, name no class and open no file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.dialect.plan_values import FileValue, LiteralValue
from app.errors import InvalidInputs
from tests.plan_bench import MODEL, Bench, drawing, step, sub, told

HOSTILE = [
    "variable:steps",
    "previous_result:draw",
    "constant:os.environ",
    "constant:torch.float16",
    "{latent}",
    "torch.float16",
    "/etc/passwd",
    "https://example.org/a.png",
]


def with_variable(name: str, default: Any, **changes: Any) -> dict[str, Any]:
    """Returns a document with one more variable."""
    return drawing(variables={**drawing()["variables"], name: default}, **changes)


def with_picture(**changes: Any) -> dict[str, Any]:
    arguments = {"prompt": "variable:prompt", "ip_adapter_image": "variable:image"}
    return with_variable("image", None, steps=[step(arguments=arguments)], **changes)


@pytest.mark.parametrize("text", HOSTILE)
def test_typed_text_is_literal(bench: Bench, text: str):
    plan = bench.plan(drawing(), prompt=text)
    assert plan.steps[0].arguments["prompt"] == LiteralValue(value=text)


@pytest.mark.parametrize("typed", ["np", "{np}"])
def test_escaped_name_may_be_typed_with_or_without_braces(bench: Bench, typed: str):
    document = drawing(
        variables={"prompt": "a fox", "steps": 2, "made_as": "{pil}"},
        steps=[
            step(
                arguments={
                    "prompt": "variable:prompt",
                    "num_inference_steps": "variable:steps",
                    "output_type": "variable:made_as",
                }
            )
        ],
    )
    [planned] = bench.plan(document, made_as=typed).steps
    assert planned.arguments["output_type"] == LiteralValue(value="np")


@pytest.mark.parametrize("text", HOSTILE)
def test_typed_text_is_literal_in_sub_workflow(bench: Bench, text: str):
    bench.write(drawing(), "child.json")
    document = drawing(steps=[sub("child.json", prompt="variable:prompt")])
    plan = bench.plan(document, prompt=text)
    assert plan.steps[0].arguments["prompt"] == LiteralValue(value=text)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_in_typed_list_are_literal(bench: Bench, text: str):
    document = with_variable("words", [], steps=[step(arguments={"prompt": "variable:words"})])
    plan = bench.plan(document, words=["a", text])
    assert plan.steps[0].arguments["prompt"] == LiteralValue(value=["a", text])


@pytest.mark.parametrize("text", HOSTILE)
def test_typed_arguments_object_is_literal(bench: Bench, text: str):
    default = {"prompt": "a circle"}
    document = with_variable("given", default, steps=[step(arguments="variable:given")])
    plan = bench.plan(document, given={"prompt": text})
    assert plan.steps[0].arguments == {"prompt": LiteralValue(value=text)}


def test_default_of_document_may_refer(bench: Bench):
    document = with_variable(
        "picture",
        "previous_result:draw",
        steps=[step(), step("again", arguments={"ip_adapter_image": "variable:picture"})],
    )
    assert bench.plan(document).steps[1].arguments["ip_adapter_image"].type == "result"


# --- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FluxPipeline", "os.system", "StableDiffusionImg2ImgPipeline"])
@pytest.mark.parametrize(
    ("default", "configuration"),
    [
        ("StableDiffusionPipeline", {"component_type": "variable:chosen"}),
        ({"component_type": "StableDiffusionPipeline"}, "variable:chosen"),
    ],
    ids=["the name", "the block around it"],
)
def test_input_cannot_choose_pipeline(bench: Bench, default: Any, configuration: Any, name: str):
    document = with_variable("chosen", default, steps=[step(configuration=configuration)])
    assert bench.plan(document).steps[0].pipeline_class == "diffusers.StableDiffusionPipeline"
    typed = name if isinstance(default, str) else {"component_type": name}
    error = bench.refused(document, chosen=typed)
    assert isinstance(error, InvalidInputs)
    assert told(error) == {"inputs.chosen": "An input cannot choose a class."}


def test_input_cannot_choose_scheduler_or_component(bench: Bench):
    document = drawing(
        variables={**drawing()["variables"], "scheduler": "DDIMScheduler", "vae": "AutoencoderKL"},
        steps=[
            step(
                scheduler={"configuration": {"scheduler_type": "variable:scheduler"}},
                vae={
                    "configuration": {"component_type": "variable:vae"},
                    "from_pretrained_arguments": {"model_name": MODEL},
                },
            )
        ],
    )
    assert len(bench.plan(document).steps) == 1
    assert bench.problems(document, scheduler="EulerDiscreteScheduler", vae="AutoencoderTiny") == {
        "inputs.scheduler": "An input cannot choose a class.",
        "inputs.vae": "An input cannot choose a class.",
    }


# --- models --------------------------------------------------------------------------------------


def model_by_input() -> dict[str, Any]:
    return with_variable(
        "model", MODEL, steps=[step(from_pretrained_arguments={"model_name": "variable:model"})]
    )


@pytest.mark.parametrize("path", ["/etc", "..", "../media", "~/x", "../models/../media"])
def test_typed_model_outside_model_folders_is_refused(bench: Bench, path: str):
    error = bench.refused(model_by_input(), model=path)
    assert isinstance(error, InvalidInputs)
    assert list(told(error)) == ["inputs.model"]


def test_link_out_of_models_folder_is_not_followed(bench: Bench, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model_index.json").write_text("{}")
    (bench.model.parent / "link").symlink_to(outside)
    assert bench.problems(model_by_input(), model="../models/link") == {
        "inputs.model": "'../models/link' lies outside the folders of models."
    }


def test_typed_model_in_model_folders_is_accepted(bench: Bench):
    other = bench.model.with_name("other")
    other.mkdir()
    (other / "model_index.json").write_text("{}")
    plan = bench.plan(model_by_input(), model="../models/other")
    assert plan.steps[0].source.folder == str(other.resolve())
    assert bench.plan(model_by_input(), model="owner/name").steps[0].source.folder is None


def test_typed_loading_arguments_cannot_name_outside_model(bench: Bench, tmp_path: Path):
    (tmp_path / "model_index.json").write_text("{}")
    document = with_variable(
        "loading", {"model_name": MODEL}, steps=[step(from_pretrained_arguments="variable:loading")]
    )
    assert bench.problems(document, loading={"model_name": str(tmp_path)}) == {
        "inputs.loading": f"'{tmp_path}' lies outside the folders of models."
    }


def test_missing_typed_model_suggests_nearest(bench: Bench):
    error = bench.refused(model_by_input(), model="../models/tinny")
    assert isinstance(error, InvalidInputs)
    assert told(error) == {
        "inputs.model": "There is no model folder '../models/tinny'. Did you mean 'tiny'?"
    }


def test_impossible_typed_model_name_is_refused(bench: Bench):
    assert list(bench.problems(model_by_input(), model="x" * 300)) == ["inputs.model"]


# --- pictures ------------------------------------------------------------------------------------


def test_uploaded_image_is_accepted(bench: Bench):
    file = bench.picture()
    value = bench.plan(with_picture(), image=str(file)).steps[0].arguments["ip_adapter_image"]
    assert isinstance(value, FileValue)
    assert value.path == str(file.resolve())


@pytest.mark.parametrize("path", ["/etc/passwd", "../media/x.png", "x.png", "\0", "~/a.png"])
def test_image_that_is_not_an_upload_is_refused(bench: Bench, path: str):
    bench.picture("x.png", bench.workflows)
    error = bench.refused(with_picture(), image=path)
    assert isinstance(error, InvalidInputs)
    assert list(told(error)) == ["inputs.image"]


def test_link_out_of_uploads_is_not_followed(bench: Bench, tmp_path: Path):
    outside = bench.picture("secret.png", tmp_path)
    link = bench.media / "link.png"
    link.symlink_to(outside)
    assert list(bench.problems(with_picture(), image=str(link))) == ["inputs.image"]


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "in a location"])
def test_typed_text_used_as_image_must_be_an_upload(bench: Bench, wrapped: bool):
    # The variable's name means text; its use means an image.
    used = {"location": "variable:photo"} if wrapped else "variable:photo"
    document = with_variable("photo", "", steps=[step(arguments={"ip_adapter_image": used})])
    assert bench.plan(document, photo=str(bench.picture())).steps
    for path in ("/etc/passwd", str(bench.picture("beside.png", bench.workflows)), "beside.png"):
        error = bench.refused(document, photo=path)
        assert isinstance(error, InvalidInputs)
        assert list(told(error)) == ["inputs.photo"]


def png_of_size(width: int, height: int) -> bytes:
    """Returns the beginning of a PNG with this size in its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.png", b"no picture at all", "'a.png' cannot be read as a picture"),
        ("a.png", b"", "'a.png' cannot be read as a picture"),
        ("a.png", png_of_size(9000, 9000), "'a.png' has 9000x9000 pixels; 32 million fit"),
        ("a.png", png_of_size(60000, 60000), "'a.png' has 60000x60000 pixels; 32 million fit"),
        ("a.txt", b"text", "'a.txt' cannot be read as a picture"),
        ("a.svg", b"<svg/>", "'a.svg' cannot be read as a picture"),
    ],
    ids=["text", "empty", "large", "a bomb", "txt", "svg"],
)
def test_non_image_upload_is_refused_at_its_input(
    bench: Bench, name: str, content: bytes, sentence: str
):
    file = bench.media / name
    file.write_bytes(content)
    error = bench.refused(with_picture(), image=str(file))
    assert isinstance(error, InvalidInputs)
    assert list(told(error)) == ["inputs.image"]
    assert told(error)["inputs.image"].startswith(sentence)


def test_damaged_png_is_refused(bench: Bench):
    file = bench.picture()
    content = bytearray(file.read_bytes())
    content[-20] ^= 0xFF
    file.write_bytes(content)
    assert list(bench.problems(with_picture(), image=str(file))) == ["inputs.image"]


def test_missing_image_is_mistake_of_input(bench: Bench):
    error = bench.refused(with_picture(), image=str(bench.media / "gone.png"))
    assert isinstance(error, InvalidInputs)
    assert list(told(error)) == ["inputs.image"]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".PNG"])
def test_usual_image_formats_are_accepted(bench: Bench, suffix: str):
    file = bench.media / f"upload{suffix}"
    Image.new("RGB", (8, 8), "red").save(file)
    assert bench.plan(with_picture(), image=str(file)).steps


# --- values that a plan could not carry ----------------------------------------------------------


@pytest.mark.parametrize("default", ["", [], {}], ids=["text", "list", "object"])
def test_lone_surrogate_is_refused(bench: Bench, default: Any):
    typed = {"": "\ud800", "[]": ["\ud800"], "{}": {"a": "\ud800"}}[str(default)]
    document = with_variable("words", default)
    assert list(bench.problems(document, words=typed)) == ["inputs.words"]


@pytest.mark.parametrize("default", [[], {}], ids=["list", "object"])
def test_endlessly_nested_value_is_refused(bench: Bench, default: Any):
    deep: Any = []
    for _ in range(700):
        deep = [deep]
    typed = deep if isinstance(default, list) else {"a": deep}
    assert list(bench.problems(with_variable("words", default), words=typed)) == ["inputs.words"]
