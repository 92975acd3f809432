"""The request behind the running handler of the page."""

from __future__ import annotations

import gradio as gr
from gradio.context import LocalContext


def current_request() -> gr.Request | None:
    """Returns the request that the running handler of the page answers."""
    return LocalContext.request.get(None)
