"""Errors of calls, with the status that answers a call by plain HTTP."""

from __future__ import annotations

from http import HTTPStatus

import gradio as gr

from app.api.errors import status_of
from app.errors import ErrorReport


class CallError(gr.Error):
    """A call that failed, in a sentence, without a traceback in the log."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence, print_exception=False)
        self.status = HTTPStatus(status)


def call_error(report: ErrorReport) -> CallError:
    """Returns the error that a call ends with."""
    return CallError(report.sentence(), status_of(report))
