"""Errors of calls, with the status that answers a call by plain HTTP."""

from __future__ import annotations

from http import HTTPStatus

import gradio as gr

from app.errors import ErrorReport

STATUS = {
    "InvalidWorkflow": HTTPStatus.UNPROCESSABLE_ENTITY,
    "InvalidInputs": HTTPStatus.UNPROCESSABLE_ENTITY,
    "FetchError": HTTPStatus.UNPROCESSABLE_ENTITY,
    "TooLarge": HTTPStatus.UNPROCESSABLE_ENTITY,
    "UnknownWorkflow": HTTPStatus.NOT_FOUND,
    "UnknownRun": HTTPStatus.NOT_FOUND,
    "QueueFull": HTTPStatus.TOO_MANY_REQUESTS,
    "EngineNotStarted": HTTPStatus.SERVICE_UNAVAILABLE,
    "EngineClosed": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""By the kind of an error; others are failures on this side."""


class CallError(gr.Error):
    """A call that failed, in a sentence, without a traceback in the log."""

    def __init__(self, sentence: str, status: HTTPStatus) -> None:
        super().__init__(sentence, print_exception=False)
        self.status = status


def call_error(report: ErrorReport) -> CallError:
    """Returns the error that a call ends with."""
    return CallError(report.sentence(), status_of(report.kind))


def status_of(kind: str) -> HTTPStatus:
    """Returns the status of an error of this kind."""
    return STATUS.get(kind, HTTPStatus.INTERNAL_SERVER_ERROR)
