"""Textual inversions are planned, and refused by what is in their files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from app.planning.planner import make_plan
from app.settings import PathSettings
from tests.plan_bench import Bench, Document, drawing, step

AT = "steps[0].pipeline.textual_inversions"
ALLOWED = "Put a safetensors file of its name beside it, or start with --allow-pickles."
OF_FAMILY = "Take one that was made for a model of this family."


def inversion(file: Path, **shapes: list[int]) -> Path:
    """Writes a safetensors file with zeros of these shapes."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return file


def with_inversions(*blocks: Document, **changes: Any) -> Document:
    return drawing(steps=[step(textual_inversions=list(blocks), **changes)])


def encoder(bench: Bench, name: str, width: int, *words: str) -> None:
    """Gives the model a CLIP text encoder of this width, whose tokenizer knows these words."""
    folder = bench.model / name
    folder.mkdir()
    config = {"model_type": "clip_text_model", "hidden_size": width}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = bench.model / name.replace("text_encoder", "tokenizer")
    tokenizer.mkdir()
    vocabulary = {word: number for number, word in enumerate(words)}
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))


@pytest.mark.parametrize(
    ("block", "file"),
    [
        ({"model_name": "./styles", "weight_name": "a b.safetensors"}, "a b.safetensors"),
        ({"model_name": "./styles/a b.safetensors"}, "a b.safetensors"),
        ({"model_name": "./styles/a b.pt"}, "a b.safetensors"),
        ({"model_name": ".\\styles\\a b.safetensors"}, "a b.safetensors"),
        ({"model_name": "./", "subfolder": "styles", "weight_name": "a b.safetensors"},
         "styles/a b.safetensors"),
        ({"model_name": "./alone"}, "only.safetensors"),
        ({"model_name": "./usual"}, "learned_embeds.safetensors"),
    ],
)  # fmt: skip
def test_inversion_is_named_by_file_or_folder(bench: Bench, block: Document, file: str):
    inversion(bench.workflows / "styles" / "a b.safetensors", emb_params=[1, 8])
    inversion(bench.workflows / "styles" / "other.safetensors", emb_params=[1, 8])
    inversion(bench.workflows / "alone" / "only.safetensors", emb_params=[1, 8])
    inversion(bench.workflows / "usual" / "learned_embeds.safetensors", ink=[1, 8])
    inversion(bench.workflows / "usual" / "more.safetensors", ink=[1, 8])
    (planned,) = bench.plan(with_inversions({**block, "token": "<ink>"})).steps
    (found,) = planned.textual_inversions
    assert (found.source.file, found.token) == (file, "<ink>")
    assert (Path(found.source.folder) / file).is_file()


@pytest.mark.parametrize(
    ("block", "file"),
    [
        ({"model_name": "owner/ink"}, "learned_embeds.safetensors"),
        ({"model_name": "owner/ink", "weight_name": "a.bin"}, "a.safetensors"),
        ({"model_name": "owner/ink/sub/a.safetensors"}, None),
        ({"model_name": "owner/ink/a.safetensors"}, "a.safetensors"),
        ({"model_name": "owner/ink", "subfolder": "b", "weight_name": "a.safetensors"},
         "b/a.safetensors"),
    ],
)  # fmt: skip
def test_inversion_of_the_hub_is_named_as_a_lora_is(
    bench: Bench, block: Document, file: str | None
):
    if file is None:
        assert bench.problems(with_inversions(block))
        return
    (planned,) = bench.plan(with_inversions(block)).steps
    (found,) = planned.textual_inversions
    assert (found.source.model, found.source.file, found.token) == ("owner/ink", file, None)


def test_pickle_is_refused_or_read_as_the_operator_says(bench: Bench):
    (bench.workflows / "ink.pt").write_bytes(b"PK\x03\x04")
    document = with_inversions({"model_name": "./ink.pt"})
    assert bench.problems(document) == {
        f"{AT}[0].weight_name": f"'ink.pt' may hold code and is not read. {ALLOWED}"
    }
    allowed = PathSettings(models=bench.paths.models, allow_pickles=True)
    (planned,) = make_plan(bench.write(document), {}, paths=allowed).steps
    assert planned.textual_inversions[0].source.file == "ink.pt"


@pytest.mark.parametrize("name", ["../a.safetensors", "/a.safetensors", "a.txt", ".a.safetensors"])
def test_name_that_is_not_plain_is_refused(bench: Bench, name: str):
    problems = bench.problems(with_inversions({"model_name": "./", "weight_name": name}))
    assert problems == {f"{AT}[0].weight_name": "A plain name ending in .safetensors is needed."}


