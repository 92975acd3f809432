"""The line under a workflow's description: what the form's run needs, and if that fits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from app.api.people import People
from app.catalog.catalog import CatalogEntry
from app.errors import WorkbenchError
from app.settings import PathSettings
from app.ui import markup
from app.ui.current_request import current_request
from app.ui.form import Field, read_form

if TYPE_CHECKING:
    from app.engine import Engine

POLL_S = 0.3
"""Interval at which a page opened during the worker's start checks for its end."""
HUB_DELAY_S = 0.2
"""Delay before a new form asks the hub for sizes not known on this machine."""
RELEVANT_KINDS = {"number", "integer", "slider", "choice", "image"}
"""Kinds of inputs that can change the need: sizes and counts, models and images."""


class FitLine:
    """Create it inside an open `gr.Blocks`; `show` is for inside a form's render."""

    def __init__(self, engine: Engine, paths: PathSettings, people: People) -> None:
        self._engine = engine
        self._people = people
        self._paths = paths
        self.worker_known = gr.State(False)
        """True once the worker has told how much memory there is."""

    async def wait_for_worker(self) -> bool:
        """Returns the value of `worker_known` once the worker is up, or has failed to start."""
        while True:
            status = await asyncio.to_thread(self._engine.status)
            if status.budgets is not None or status.worker == "dead":
                return status.budgets is not None
            await asyncio.sleep(POLL_S)

    def show(
        self, entry: CatalogEntry, kept: Mapping[str, Any], line: gr.HTML, fields: Sequence[Field]
    ) -> None:
        """Makes `line` follow the form. Paintings do not count, and are not sent for it."""
        asked = [field for field in fields if field.mask is None]
        components = [field.component for field in asked]

        def say(*values: Any) -> str:
            shown = dict(zip(names, values, strict=True))
            return markup.fit(self._sentence(entry, fields, shown) or "")

        names = [field.spec.name for field in asked]
        values = {
            field.spec.name: kept.get(field.spec.name)
            if field.spec.kind == "image"
            else field.component.value
            for field in asked
        }
        sentence = self._sentence(entry, fields, values, ask_hub=False)
        line.value = markup.fit(sentence or "")
        if sentence is None:
            # The form must not wait for the hub: asked once it is shown.
            later = gr.Timer(HUB_DELAY_S)
            later.tick(
                lambda *values: (gr.Timer(active=False), say(*values)),
                components,
                [later, line],
                concurrency_limit=None, show_progress="hidden", api_visibility="private",
            )  # fmt: skip
        changes = [field.component.change for field in asked if field.spec.kind in RELEVANT_KINDS]
        gr.on(
            [self.worker_known.change, *changes],
            say,
            components,
            line,
            # While one is computed only the newest of further changes waits.
            trigger_mode="always_last", concurrency_limit=None, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip

    def _sentence(
        self,
        entry: CatalogEntry,
        fields: Sequence[Field],
        values: Mapping[str, Any],
        *,
        ask_hub: bool = True,
    ) -> str | None:
        """Returns "" where the form is incomplete; None where only the hub could tell."""
        held = [self._blank() if f.mask else values[f.spec.name] for f in fields]
        try:
            inputs = read_form(fields, held, self._paths)
            check = self._people.check(current_request(), entry, inputs)
            return self._engine.fit(Path(entry.path), inputs, ask_hub=ask_hub, check=check)
        except WorkbenchError:
            return ""

    def _blank(self) -> dict[str, Any]:
        """Returns a stand-in for an editor's image and painting: the run uses the model's size, not
        the image's."""
        path = self._paths.media[0] / "blank.png"
        if not path.is_file():
            Image.new("RGBA", (8, 8), "white").save(path)
        return {"background": str(path), "layers": [str(path)], "composite": str(path)}
