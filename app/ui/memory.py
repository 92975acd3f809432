"""The memory panel: what is held, why, under which budget, and what left last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.engine.status import EngineStatus
from app.errors import WorkbenchError
from app.ui import memory_markup
from app.ui.markup import notice
from app.ui.people import People, asker

if TYPE_CHECKING:
    from app.engine import Engine

Snapshot = dict[str, Any]
PRIVATE: dict[str, Any] = {
    "concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private",
}  # fmt: skip


class MemoryPanel:
    """Made inside an open `gr.Blocks`; `refresh` is for events that change what is held."""

    def __init__(self, engine: Engine, people: People) -> None:
        self._engine = engine
        self._people = people
        with gr.Accordion("Memory", open=False, elem_id="memory") as panel:
            self.shown = gr.State(None)
            self.said = gr.HTML("", elem_id="memory-said")
            self._table()
        panel.expand(self.refresh, None, self.shown, **PRIVATE)

    def refresh(self) -> Snapshot:
        """What is held now, for `shown`."""
        return _snapshot(self._engine.status())

    def _table(self) -> None:
        @gr.render(inputs=[self.shown], triggers=[self.shown.change], show_progress="hidden")
        def table(snapshot: Snapshot | None) -> None:
            if snapshot is None:
                return
            status = EngineStatus.model_validate(snapshot)
            gr.HTML(memory_markup.bars(status), elem_id="budgets")
            heavy = [item for item in status.held if item.weight_bytes]
            for item in sorted(heavy, key=lambda item: -item.weight_bytes):
                with gr.Row(elem_classes="held"):
                    gr.HTML(memory_markup.held(item, status), elem_classes="held-what")
                    pin = gr.Button("Unpin" if item.pinned else "Pin", size="sm", min_width=0)
                    drop = gr.Button("Drop", size="sm", min_width=0)
                    outputs = [self.shown, self.said]
                    keep = partial(self._engine.pin, item.key, not item.pinned)
                    pin.click(self._changing(keep), None, outputs, **PRIVATE)
                    gone = partial(self._engine.drop, item.key)
                    drop.click(self._changing(gone), None, outputs, **PRIVATE)
            light = (item for item in status.held if not item.weight_bytes)
            gr.HTML(memory_markup.weightless(light))
            gr.HTML(memory_markup.departure(status))

    def _changing(
        self, change: Callable[[], Future[EngineStatus]]
    ) -> Callable[[], AsyncIterator[tuple[Any, Any]]]:
        """A handler that has something changed and shows what is held then."""

        async def changed() -> AsyncIterator[tuple[Any, Any]]:
            try:
                self._people.check_held(asker())
                answer = change()
                if self._engine.status().running is not None:
                    yield gr.skip(), notice("This is done as soon as the run ends.")
                yield _snapshot(await asyncio.wrap_future(answer)), ""
            except WorkbenchError as error:
                yield gr.skip(), notice(error.report().sentence())

        return changed


def _snapshot(status: EngineStatus) -> Snapshot:
    return status.model_dump(mode="json")
