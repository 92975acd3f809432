"""A page of two events with our limits: `python -m tests.ui.small_page CALLS VISITS`."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading

import gradio as gr

from app.settings import UiSettings
from app.ui.crowd import limit_calls, limit_visits
from app.ui.login import Logins
from app.ui.website import Website


async def wait() -> str:
    """Never answers."""
    await asyncio.Event().wait()
    return ""


def count(before: int) -> tuple[int, int]:
    """Counts per visit."""
    return before + 1, before + 1


def main(most_calls: int, most_visits: int) -> None:
    """Prints the page's URL and serves it until it is killed."""
    with gr.Blocks(analytics_enabled=False) as page:
        counted, shown = gr.State(0), gr.Number()
        gr.Button().click(count, counted, [counted, shown], api_name="count", queue=False)
        gr.api(wait, api_name="wait", concurrency_limit=None)
    page.state_session_capacity = 50
    logins = Logins(UiSettings(), None)
    website = Website(page, routes=[], around=lambda app, _: logins.around(app), ssr_mode=False)
    logins.attach(website.gradio)
    limit_calls(page, most_calls)
    limit_visits(page, website.gradio, most_visits)
    with socket.create_server(("127.0.0.1", 0)) as server:
        website.start([server])
        print(f"http://127.0.0.1:{server.getsockname()[1]}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
