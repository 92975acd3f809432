"""The JSON Schema matches the typed document and the planner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.dialect.document import StepDocument, WorkflowDocument
from app.dialect.schema import text, workflow_schema
from app.errors import BadRequest
from app.planning.planner import make_plan
from app.settings import PROJECT, PathSettings
from tests.plan_bench import MODEL, Bench, drawing, step, sub

FILE = PROJECT / "docs" / "workflow.schema.json"
PIPELINE = "$.steps[0].pipeline"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = workflow_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def wrong(validator: Draft202012Validator, document: Any) -> Iterator[str]:
    """Returns the innermost places where the document does not fit."""
    for error in validator.iter_errors(document):
        found = [error]
        while found[0].context:
            found = sorted(found[0].context, key=lambda each: -len(each.absolute_path))
        yield found[0].json_path


def test_shipped_schema_is_current():
    assert FILE.read_text() == text(), (
        "run: python -m app.dialect.schema > docs/workflow.schema.json"
    )


def test_schema_has_every_document_key():
    schema = workflow_schema()
    assert schema["properties"].keys() == {*WorkflowDocument.model_fields, "$schema"}
    assert schema["$defs"]["StepDocument"]["properties"].keys() == set(StepDocument.model_fields)


def test_shipped_workflows_fit_schema(validator: Draft202012Validator, shipped_workflows: Path):
    files = sorted(shipped_workflows.rglob("*.json"))
    assert len(files) > 10
    assert {path.name: list(wrong(validator, json.loads(path.read_text()))) for path in files} == {
        path.name: [] for path in files
    }


def test_plannable_third_party_documents_fit_schema(
    validator: Draft202012Validator, real_workflows: Path, tmp_path: Path
):
    fitting = 0
    for path in sorted(real_workflows.rglob("*.json")):
        try:
            make_plan(path, {}, paths=PathSettings(models=(tmp_path,)))
        except BadRequest:
            continue
        assert list(wrong(validator, json.loads(path.read_text()))) == [], path.name
        fitting += 1
    assert fitting > 10


def test_schema_key_is_allowed_in_document(bench: Bench, validator: Draft202012Validator):
    document = drawing(**{"$schema": "../docs/workflow.schema.json"})
    assert bench.plan(document).warnings == ()
    assert list(wrong(validator, document)) == []


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"id": "x"}, "$"),
        (drawing(steps=[]), "$.steps"),
        (drawing(steps=[{"name": "none"}]), "$.steps[0]"),
        (drawing(steps=[step() | {"task": {"command": "x", "arguments": {}}}]), "$.steps[0]"),
        (drawing(steps=[step(configuration={"component_type": "X", "ofload": "model"})]),
         f"{PIPELINE}.configuration"),
        (drawing(steps=[step(configuration={"component_type": "X", "offload": "modle"})]),
         f"{PIPELINE}.configuration.offload"),
        (drawing(steps=[step(scheduler={"shift": -1})]), f"{PIPELINE}.scheduler.shift"),
        (drawing(steps=[step(mine={"from_pretrained_arguments": {}})]), f"{PIPELINE}.mine"),
        (drawing(seed=-1), "$.seed"),
        (drawing(inputs={"prompt": {"kind": "colour"}}), "$.inputs.prompt.kind"),
    ],
)  # fmt: skip
def test_schema_error_is_at_place_of_mistake(
    validator: Draft202012Validator, bench: Bench, document: Any, place: str
):
    assert list(wrong(validator, document)) == [place]
    bench.refused(document)


@pytest.mark.parametrize(
    "document",
    [
        drawing(seed="variable:steps"),
        drawing(steps=[step(configuration={"component_type": "X", "offload": "variable:steps"})]),
        drawing(steps=[step(scheduler={"shift": "variable:steps"})]),
        drawing(steps=[step() | {"editor": {"x": 1}}], tool="other"),
        drawing(steps=[sub("child.json", prompt={"location": "a.png"})]),
        drawing(steps=[step(vae={"configuration": {"component_type": "AutoencoderKL"},
                                 "from_pretrained_arguments": {"model_name": MODEL}})]),
    ],
    ids=["seed", "offload", "shift", "other software", "sub-workflow", "component"],
)  # fmt: skip
def test_schema_allows_variables_and_open_keys(validator: Draft202012Validator, document: Any):
    assert list(wrong(validator, document)) == []
