"""The Free GPU button: gives back everything the worker holds and says what that was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr

from app.errors import WorkbenchError
from app.ui import markup
from app.ui.run_view import freed

if TYPE_CHECKING:
    from app.engine import Engine

Updates = dict[Any, Any]


class FreeButton:
    """Free GPU: at once where nothing runs, else after asking what to do with the run."""

    def __init__(self, engine: Engine, button: gr.Button) -> None:
        self._engine = engine
        with gr.Row(visible=False, elem_id="free-choice") as self.choice:
            gr.HTML("<p>A run is active. Free the memory …</p>")
            after = gr.Button("after it", size="sm", min_width=0, elem_id="free-after")
            now = gr.Button("cancel it, now", size="sm", min_width=0, variant="stop",
                            elem_id="free-now")  # fmt: skip
            leave = gr.Button("not at all", size="sm", min_width=0, elem_id="free-leave")
        self.notice = gr.HTML("", elem_id="notice")
        outputs = [self.choice, self.notice]
        common: dict[str, Any] = {
            "concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private",
        }  # fmt: skip
        button.click(self.ask, None, outputs, **common)
        after.click(self.free_after, None, outputs, **common)
        now.click(self.free_now, None, outputs, **common)
        leave.click(lambda: (gr.update(visible=False), ""), None, outputs, **common)

    async def ask(self) -> AsyncIterator[Updates]:
        """Frees where nothing is running or waiting; else shows the choice."""
        if self._active():
            yield {self.choice: gr.update(visible=True), self.notice: ""}
            return
        async for updates in self._free("when_idle", "Freeing…"):
            yield updates

    def withdraw(self) -> Any:
        """The question goes when there is no run left to ask about."""
        return gr.skip() if self._active() else gr.update(visible=False)

    def _active(self) -> bool:
        return any(info.ended_at is None for info in self._engine.runs())

    async def free_after(self) -> AsyncIterator[Updates]:
        """Frees when the run in progress is over."""
        async for updates in self._free(
            "when_idle", "The memory is freed as soon as the run ends."
        ):
            yield updates

    async def free_now(self) -> AsyncIterator[Updates]:
        """Cancels the run in progress and frees."""
        async for updates in self._free("cancel_and_free", "Cancelling the run, then freeing…"):
            yield updates

    async def _free(
        self, mode: Literal["when_idle", "cancel_and_free"], meanwhile: str
    ) -> AsyncIterator[Updates]:
        yield {self.choice: gr.update(visible=False), self.notice: markup.notice(meanwhile)}
        try:
            sentence = freed(await self._engine.free_async(mode))
        except WorkbenchError as error:
            sentence = error.report().sentence()
        yield {self.notice: markup.notice(sentence)}
