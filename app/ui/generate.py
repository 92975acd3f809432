"""The main tab: choose a workflow, fill its form, run it, look at what came out.

The form is rendered for the chosen workflow and only collects values; one static event does the
run, so that neither switching workflows nor reloading the page disturbs it. The engine is the
queue: no event here holds a slot of Gradio's.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.errors import ErrorReport, WorkbenchError
from app.protocol import ResultSaved
from app.ui import markup
from app.ui.fit_line import FitLine
from app.ui.form import (
    Field,
    build_form,
    picture_input,
    read_form,
    read_seed,
    remember,
    storable,
    with_picture,
)
from app.ui.run_view import RunView, advance
from app.workflow.catalog import Catalog, CatalogEntry

if TYPE_CHECKING:
    from app.engine import Engine

KEPT_RUNS = 20
KEPT_RESULTS = 40
NEW_VISIT: dict[str, Any] = {"workflow": "", "runs": [], "forms": {}}

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Request:
    """The run to show. A new nonce shows it anew."""

    run_id: str
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Chosen:
    """The workflow whose form is shown, and how many forms this page showed before it."""

    workflow: str = ""
    turn: int = 0

    def then(self, workflow: str) -> Chosen:
        """The next form; also one of the same workflow is rendered anew."""
        return Chosen(workflow, self.turn + 1)


class GenerateTab:
    """The tab's components and handlers. Made inside an open `gr.Blocks`."""

    def __init__(self, engine: Engine, catalog: Catalog, uploads: Path) -> None:
        self._engine = engine
        self._catalog = catalog
        self._uploads = uploads
        self.fit = FitLine(engine, uploads)
        self._lay_out()
        self._wire()

    # --- layout ----------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self.visit = gr.BrowserState(NEW_VISIT, storage_key="dw-visit", secret="dw-visit")
        self.chosen = gr.State(Chosen())
        self.forms = gr.State({})
        self.request = gr.State(None)
        self.current_run = gr.State("")
        self.results = gr.State([])
        self.looked_at = gr.State(None)
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=2, min_width=320, elem_id="controls"):
                self.workflow = gr.Dropdown(
                    [], label="Workflow", interactive=True, elem_id="workflow"
                )
                self._form()
                with gr.Group(elem_id="seed-row"):
                    self.seed = gr.Textbox(
                        label="Seed", placeholder="another one each time", max_lines=1,
                        interactive=True, elem_id="seed",
                    )  # fmt: skip
                    with gr.Row():
                        self.random_seed = gr.Button("Random", size="sm", elem_id="seed-random")
                        self.last_seed = gr.Button("Last", size="sm", elem_id="seed-last")
                with gr.Row(elem_id="actions"):
                    self.generate = gr.Button(
                        "Generate", variant="primary", elem_id="generate", scale=3
                    )
                    self.cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", scale=1)
            with gr.Column(scale=3, min_width=320, elem_id="outcome"):
                self.status = gr.HTML(markup.idle(), elem_id="status")
                self.new_seed = gr.Button(
                    "Run with a new seed", size="sm", elem_id="new-seed", interactive=False
                )
                self.stage = gr.HTML(markup.stage(RunView()), elem_id="stage")
                # Neither a gr.Gallery nor a gr.JSON: what those are told are objects, which may
                # never be seen on a busy machine (see `_buttons`); texts arrive whole.
                self.strip = gr.HTML("", elem_id="strip", js_on_load=markup.CHOOSE_THUMBNAIL)
                with gr.Row(elem_id="next"):
                    self.use_as_input = gr.Button(
                        "Use as input", size="sm", interactive=False, elem_id="use-as-input"
                    )
                    self.reuse_seed = gr.Button(
                        "Reuse seed", size="sm", interactive=False, elem_id="reuse-seed"
                    )
                self.details = gr.HTML(
                    markup.details("Nothing has run yet."), elem_id="details",
                    js_on_load=markup.STAY_UNFOLDED,
                )  # fmt: skip

    def _form(self) -> None:
        @gr.render(inputs=[self.chosen, self.forms], triggers=[self.chosen.change],
                   show_progress="hidden")  # fmt: skip
        def form(chosen: Chosen, forms: dict[str, dict[str, Any]]) -> None:
            if not chosen.workflow:
                return
            entry = self._catalog.find(chosen.workflow)
            kept = forms.get(entry.name, {})
            # The browser keeps what stood in the same place of the last form and only hands it new
            # properties: a help text that the next field lacks stayed, and an editor wrote its
            # value into the picture field after it. One level deeper at every other turn, no field
            # stands where another did.
            with contextlib.ExitStack() as levels:
                for _ in range(1 + chosen.turn % 2):
                    levels.enter_context(gr.Column())
                gr.HTML(markup.description(entry), elem_id="description")
                needed = gr.HTML("", elem_id="fit")
                fields = build_form(entry.inputs, kept)
            self.fit.show(entry, kept, needed, fields)
            self._wire_form(entry, fields)

    # --- events ----------------------------------------------------------------------------------

    def _wire_form(self, entry: CatalogEntry, fields: list[Field]) -> None:
        """The events that read the form; made anew with every form."""
        components = [field.component for field in fields]

        def submit(session: gr.Request, seed: str, visit: dict[str, Any], *values: Any) -> Updates:
            if entry.problem is not None:
                return self._refused(entry.problem)
            try:
                run_id = self._engine.submit(
                    Path(entry.path),
                    read_form(fields, values, self._uploads),
                    seed=read_seed(seed),
                    owner=session.session_hash or "",
                )
            except WorkbenchError as error:
                return self._refused(error.report())
            kept = storable(entry.inputs, remember(fields, values))
            forms = {**visit["forms"], entry.name: kept}
            return self._submitted(run_id, {**visit, "workflow": entry.name, "forms": forms})

        self.generate.click(
            submit,
            [self.seed, self.visit, *components],
            self._submit_outputs,
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

        def switch(
            to: str, chosen: Chosen, forms: dict[str, Any], status: str, *values: Any
        ) -> Updates:
            return {
                self.forms: {**forms, entry.name: remember(fields, values)},
                self.chosen: chosen.then(to),
                # What was wrong with the last form is not said of the next.
                **({self.status: markup.idle()} if markup.is_refusal(status) else {}),
            }

        self.workflow.select(
            switch,
            [self.workflow, self.chosen, self.forms, self.status, *components],
            [self.forms, self.chosen, self.status],
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

        def take_over(
            chosen: Chosen, forms: dict[str, Any], result: ResultSaved | None, *values: Any
        ) -> Updates:
            forms = {**forms, entry.name: remember(fields, values)}
            target = self._for_picture(entry)
            if result is None or target is None:
                gr.Warning("No workflow here takes a picture.")
                return {self.forms: forms}
            filled = {**forms.get(target.name, {}), **with_picture(target.inputs, result.path)}
            return {
                self.forms: {**forms, target.name: filled},
                self.workflow: target.name,
                self.chosen: chosen.then(target.name),
            }

        self.use_as_input.click(
            take_over,
            [self.chosen, self.forms, self.looked_at, *components],
            [self.forms, self.workflow, self.chosen],
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    def _wire(self) -> None:
        self.request.change(
            self.run,
            [self.request, self.results],
            [
                self.status, self.stage, self.strip, self.details, self.generate, self.new_seed,
                self.cancel, self.use_as_input, self.reuse_seed, self.current_run,
                self.results, self.looked_at,
            ],
            trigger_mode="once", concurrency_limit=None, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        self.cancel.click(
            self.cancel_run, self.current_run, None, queue=False, api_visibility="private"
        )
        self.new_seed.click(
            self.run_with_new_seed,
            [self.request, self.visit],
            self._submit_outputs,
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        self.strip.select(
            self.look_at,
            self.results,
            [self.stage, self.looked_at, self.details],
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        self.random_seed.click(None, None, self.seed, js="() => ''", api_visibility="private")
        for button in (self.last_seed, self.reuse_seed):
            button.click(
                self.seed_of, self.looked_at, self.seed, queue=False, show_progress="hidden",
                api_visibility="private",
            )  # fmt: skip

    def open_page(self, visit: dict[str, Any]) -> Updates:
        """A page was loaded: the catalog as it is now, this visit's results, the newest run."""
        entries = self._catalog.entries()
        names = [entry.name for entry in entries]
        wanted = visit["workflow"]
        first = wanted if wanted in names else next(iter(names), "")
        known = {info.run_id: info for info in self._engine.runs()}
        runs = [run_id for run_id in visit["runs"] if run_id in known]
        older = [run_id for run_id in runs[1:] if known[run_id].ended_at is not None]
        results = [result for run_id in older for result in self._results_of(run_id)]
        return {
            self.workflow: gr.update(
                choices=[(markup.choice_label(entry), entry.name) for entry in entries],
                value=first or None,
            ),
            self.forms: visit["forms"],
            self.chosen: Chosen(first),
            self.results: results[:KEPT_RESULTS],
            self.request: Request(runs[0]) if runs else None,
        }

    @property
    def open_page_outputs(self) -> list[Any]:
        """What `open_page` fills."""
        return [self.workflow, self.forms, self.chosen, self.results, self.request]

    async def run(
        self, request: Request | None, results: list[ResultSaved]
    ) -> AsyncIterator[Updates]:
        """Shows the run to its end. Leaving the page ends this handler, never the run."""
        if request is None:
            return
        run_id = request.run_id
        view = RunView(run_id=run_id)
        yield {
            self.current_run: run_id,
            self.status: markup.status(view),
            self.stage: markup.stage(view),
            **self._buttons(view, results),
        }
        async for event in self._engine.follow(run_id):
            before, view = view, advance(view, event)
            changed = self._changes(before, view, results)
            if changed:
                yield {**changed, **self._buttons(view, results)}
        yield {
            self.current_run: "",
            **self._details(view, self._title_of(run_id)),
            **self._buttons(view, results, ended=True),
        }

    def run_with_new_seed(
        self, session: gr.Request, request: Request, visit: dict[str, Any]
    ) -> Updates:
        """Runs what was just shown once more, whatever stands in the form by now."""
        try:
            run_id = self._engine.run_again(
                request.run_id,
                seed=secrets.randbits(63),
                owner=session.session_hash or "",
            )
        except WorkbenchError as error:
            return self._refused(error.report())
        return self._submitted(run_id, visit)

    def cancel_run(self, run_id: str) -> None:
        """Cancels the run this page shows; a run that is over stays as it is."""
        if run_id:
            self._engine.cancel(run_id)

    def look_at(self, results: list[ResultSaved], event: gr.EventData) -> Updates:
        """Puts the chosen picture of the strip on the stage."""
        if event.index not in range(len(results)):
            return {}
        result = results[event.index]
        view = RunView(run_id=result.run_id)
        for step in self._engine.events(result.run_id):
            view = advance(view, step)
        return {
            self.stage: markup.picture(result),
            self.looked_at: result,
            **self._details(view, self._title_of(result.run_id), result),
        }

    @staticmethod
    def seed_of(result: ResultSaved | None) -> str:
        """The seed of the picture on the stage, as text: it may be beyond what a browser counts."""
        return "" if result is None else str(result.seed)

    # --- what the handlers share -----------------------------------------------------------------

    @property
    def _submit_outputs(self) -> list[Any]:
        return [self.request, self.visit, self.status, self.generate, self.new_seed]

    def _submitted(self, run_id: str, visit: dict[str, Any]) -> Updates:
        return {
            self.request: Request(run_id),
            self.visit: {**visit, "runs": [run_id, *visit["runs"]][:KEPT_RUNS]},
            # In the same breath, or a second click would start a run that nobody sees.
            self.generate: gr.update(interactive=False),
            self.new_seed: gr.update(interactive=False),
        }

    def _refused(self, error: ErrorReport) -> Updates:
        return {self.status: markup.refused(error), self.new_seed: gr.update(interactive=False)}

    def _changes(self, before: RunView, view: RunView, older: Sequence[ResultSaved]) -> Updates:
        """The components that show something else after this event, and nothing more."""
        updates: Updates = {}
        if markup.status(view) != markup.status(before):
            updates[self.status] = markup.status(view)
        if (view.shown, view.preview, view.without_preview, view.outcome) != (
            before.shown, before.preview, before.without_preview, before.outcome,
        ):  # fmt: skip
            updates[self.stage] = markup.stage(view)
        seen = [result for result in reversed(view.results) if result.is_visual]
        if seen and view.results != before.results:
            results = [*seen, *older][:KEPT_RESULTS]
            updates[self.results] = results
            updates[self.strip] = markup.strip(results)
            # What the buttons are for, also when a text is on the stage.
            updates[self.looked_at] = view.shown if view.shown in seen else seen[0]
        return updates

    def _buttons(
        self, view: RunView, older: Sequence[ResultSaved], *, ended: bool = False
    ) -> Updates:
        """How every button stands. It goes with each yield, changed or not.

        Gradio sends the difference between two yields, and its page works it into the object of
        the first, also while that still waits to be shown: a button that the second one is silent
        about would keep what it was before either. Texts are replaced whole, and safe.
        """
        pictures = bool(older) or any(result.is_visual for result in view.results)
        again = ended and view.unchanged and self._takes_seed(view.run_id)
        usable = {
            self.generate: ended,
            self.cancel: not ended,
            self.new_seed: again,
            self.use_as_input: pictures,
            self.reuse_seed: pictures,
        }
        return {button: gr.update(interactive=usable) for button, usable in usable.items()}

    def _details(self, view: RunView, title: str, result: ResultSaved | None = None) -> Updates:
        result = result or view.shown
        record = None if result is None else json.loads(Path(result.sidecar).read_text())
        return {self.details: markup.details(markup.summary(title, view), record)}

    def _results_of(self, run_id: str) -> list[ResultSaved]:
        events = self._engine.events(run_id)
        saved = [event for event in events if isinstance(event, ResultSaved)]
        return [result for result in reversed(saved) if result.is_visual]

    def _title_of(self, run_id: str) -> str:
        return next((info.title for info in self._engine.runs() if info.run_id == run_id), "")

    def _takes_seed(self, run_id: str) -> bool:
        return any(info.takes_seed for info in self._engine.runs() if info.run_id == run_id)

    def _for_picture(self, entry: CatalogEntry) -> CatalogEntry | None:
        """This workflow if it takes a picture, else the first that does, ready ones first."""
        others = sorted(self._catalog.entries(), key=lambda other: not other.ready)
        return next((each for each in [entry, *others] if picture_input(each.inputs)), None)
