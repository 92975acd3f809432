"""The Free GPU button: evicts all that the worker holds, and reports it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr

from app.api.people import People
from app.errors import WorkbenchError
from app.run_view import freed
from app.ui import markup
from app.ui.current_request import current_request

if TYPE_CHECKING:
    from app.engine import Engine

Updates = dict[Any, Any]


class FreeButton:
    """Frees at once where nothing runs, else asks what to do with the run."""

    def __init__(self, engine: Engine, button: gr.Button, people: People) -> None:
        self._engine = engine
        self._people = people
        self._button = button
        with gr.Row(visible=False, elem_id="free-choice") as self.choice:
            gr.HTML("<p>Free memory while a run is active?</p>")
            self._after = gr.Button(
                "When it finishes", size="sm", min_width=0, elem_id="free-after"
            )
            self._now = gr.Button("Cancel run and free", size="sm", min_width=0, variant="stop",
                            elem_id="free-now")  # fmt: skip
            self._leave = gr.Button("Keep", size="sm", min_width=0, elem_id="free-leave")
        # Initially it shows the engine's notice for everybody.
        self.notice = gr.HTML(markup.notice(engine.notice), elem_id="notice")

    def wire(self, visit: gr.BrowserState) -> None:
        """Connects the buttons for the person of this visit."""
        outputs = [self.choice, self.notice]
        common: dict[str, Any] = {
            "concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private",
        }  # fmt: skip
        self._button.click(self.ask, visit, outputs, **common)
        self._after.click(self.free_after, visit, outputs, **common)
        self._now.click(self.free_now, visit, outputs, **common)
        self._leave.click(lambda: (gr.update(visible=False), ""), None, outputs, **common)

    async def ask(self, visit: dict[str, Any]) -> AsyncIterator[Updates]:
        """Frees where nothing is running or waiting; else shows the choice."""
        if self._active():
            yield {self.choice: gr.update(visible=True), self.notice: ""}
            return
        async for updates in self._free(visit, "when_idle", "Freeing…"):
            yield updates

    def withdraw(self) -> Any:
        """Hides the question when no run is left to ask about."""
        return gr.skip() if self._active() else gr.update(visible=False)

    def _active(self) -> bool:
        return self._engine.status().is_busy

    async def free_after(self, visit: dict[str, Any]) -> AsyncIterator[Updates]:
        """Frees when the run in progress is over."""
        async for updates in self._free(
            visit, "when_idle", "The memory is freed as soon as the run ends."
        ):
            yield updates

    async def free_now(self, visit: dict[str, Any]) -> AsyncIterator[Updates]:
        """Cancels the run in progress and frees."""
        meanwhile = "Cancelling the run, then freeing…"
        async for updates in self._free(visit, "cancel_and_free", meanwhile):
            yield updates

    async def _free(
        self,
        visit: dict[str, Any],
        mode: Literal["when_idle", "cancel_and_free"],
        meanwhile: str,
    ) -> AsyncIterator[Updates]:
        yield {self.choice: gr.update(visible=False), self.notice: markup.notice(meanwhile)}
        try:
            others = self._engine.is_busy_for_others(str(visit["person"]))
            self._people.check_free(current_request(), others)
            sentence = freed(await self._engine.free_async(mode))
        except WorkbenchError as error:
            sentence = error.report().sentence()
        yield {self.notice: markup.notice(sentence)}
