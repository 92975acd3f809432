"""Replaces error answers of Gradio and its web framework by readable sentences.

Their own words are Python's: classes, addresses of objects, pydantic's messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from gradio.block_function import BlockFunction

from app.errors import Problem
from app.mistakes import in_words
from app.ui.call_errors import CallError

MAX_REPORTED = 20


def answer_errors_in_sentences(page: gr.Blocks, website: FastAPI) -> None:
    """Makes the page and its application answer errors in sentences."""
    from gradio import queueing, utils

    original = utils.error_payload

    def answer(error: BaseException | None, show_error: bool) -> dict[str, Any]:
        """Returns the answer to a call by plain HTTP. Raises it for an error of the caller, which
        Gradio would answer with 500, and with a traceback in the log for one of its own."""
        told = payload(error, show_error)
        if isinstance(error, gr.Error):
            status = (
                error.status if isinstance(error, CallError) else HTTPStatus.UNPROCESSABLE_ENTITY
            )
            raise _Told(status, told) from None
        return told

    def payload(error: BaseException | None, show_error: bool) -> dict[str, Any]:
        if error is None or isinstance(error, gr.Error):
            return dict(original(error, show_error))
        kind = type(error).__name__
        return {
            "error": f"Something went wrong on the server ({kind}). Its log says more.",
            "visible": True,
        }

    def enough(function: BlockFunction, inputs: list[Any]) -> None:
        wanted = len(function.inputs)
        if len(inputs) < wanted:
            raise CallError(
                f"'{function.api_name}' takes {wanted} values, and {len(inputs)} came. A client of"
                " Gradio's fills in the defaults; without one all of them are sent.",
                HTTPStatus.UNPROCESSABLE_ENTITY,
            )

    utils.error_payload, queueing.error_payload = answer, payload
    page.validate_inputs = enough
    website.add_exception_handler(RequestValidationError, _malformed)
    website.add_exception_handler(KeyError, _unknown)
    website.add_exception_handler(_Told, _tell)


class _Told(Exception):
    """The answer to a call that failed."""

    def __init__(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        super().__init__()
        self.status = status
        self.content = content


async def _tell(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, _Told)
    return JSONResponse(error.content, status_code=error.status)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    """Answers for an unknown component or a form with a missing field, where Gradio raises
    KeyError."""
    if not request.url.path.endswith("/component_server"):
        raise error
    return JSONResponse({"detail": "This page has no such component."}, status_code=404)


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse(refused_call(validation_message(error.errors())), status_code=422)


def refused_call(sentence: str) -> dict[str, Any]:
    """Returns the body of the answer to a call that cannot be read.

    It has the form of Gradio's own failed validation: of a 422 its client reads nothing else.
    """
    told = {"__type__": "validate", "is_valid": False, "parameter_name": "request"}
    return {"detail": [{**told, "message": sentence}]}


def validation_message(errors: Sequence[Any], *place: str) -> str:
    """Returns a request's problems in sentences, from pydantic's errors; `place` is prepended to
    each."""
    problems = []
    for each in errors[:MAX_REPORTED]:
        json_invalid = each["type"] == "json_invalid"
        message = "It is not JSON." if json_invalid else in_words(each)[0]
        problems.append(Problem(place=".".join(map(str, (*place, *each["loc"]))), message=message))
    return f"The request cannot be read. {' '.join(map(str, problems))}"
