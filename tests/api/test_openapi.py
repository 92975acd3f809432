"""The OpenAPI document, and the schemas of workflows' inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.openapi.models import OpenAPI
from jsonschema import Draft202012Validator

from app.api.openapi import openapi
from app.api.schemas import inputs_schema
from app.catalog.catalog import Catalog, CatalogEntry
from app.settings import PathSettings
from tests.api.test_rest import FEW, RUNS, run

ENTRIES = Catalog(PathSettings()).entries()
KINDS: dict[str, Any] = {
    "variables": {
        "text": "a", "number": 0.5, "whole": 3, "flag": True, "some": ["a", "b"], "settings": {},
        "image": None, "images_image": [], "size": "small", "anything": None, "seed": None,
    },
    "inputs": {
        "number": {"minimum": 0, "maximum": 1}, "size": {"choices": ["small", "large"]},
        "whole": {"label": "Whole", "help": "A number."},
    },
    "steps": [
        {"name": "a", "result": {"content_type": "image/png"},
         "task": {"command": "qr_code", "arguments": {"qr_code_contents": "variable:text"}}},
    ],
}  # fmt: skip


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """Returns the validator of a schema in the document."""
    return Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_defaults_of_a_workflow_fit_its_schema(entry: CatalogEntry) -> None:
    schema = inputs_schema(entry)
    Draft202012Validator.check_schema(schema)
    defaults = {spec.name: spec.default for spec in entry.inputs if spec.media is None}
    given = dict.fromkeys(schema.get("required", ()), "https://example.org/a.png")
    assert [*Draft202012Validator(schema).iter_errors({**defaults, **given})] == []


def test_schema_of_each_kind(tmp_path: Path) -> None:
    (tmp_path / "kinds.json").write_text(json.dumps({"id": "kinds", **KINDS}))
    entry = Catalog(PathSettings(workflows=(tmp_path,))).find("kinds")
    found = inputs_schema(entry)["properties"]
    types = {name: each.get("type", each.get("enum")) for name, each in found.items()}
    assert types == {
        "text": "string", "number": "number", "whole": "integer", "flag": "boolean",
        "some": "array", "settings": "object", "image": ["string", "null"],
        "images_image": "array", "size": ["small", "large"], "anything": None,
        "seed": ["integer", "null"],
    }  # fmt: skip
    assert (found["number"]["minimum"], found["number"]["maximum"]) == (0, 1)
    assert (found["whole"]["title"], found["whole"]["description"]) == ("Whole", "A number.")


def test_document_is_openapi_and_has_every_workflow(rest: httpx.Client) -> None:
    document = rest.get("/v1/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    OpenAPI.model_validate(document)
    for entry in ENTRIES:
        assert f"/v1/workflows/{entry.name}/runs" in document["paths"]
    names = [
        each["operationId"]
        for path in document["paths"].values()
        for each in path.values()
        if "operationId" in each
    ]
    assert len(names) == len(set(names))
    for ref in _refs(document):
        found = document
        for key in ref.removeprefix("#/").split("/"):
            found = found[key]


def test_answers_and_bodies_fit_the_document(rest: httpx.Client) -> None:
    document = rest.get("/v1/openapi.json").json()
    operation = document["paths"][RUNS]["post"]
    body = validator(document, operation["requestBody"]["content"]["application/json"]["schema"])
    assert body.is_valid({"inputs": FEW, "seed": 7, "fresh": False, "changes": {}})
    for wrong in ({"inputs": {"steps": 100}}, {"inputs": {"colour": "red"}}, {"input": {}}):
        assert not body.is_valid(wrong)
        assert rest.post(RUNS, json=wrong).status_code in {400, 422}

    def answer(status: int) -> Draft202012Validator:
        content = operation["responses"][str(status)]["content"]["application/json"]
        return validator(document, content["schema"])

    assert [*answer(200).iter_errors(run(rest, inputs=FEW, seed=7))] == []
    failed = rest.post(RUNS, json={"inputs": {"steps": 100}})
    assert [*answer(failed.status_code).iter_errors(failed.json())] == []


def test_document_names_workflows_of_any_script(tmp_path: Path) -> None:
    (tmp_path / "Ein Bär.json").write_text(json.dumps({"id": "bear", **KINDS}))
    entries = Catalog(PathSettings(workflows=(tmp_path,))).entries()
    document = openapi(entries, "/draw")
    OpenAPI.model_validate(document)
    assert "/v1/workflows/ein-bär/runs" in document["paths"]
    assert document["servers"] == [{"url": "/draw"}]
    assert all(name.isascii() for name in document["components"]["schemas"])


def _refs(value: Any) -> list[str]:
    if isinstance(value, list):
        return [ref for each in value for ref in _refs(each)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [ref for each in value.values() for ref in _refs(each)]
