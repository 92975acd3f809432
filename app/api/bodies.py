"""Bodies of requests: JSON, or a form with files, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from app.api.json_body import RefusedBody, read
from app.api.state import FreeMode
from app.errors import BodyTooLarge, MalformedBody, Problem
from app.mistakes import in_words
from app.units import size

MAX_FILES = 16
"""In one form."""
MAX_FIELDS = 200
MAX_FIELD_BYTES = 1_000_000
MAX_PROBLEMS = 20
RUN_FIELDS = ("inputs", "seed", "changes", "fresh", "webhook")
"""Fields of a form that are not inputs; `inputs.NAME` is always one."""
Keep = Callable[[bytes, str], Path]
"""Keeps a sent file under a name like this; returns its path."""


class RunBody(BaseModel):
    """The body of a request for a run."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )

    inputs: dict[str, Any] = Field(default_factory=dict)
    """Values by the names of the workflow's inputs; the others have their defaults."""
    seed: int | None = None
    """Without one, a seed is drawn."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Values of the workflow's document that are replaced in this run, by JSON pointer."""
    fresh: bool = False
    """True to run an identical earlier request again."""
    webhook: str | None = None
    """URL to which the end of the run is reported."""


class FreeBody(BaseModel):
    """The body of a request to free memory."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )

    mode: FreeMode = "when_idle"
    """`cancel_and_free` cancels the current run first."""


async def run_body(request: Request, keep: Keep, max_file_bytes: int) -> RunBody:
    """Returns the request's body, its files kept, as paths.

    Raises MalformedBody with all problems, and BodyTooLarge.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        given = await _form(request, keep, 4 * max_file_bytes)
    else:
        given = await json_body(request, 2 * max_file_bytes)
    try:
        return RunBody.model_validate(given)
    except ValidationError as error:
        raise malformed(error) from None


def content_type(request: Request) -> str:
    """Returns the type of the request's body, without parameters; "" for none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request, max_bytes: int) -> dict[str, Any]:
    """Returns the JSON object in the request's body; an empty one for none. Raises MalformedBody
    and BodyTooLarge."""
    body = b"".join([chunk async for chunk in _bounded(request, max_bytes)])
    if not body:
        return {}
    kind = content_type(request)
    if kind != "application/json":
        raise MalformedBody(
            f"The body is '{kind}'.",
            hint="Send JSON, with the header Content-Type: application/json, or a form with files.",
        )
    try:
        return await asyncio.to_thread(read, body)
    except RefusedBody as error:
        raise MalformedBody(str(error)) from None


def malformed(error: ValidationError) -> MalformedBody:
    """Returns the error for a body of another form, with all problems."""
    problems = []
    for each in error.errors()[:MAX_PROBLEMS]:
        message, hint = in_words(each)
        place = ".".join(map(str, each["loc"]))
        problems.append(Problem(place=place, message=message, hint=hint))
    return MalformedBody("The body of the request cannot be read.", problems)


async def form_items(request: Request, keep: Keep, max_bytes: int) -> list[tuple[str, str | Path]]:
    """Returns the names and values of a form (multipart/form-data), its files kept, as paths.

    Raises MalformedBody and BodyTooLarge.
    """
    parser = MultiPartParser(
        request.headers, _bounded(request, max_bytes), max_files=MAX_FILES, max_fields=MAX_FIELDS,
        max_part_size=MAX_FIELD_BYTES,
    )  # fmt: skip
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedBody(f"The form cannot be read: {error.message}") from None
    items: list[tuple[str, str | Path]] = []
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                content = await value.read()
                kept = await asyncio.to_thread(keep, content, value.filename or "")
                items.append((name, kept))
            else:
                items.append((name, value))
    finally:
        await form.close()
    return items


async def _form(request: Request, keep: Keep, max_bytes: int) -> dict[str, Any]:
    """Returns the fields of a form as a JSON body has them."""
    given: dict[str, Any] = {}
    inputs: dict[str, list[Any]] = {}
    for name, value in await form_items(request, keep, max_bytes):
        if isinstance(value, str) and name in RUN_FIELDS:
            given[name] = value if name == "webhook" else _parsed(name, value)
        else:
            inputs.setdefault(name.removeprefix("inputs."), []).append(value)
    own = {name: each[0] if len(each) == 1 else each for name, each in inputs.items()}
    whole = given.get("inputs", {})
    return {**given, "inputs": {**whole, **own} if isinstance(whole, dict) else whole}


def _parsed(name: str, text: str) -> Any:
    """Returns the value of a field that is JSON. Raises MalformedBody."""
    try:
        return read(f'{{"value": {text}}}'.encode())["value"]
    except (RefusedBody, UnicodeEncodeError):
        raise MalformedBody(f"The field '{name}' is not JSON.") from None


async def _bounded(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise BodyTooLarge(
                f"The request has more than {size(max_bytes)}.",
                hint="Its limit follows from DW_MAX_UPLOAD_BYTES.",
            )
        yield chunk
