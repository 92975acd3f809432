"""The OpenAPI document of the REST interface, with every workflow's own inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from app import __version__
from app.api.bodies import FreeBody, RunBody
from app.api.errors import ErrorBody
from app.api.idempotency import MAX_KEY_LENGTH
from app.api.reports import RunReport
from app.api.schemas import Schema, inputs_schema
from app.catalog.catalog import CatalogEntry

JSON = "application/json"
FORM = "multipart/form-data"
COMPONENTS = "#/components/schemas/"
MODELS: tuple[type[BaseModel], ...] = (RunBody, FreeBody, RunReport, ErrorBody)
TEXT: Schema = {"type": "string"}
OBJECT: Schema = {"type": "object"}
ABOUT = (
    "Runs the workflows of this server. Send the token of DW_API_TOKEN (`Authorization: Bearer …`),"
    " the login's name and password (`Authorization: Basic …`) or its cookie; a page of this"
    " machine without a password needs none of them."
)
ERRORS = {
    400: "The body cannot be read.",
    401: "Not logged in.",
    403: "Not allowed.",
    404: "There is none of this name.",
    413: "Too many bytes.",
    422: "The request is wrong; `problems` has all mistakes.",
    429: "Too many of your runs are waiting.",
    503: "Too many runs are waiting, or the server ends.",
}


def openapi(entries: Iterable[CatalogEntry], root_path: str = "") -> dict[str, Any]:
    """Returns the document for these workflows."""
    usable = [entry for entry in entries if entry.problem is None]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Diffusers Workbench", "version": __version__, "description": ABOUT},
        "servers": [{"url": root_path or "/"}],
        "security": [{}, {"token": []}, {"login": []}],
        "paths": _paths(usable),
        "components": {
            "schemas": {
                **_models(),
                "Error": {
                    "type": "object",
                    "properties": {"error": _ref("ErrorBody")},
                    "required": ["error"],
                },
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "login": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _paths(entries: Iterable[CatalogEntry]) -> dict[str, Any]:
    run = {"name": "run_id", "in": "path", "required": True, "schema": TEXT}
    result = {**run, "name": "id"}
    name = {**run, "name": "name"}
    last = {"name": "Last-Event-ID", "in": "header", "schema": TEXT,
            "description": "The id of the last event that came."}  # fmt: skip
    events = {"200": _content("text/event-stream", TEXT, "One event after another."),
              "204": {"description": "Nothing follows."}}  # fmt: skip
    file = _content("application/octet-stream", {}, "The bytes.")
    report = _content(JSON, _ref("RunReport"), "The run.")
    return {
        "/v1/workflows": {"get": _operation("List the workflows", {"200": _object("All.")})},
        "/v1/workflows/{name}": {
            "get": _operation(
                "Describe a workflow", {"200": _object("The workflow.")}, (404,), [name]
            )
        },
        "/v1/workflows/{name}/runs": {
            "post": _run("Run a workflow", "run", [name], _ref("RunBody"), None)
        },
        **{
            f"/v1/workflows/{entry.name}/runs": {"post": _run_of(entry)} for entry in entries
        },
        "/v1/runs/{run_id}": {
            "get": _operation("Report a run", {"200": report}, (400, 404), [run, WAIT]),
            "delete": _operation("Cancel a run", {"200": report, "202": report}, (404,), [run]),
        },
        "/v1/runs/{run_id}/events": {
            "get": _operation("Follow a run", events, (404,), [run, last])
        },
        "/v1/results/{id}": {"get": _operation("Get a result", {"200": file}, (404,), [result])},
        "/v1/results/{id}/record": {
            "get": _operation("Get its record", {"200": _object("The record.")}, (404,), [result])
        },
        "/v1/status": {"get": _operation("Report the server", {"200": _object("Its state.")})},
        "/v1/free": {
            "post": _operation("Free the memory", {"200": _object("What was freed.")}, (400, 403))
            | {"requestBody": {"content": {JSON: {"schema": _ref("FreeBody")}}}}
        },
    }  # fmt: skip


WAIT: Schema = {
    "name": "wait",
    "in": "query",
    "schema": {"type": "number", "minimum": 0, "maximum": 600, "default": 0},
    "description": "Seconds to wait for the run's end.",
}


KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
    "description": "The same request with the same key is answered with the same run.",
}


def _run_of(entry: CatalogEntry) -> dict[str, Any]:
    inputs = inputs_schema(entry)
    # Not a named component: those have no letters beyond ASCII.
    body = {"allOf": [_ref("RunBody")], "properties": {"inputs": inputs}}
    body |= {"required": ["inputs"]} if "required" in inputs else {}
    files = {spec.name: _file(spec.default) for spec in entry.inputs if spec.media is not None}
    common = {name: {"$ref": f"{COMPONENTS}RunBody/properties/{name}"}
              for name in RunBody.model_fields}  # fmt: skip
    form = {"type": "object", "properties": {**common, **inputs["properties"], **files}}
    operation = _run(entry.title, f"run_{entry.name.replace('-', '_')}", [], body, form)
    return {**operation, "description": entry.description} if entry.description else operation


def _file(default: Any) -> Schema:
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    return {"type": "array", "items": file} if isinstance(default, list) else file


def _run(
    summary: str, name: str, parameters: list[Schema], body: Schema, form: Schema | None
) -> dict[str, Any]:
    answers = {
        "200": _content(JSON, _ref("RunReport"), "It has ended; see its state."),
        "202": _content(JSON, _ref("RunReport"), "It is queued."),
    }
    operation = _operation(
        summary, answers, (400, 404, 413, 422, 429, 503), [*parameters, WAIT, KEY]
    )
    content = {JSON: {"schema": body}, FORM: {"schema": OBJECT if form is None else form}}
    return {**operation, "operationId": name, "requestBody": {"content": content}}


def _operation(
    summary: str,
    answers: Mapping[str, Any],
    errors: tuple[int, ...] = (),
    parameters: list[Schema] | None = None,
) -> dict[str, Any]:
    failed = {
        str(status): _content(JSON, _ref("Error"), ERRORS[status])
        for status in sorted({401, *errors})
    }
    told = {"summary": summary, "responses": {**answers, **failed}}
    return {**told, "parameters": parameters} if parameters else told


def _object(description: str) -> dict[str, Any]:
    return _content(JSON, OBJECT, description)


def _content(kind: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"{COMPONENTS}{name}"}


def _models() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for model in MODELS:
        schema = model.model_json_schema(ref_template=f"{COMPONENTS}{{model}}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found
