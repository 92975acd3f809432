"""Inputs that take the name of a model: the catalog lists those that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.api.schemas import inputs_schema
from app.catalog.catalog import Catalog
from app.dialect.inputs import InputSpec
from app.errors import InvalidWorkflow
from tests.plan_bench import Bench, drawing

KINDS = ("checkpoints", "loras", "vae")


def choosing(kind: str, **block: Any) -> dict[str, Any]:
    """Returns a document whose input takes the name of such a model."""
    return drawing(
        variables={"prompt": "a fox", "steps": 2, "model": None},
        inputs={"model": {"models": kind, **block}},
    )


def spec(bench: Bench) -> InputSpec:
    entry = Catalog(bench.paths).find("flow")
    return next(each for each in entry.inputs if each.name == "model")


def put(bench: Bench, *names: str) -> None:
    for name in names:
        file = bench.paths.models[0] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_models_are_listed_and_follow_the_folder(bench: Bench, kind: str):
    bench.write(choosing(kind))
    assert spec(bench).choices == ()
    put(bench, f"{kind}/ink.safetensors", f"{kind}/style/Chalk.safetensors", "other/no.safetensors")
    assert spec(bench).kind == "model"
    assert spec(bench).choices == ("ink", "style/Chalk")
    Path(bench.paths.models[0], kind, "ink.safetensors").unlink()
    assert spec(bench).choices == ("style/Chalk",)


def test_two_models_of_one_name_are_listed_with_their_folders(bench: Bench):
    bench.write(choosing("loras"))
    put(bench, "loras/ink.safetensors", "LyCORIS/ink.safetensors", "Lora/chalk.safetensors")
    assert spec(bench).choices == ("chalk", "loras/ink", "LyCORIS/ink")


def test_workflow_that_needs_a_model_is_ready_once_there_is_one(bench: Bench):
    bench.write(choosing("checkpoints", required=True))
    entry = Catalog(bench.paths).find("flow")
    assert (entry.ready, entry.availability) == (False, "needs a file in models/checkpoints")
    put(bench, "Stable-diffusion/dream.safetensors")
    assert Catalog(bench.paths).find("flow").availability != entry.availability


def test_other_name_than_the_listed_ones_may_be_given(bench: Bench):
    document = choosing("loras")
    put(bench, "loras/ink.safetensors")
    assert bench.plan(document, model="elsewhere/name").steps


def test_schema_for_programs_has_the_names_as_examples(bench: Bench):
    bench.write(choosing("loras"))
    put(bench, "loras/ink.safetensors")
    schema = inputs_schema(Catalog(bench.paths).find("flow"))
    assert schema["properties"]["model"]["examples"] == ["ink"]
    assert "enum" not in schema["properties"]["model"]


@pytest.mark.parametrize(
    ("variable", "block", "wrong"),
    [
        (None, {"kind": "model"}, "goes with 'models'"),
        (None, {"kind": "text", "models": "loras"}, "goes with 'models'"),
        (5, {"models": "loras"}, "is a text, not 5"),
    ],
)
def test_contradictory_block_is_refused(bench: Bench, variable: Any, block: Any, wrong: str):
    document = drawing(variables={"prompt": "a fox", "model": variable}, inputs={"model": block})
    with pytest.raises(InvalidWorkflow, match=wrong):
        bench.plan(document)
