"""Errors as answers: one shape for all, and the status of each kind."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

from pydantic import ConfigDict
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from app import errors
from app.errors import ErrorReport, MalformedBody, WorkbenchError
from app.frozen import Frozen

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
STATUS: dict[type[WorkbenchError], int] = {
    errors.MalformedBody: 400,
    errors.NotLoggedIn: 401,
    errors.NotAllowed: 403,
    errors.UnknownWorkflow: 404,
    errors.UnknownRun: 404,
    errors.UnknownResult: 404,
    errors.BodyTooLarge: 413,
    errors.BadRequest: 422,
    errors.FetchError: 422,
    errors.TooLarge: 422,
    errors.TooManyRuns: 429,
    errors.TooManyCalls: 429,
    errors.EngineError: 503,
    errors.WorkbenchError: 500,
}
"""The status of each class of errors; that of its nearest base for others."""
KINDS = {400: "MalformedBody", 401: "NotLoggedIn", 403: "NotAllowed", 404: "NotFound",
         405: "MethodNotAllowed", 413: "BodyTooLarge", 421: "UnknownHost",
         429: "TooManyGuesses"}  # fmt: skip
"""The kind of a refusal that has a status alone."""
RETRY_S = 5
"""Told with 429 and 503."""
FAULT = "The server could not answer this; its log says why."


class Told(Frozen):
    """Base of what programs are told; the docstrings of its fields are in the OpenAPI document."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ProblemBody(Told):
    """One of several mistakes in a request."""

    place: str
    """Where: `inputs.steps`, or a JSON pointer into the workflow's document."""
    message: str
    hint: str


class ErrorBody(Told):
    """An error, in `error` of the answer."""

    kind: str
    """Stable, for programs: `InvalidInputs`, `QueueFull`, …"""
    message: str
    hint: str
    """What to do next; may be empty."""
    place: str
    """Where the first problem is; may be empty."""
    run_id: str | None
    """The run that failed; null where none was made."""
    problems: tuple[ProblemBody, ...]
    """All mistakes of the request."""


def error_body(report: ErrorReport, run_id: str | None = None) -> ErrorBody:
    """Returns the error as programs get it."""
    problems = tuple(
        ProblemBody(place=each.place, message=each.message, hint=each.hint)
        for each in report.problems
    )
    return ErrorBody(
        kind=report.kind,
        message=report.message,
        hint=report.hint,
        place=problems[0].place if problems else "",
        run_id=run_id,
        problems=problems,
    )


def status_of(report: ErrorReport) -> int:
    """Returns the status that answers an error of this kind."""
    kind = next((each for each in _kinds(WorkbenchError) if each.__name__ == report.kind), None)
    bases = WorkbenchError.__mro__ if kind is None else kind.__mro__
    return next(STATUS[each] for each in bases if each in STATUS)


def error_answer(report: ErrorReport, run_id: str | None = None) -> Response:
    """Returns the error as an answer."""
    return plain_error(status_of(report), error_body(report, run_id))


def plain_error(status: int, body: ErrorBody) -> Response:
    """Returns the answer with this status and error."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else retry_headers(status)
    return JSONResponse({"error": body.model_dump(mode="json")}, status, headers)


def retry_headers(status: int) -> dict[str, str]:
    """Returns the headers that say when to send a request again, if this status does."""
    return {"Retry-After": str(RETRY_S)} if status in (429, 503) else {}


def refusal(status: int, message: str) -> Response:
    """Returns the answer to a request that was refused by its status alone."""
    kind = KINDS.get(status, "InternalError" if status >= 500 else "BadRequest")
    return plain_error(status, error_body(ErrorReport(kind=kind, message=message)))


class Shape(NamedTuple):
    """How an interface answers with an error."""

    error: Callable[[ErrorReport], Response]
    refusal: Callable[[int, str], Response]
    """For an error that has a status and a sentence alone."""


OWN = Shape(error_answer, refusal)


def answering(handler: Handler, shape: Shape = OWN) -> Handler:
    """Returns the handler with every error as an answer of this shape."""

    @functools.wraps(handler)
    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except WorkbenchError as error:
            return shape.error(error.report())
        except ClientDisconnect:
            return shape.error(MalformedBody("The request broke off.").report())
        except Exception:
            log.exception("%s %r could not be answered", request.method, request.url.path)
            return shape.refusal(500, FAULT)

    return answered


def _kinds(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)
