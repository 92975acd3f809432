"""The memory panel: held components and why, budgets, and the last eviction.

All of it is one piece of HTML whose buttons carry their targets: Gradio's buttons, recreated with
each refresh, would lose a click that comes while they are replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.api.people import People
from app.errors import WorkbenchError
from app.ui import memory_markup
from app.ui.current_request import current_request
from app.ui.markup import notice

if TYPE_CHECKING:
    from app.engine import Engine

Updates = tuple[Any, Any]
"""The held components, and a message about a change."""
PRIVATE: dict[str, Any] = {
    "concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private",
}  # fmt: skip


class MemoryPanel:
    """Create it inside an open `gr.Blocks`; `refresh` is for events that change what is held."""

    def __init__(self, engine: Engine, people: People) -> None:
        self._engine = engine
        self._people = people
        with gr.Accordion("Memory", open=False, elem_id="memory") as panel:
            self._said = gr.HTML("", elem_id="memory-said")
            self.held = gr.HTML("", elem_id="held", js_on_load=memory_markup.REPORT_PRESSED_BUTTON)
        panel.expand(self.refresh, None, self.held, **PRIVATE)
        self.held.select(self._change, None, [self.held, self._said], **PRIVATE)

    def refresh(self) -> str:
        """Returns the HTML of what is held now."""
        return memory_markup.panel(self._engine.status())

    async def _change(self, event: gr.EventData) -> AsyncIterator[Updates]:
        """Pins, unpins or drops the pressed button's component, and refreshes."""
        sent = event._data if isinstance(event._data, dict) else {}
        action, slot, key = sent.get("action"), sent.get("slot"), sent.get("key")
        slots = self._engine.status().slots
        if (
            action not in memory_markup.ACTIONS
            or not isinstance(key, str)
            or not isinstance(slot, int)
            or slot not in range(len(slots))
        ):
            yield gr.skip(), gr.skip()
            return
        try:
            self._people.check_held(current_request())
            if action == "drop":
                answer = self._engine.drop(key, slot=slot)
            else:
                answer = self._engine.pin(key, action == "pin", slot=slot)
            if slots[slot].running is not None:
                yield gr.skip(), notice("This is done as soon as the run ends.")
            yield memory_markup.panel(await asyncio.wrap_future(answer)), ""
        except WorkbenchError as error:
            yield gr.skip(), notice(error.report().sentence())