def test_missing_file_suggests_nearest(bench: Bench):
    inversion(bench.workflows / "ink.safetensors", emb_params=[1, 8])
    problems = bench.problems(with_inversions({"model_name": "./inc.safetensors"}))
    assert "Did you mean 'ink.safetensors'?" in problems[f"{AT}[0].weight_name"]


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"a": [1, 8], "b": [1, 8]},
         "'x.safetensors' is not a textual inversion: its tensors are 'a', 'b'."),
        ({"a": [8, 8, 8]},
         "The tensors of 'x.safetensors' are not rows of embeddings, as those of a textual"
         " inversion are (a: [8, 8, 8])."),
        ({"clip_l": [1, 8], "clip_g": [2, 8]},
         "The tensors of 'x.safetensors' are not rows of embeddings"),
    ],
)  # fmt: skip
def test_other_file_is_refused(bench: Bench, shapes: dict[str, list[int]], told: str):
    inversion(bench.workflows / "x.safetensors", **shapes)
    problems = bench.problems(with_inversions({"model_name": "./x.safetensors"}))
    assert problems[f"{AT}[0].model_name"].startswith(told)


def test_damaged_file_is_refused(bench: Bench):
    (bench.workflows / "x.safetensors").write_text("<!DOCTYPE html>")
    problems = bench.problems(with_inversions({"model_name": "./x.safetensors"}))
    assert problems == {
        f"{AT}[0].model_name": (
            "'x.safetensors' cannot be read: 'x.safetensors' is not a safetensors file."
        )
    }


ONE, TWO = {"text_encoder": 8}, {"text_encoder": 8, "text_encoder_2": 12}


@pytest.mark.parametrize(
    ("encoders", "shapes", "told"),
    [
        (ONE, {"emb_params": [3, 12]},
         "'x.safetensors' has embeddings of 12 numbers; the text_encoder of this model needs 8."),
        (ONE, {"clip_l": [1, 8], "clip_g": [1, 12]},
         "'x.safetensors' has embeddings for the two text encoders of Stable Diffusion XL; this"
         " model has one."),
        (TWO, {"emb_params": [1, 8]},
         "'x.safetensors' has embeddings for one text encoder; this model has 2, for which a file"
         " has clip_l and clip_g."),
        (TWO, {"clip_l": [1, 8], "clip_g": [1, 8]},
         "'x.safetensors' has embeddings of 8 numbers; the text_encoder_2 of this model needs"
         " 12."),
        (ONE, {"emb_params": [3, 8]}, None),
        (ONE, {"<ink>": [8]}, None),
        (TWO, {"clip_l": [2, 8], "clip_g": [2, 12]}, None),
        # The refiner of Stable Diffusion XL.
        ({"text_encoder_2": 12}, {"clip_l": [2, 8], "clip_g": [2, 12]}, None),
    ],
)  # fmt: skip
def test_dimension_is_compared_with_that_of_the_model(
    bench: Bench, encoders: dict[str, int], shapes: dict[str, list[int]], told: str | None
):
    for name, width in encoders.items():
        encoder(bench, name, width)
    inversion(bench.workflows / "x.safetensors", **shapes)
    document = with_inversions({"model_name": "./x.safetensors"})
    if told is None:
        assert bench.plan(document).steps
    else:
        assert bench.problems(document) == {f"{AT}[0].model_name": f"{told} {OF_FAMILY}"}


def test_dimension_is_compared_with_that_of_the_documents_own_encoder(bench: Bench):
    encoder(bench, "text_encoder", 8)
    (bench.workflows / "mine").mkdir()
    config = {"model_type": "clip_text_model", "hidden_size": 4}
    (bench.workflows / "mine" / "config.json").write_text(json.dumps(config))
    inversion(bench.workflows / "x.safetensors", emb_params=[1, 8])
    own = {
        "configuration": {"component_type": "{transformers.CLIPTextModel}".strip("{}")},
        "from_pretrained_arguments": {"model_name": "./mine"},
    }
    document = with_inversions({"model_name": "./x.safetensors"}, text_encoder=own)
    (told,) = bench.problems(document).values()
    assert "needs 4." in told


def test_word_must_be_new(bench: Bench):
    encoder(bench, "text_encoder", 8, "circle", "red")
    inversion(bench.workflows / "circle.safetensors", emb_params=[1, 8])
    inversion(bench.workflows / "ink.safetensors", emb_params=[1, 8])
    named = [
        {"model_name": "./circle.safetensors"},
        {"model_name": "./ink.safetensors"},
        {"model_name": "./circle.safetensors", "token": "ink"},
        {"model_name": "./circle.safetensors", "token": "<circle>"},
    ]
    rename = "Give it another name with 'token'."
    assert bench.problems(with_inversions(*named)) == {
        f"{AT}[0].token": f"'circle' is a word that the model already knows. {rename}",
        f"{AT}[2].token": f"Two textual inversions are called 'ink'. {rename}",
    }


@pytest.mark.parametrize("kind", ["StableDiffusion3Pipeline", "ZImagePipeline"])
def test_pipeline_without_textual_inversions_is_told(bench: Bench, kind: str):
    document = with_inversions({"model_name": "a/b"}, configuration={"component_type": kind})
    assert bench.problems(document)[AT] == (
        f"{kind} takes no textual inversion. Leave 'textual_inversions' out."
    )


def test_unknown_key_is_refused(bench: Bench):
    problems = bench.problems(with_inversions({"model_name": "a/b", "tokn": "<x>"}))
    assert "Did you mean 'token'?" in problems[f"{AT}[0].tokn"]
