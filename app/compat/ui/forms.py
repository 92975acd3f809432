"""What Gradio keeps of each visitor, made safe for the threads that change it.

Gradio makes a form on a thread of its own, which adds to the visit's components and events, and
iterates over these at every yield of an event that runs: on a busy machine "dictionary changed size
during iteration" ended the event, and a run's page stood still. Needed with gradio 6.31.0.
"""

from __future__ import annotations

from typing import Any

import gradio as gr


class Moments(dict[int, Any]):
    """A dictionary whose `values()` is a copy, so that additions do not disturb an iteration."""

    def values(self) -> list[Any]:  # type: ignore[override]
        """Returns a copy; making it is one step for Python."""
        return list(super().values())


def survive_new_forms(page: gr.Blocks) -> None:
    """Lets the events of a visit go on while a form of the same visit is made.

    Each visit starts with a copy of what the page has, of the same classes.
    """
    page.default_config.fns = Moments(page.default_config.fns)
    page.default_config.blocks = Moments(page.default_config.blocks)
