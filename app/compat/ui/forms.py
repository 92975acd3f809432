"""Makes Gradio's per-visit state safe for the threads that change it.

Gradio builds a form on its own thread, which adds to the visit's components and events, and
iterates over these at every yield of a running event: on a busy machine "dictionary changed size
during iteration" ended the event, and a run's page froze. Needed with gradio 6.31.0.
"""

from __future__ import annotations

from typing import Any

import gradio as gr


class SnapshotDict(dict[int, Any]):
    """A dictionary whose `values()` is a copy, so that additions do not disturb an iteration."""

    def values(self) -> list[Any]:  # type: ignore[override]
        """Returns a copy; Python makes it atomically."""
        return list(super().values())


def allow_new_forms(page: gr.Blocks) -> None:
    """Lets a visit's events continue while a form of the same visit is built.

    Each visit starts with a copy of the page's dictionaries, of the same classes.
    """
    page.default_config.fns = SnapshotDict(page.default_config.fns)
    page.default_config.blocks = SnapshotDict(page.default_config.blocks)
