"""The right half of the page: status, stage, strip of results, and details.

Every component is updated with texts or plain properties: on a busy machine objects may never be
seen (see `GenerateTab._buttons`), so the strip is no gr.Gallery and the record no gr.JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from pydantic import JsonValue

from app.errors import UnknownRun
from app.media.files import SUFFIXES, MediaKind
from app.protocol import ResultSaved
from app.run_view import RunView, advance
from app.ui import markup

if TYPE_CHECKING:
    from app.engine import Engine

KEPT_RESULTS = 40

Updates = dict[Any, Any]


@dataclass
class StageState:
    """The result that this visit views.

    One object per session, changed by the followed run and by clicks in the strip: an earlier
    result stays on the stage until the run has a new one.
    """

    result: ResultSaved | None = None
    away: bool = False
    """True if something else than the current run is on the stage."""
    run: RunView | None = None
    """The run that the page follows."""

    def follow(self, run: RunView) -> None:
        """Takes the run's new state; a new result moves onto the stage."""
        last, self.run = self.run, run
        if last is None or (last.run_id, last.results) != (run.run_id, run.results):
            self.show_run()

    def show_result(self, result: ResultSaved) -> None:
        """Puts this result on the stage."""
        self.result, self.away = result, self.run is not None and not self.run.over

    def show_run(self) -> None:
        """Puts the run on the stage again."""
        self.result, self.away = None if self.run is None else self.run.shown, False


class Outcome:
    """The right half of the tab. Create it inside an open `gr.Column`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.results = gr.State([])
        """This visit's, newest first."""
        self.stage_state = gr.State(StageState())
        self.status = gr.HTML(markup.idle(), elem_id="status")
        self.new_seed = gr.Button(
            "Run with a new seed", size="sm", elem_id="new-seed", interactive=False
        )
        self.stage = gr.HTML(markup.stage(RunView()), elem_id="stage")
        self.strip = gr.HTML("", elem_id="strip", js_on_load=markup.CHOOSE_THUMBNAIL)
        with gr.Row(elem_id="next"):
            self.back = gr.Button("Back to the run", size="sm", elem_id="back", interactive=False)
            self.use_as_input = gr.Button(
                "Use as input", size="sm", elem_id="use-as-input", interactive=False
            )
            self.reuse_seed = gr.Button(
                "Reuse seed", size="sm", elem_id="reuse-seed", interactive=False
            )
        self.details = gr.HTML(
            markup.details("Nothing has run yet."), elem_id="details",
            js_on_load=markup.STAY_UNFOLDED,
        )  # fmt: skip
        shown = [self.stage, self.details, self.back, self.use_as_input, self.reuse_seed]
        self.strip.select(
            self.show_from_strip, [self.results, self.stage_state], shown,
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        self.back.click(
            self.go_back, self.stage_state, shown,
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    # --- what the person looks at ----------------------------------------------------------------

    def show_from_strip(
        self, results: list[ResultSaved], stage_state: StageState, event: gr.EventData
    ) -> Updates:
        """Puts the chosen result of the strip on the stage."""
        sent = event._data
        index = sent.get("index") if isinstance(sent, dict) else None
        if not isinstance(index, int) or index not in range(len(results)):
            return self.buttons(stage_state)
        result = results[index]
        stage_state.show_result(result)
        run = stage_state.run
        try:
            view = run if run and run.run_id == result.run_id else self._ended(result.run_id)
            told = self.told(view, result)
        except UnknownRun:
            told = {self.details: markup.details("This run is no longer in the history.")}
        return {
            self.stage: markup.picture(result),
            **told,
            **self.buttons(stage_state),
        }

    def go_back(self, stage_state: StageState) -> Updates:
        """Puts the current run on the stage again."""
        stage_state.show_run()
        return {self.stage: markup.stage(stage_state.run or RunView()), **self.buttons(stage_state)}

    def buttons(self, stage_state: StageState) -> Updates:
        """Returns which buttons under the stage are enabled."""
        result = stage_state.result
        usable = {
            self.back: stage_state.away,
            self.use_as_input: result is not None and media_kind(result) is not None,
            self.reuse_seed: result is not None,
        }
        return {button: gr.update(interactive=usable) for button, usable in usable.items()}

    # --- what a run shows ------------------------------------------------------------------------

    def changes(
        self, before: RunView, view: RunView, older: Sequence[ResultSaved], stage_state: StageState
    ) -> Updates:
        """Returns only the components that change with this event."""
        updates: Updates = {}
        if markup.status(view) != markup.status(before):
            updates[self.status] = markup.status(view)
        if view.results != before.results:
            results = newest([*reversed(view.results), *older])
            updates[self.results] = results
            updates[self.strip] = markup.strip(results)
        if not stage_state.away and markup.stage(view) != markup.stage(before):
            updates[self.stage] = markup.stage(view)
        return updates

    def told(self, view: RunView, result: ResultSaved | None) -> Updates:
        """Returns the details of an ended run and of this result. Raises UnknownRun."""
        summary = markup.summary(self._engine.info(view.run_id).title, view)
        record = None if result is None else record_of(result)
        return {self.details: markup.details(summary, record)}

    def results_of(self, run_id: str) -> list[ResultSaved]:
        """Returns the run's results whose files exist, newest first."""
        events = self._engine.events(run_id)
        saved = [event for event in events if isinstance(event, ResultSaved)]
        return [result for result in reversed(saved) if result.is_there]

    def _ended(self, run_id: str) -> RunView:
        view = RunView(run_id=run_id)
        for event in self._engine.events(run_id):
            view = advance(view, event)
        return view


def newest(results: Iterable[ResultSaved]) -> list[ResultSaved]:
    """Returns the results for the strip: each file once, also if several runs reused it."""
    files: dict[str, ResultSaved] = {}
    for result in results:
        files.setdefault(result.path, result)
    return list(files.values())[:KEPT_RESULTS]


def record_of(result: ResultSaved) -> JsonValue:
    """Returns the record beside the result; None if it was removed."""
    try:
        record: JsonValue = json.loads(Path(result.sidecar).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return record


def media_kind(result: ResultSaved) -> MediaKind | None:
    """Returns the kind of input this file can be, or None."""
    suffix = Path(result.path).suffix
    return next((kind for kind, suffixes in SUFFIXES.items() if suffix in suffixes), None)
