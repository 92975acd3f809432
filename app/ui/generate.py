"""The main tab: choose a workflow, fill its form, run it, view the results.

The form is rendered for the chosen workflow and only collects values; one static event shows the
run, so that neither switching workflows nor reloading the page disturbs it. The engine is the
queue: no event here holds a slot of Gradio's.
"""

from __future__ import annotations

import contextlib
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.api.heartbeats import with_heartbeats
from app.api.people import People
from app.catalog.catalog import Catalog, CatalogEntry, missing_entry
from app.dialect.document import drawn_seed
from app.errors import ErrorReport, UnknownWorkflow, WorkbenchError
from app.media.files import KIND_NAMES, MediaKind
from app.protocol import ResultSaved
from app.run_view import RunView, advance
from app.settings import PathSettings
from app.ui import markup
from app.ui.current_request import current_request
from app.ui.fit_line import FitLine
from app.ui.form import (
    Field,
    build_form,
    file_input,
    keep_typed,
    read_form,
    read_seed,
    remember,
    with_file,
)
from app.ui.outcome import Outcome, StageState, Updates, media_kind, newest
from app.ui.visits import read_visit, typed_only

if TYPE_CHECKING:
    from app.engine import Engine

KEPT_RUNS = 20
LONGEST_SILENCE_S = 3
"""Time without a change after which the page is told that a run's stream still lives."""


@dataclass(frozen=True)
class Request:
    """The run to show. A new nonce shows it again."""

    run_id: str
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Chosen:
    """The workflow whose form is shown, and the number of forms shown before it."""

    workflow: str = ""
    turn: int = 0

    def then(self, workflow: str) -> Chosen:
        """Returns the next form; one of the same workflow is rendered again too."""
        return Chosen(workflow, self.turn + 1)


class GenerateTab:
    """The tab's components and handlers. Create it inside an open `gr.Blocks`."""

    def __init__(
        self, engine: Engine, catalog: Catalog, paths: PathSettings, people: People
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._paths = paths
        self._people = people
        self.fit = FitLine(engine, paths, people)
        self._lay_out()
        self._wire()

    # --- layout ----------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self.visit = gr.BrowserState(
            read_visit(None), storage_key="workbench-visit", secret="workbench"
        )
        self.visit.preprocess = read_visit
        self.chosen = gr.State(Chosen())
        self.forms = gr.State({})
        self.request = gr.State(None)
        self.current_run = gr.State("")
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=2, min_width=320, elem_id="controls"):
                self.workflow = gr.Dropdown(
                    [], label="Workflow", interactive=True, elem_id="workflow"
                )
                self._form()
                with gr.Row(elem_id="seed-row"):
                    self.seed = gr.Textbox(
                        label="Seed", placeholder="Random", max_lines=1,
                        interactive=True, elem_id="seed",
                    )  # fmt: skip
                    self.random_seed = gr.Button("Random", size="sm", elem_id="seed-random")
                with gr.Row(elem_id="actions"):
                    self.generate = gr.Button(
                        "Generate", variant="primary", elem_id="generate", scale=3
                    )
                    self.cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", scale=1)
            with gr.Column(scale=3, min_width=320, elem_id="outcome"):
                self.outcome = Outcome(self._engine)
                self.beat = gr.HTML("", elem_id="beat")

    def _form(self) -> None:
        @gr.render(  # type: ignore[untyped-decorator]
            inputs=[self.chosen, self.forms], triggers=[self.chosen.change],
            show_progress="hidden",
        )  # fmt: skip
        def form(chosen: Chosen, forms: dict[str, dict[str, Any]]) -> None:
            if not chosen.workflow:
                return
            try:
                entry = self._catalog.find(chosen.workflow)
            except UnknownWorkflow as error:
                entry = missing_entry(chosen.workflow, error.report())
            kept = forms.get(entry.name, {})
            # The browser reuses the element at the same place of the last form and only updates its
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
        """Connects the events that read the form; renewed with every form."""
        components = [field.component for field in fields]

        def submit(seed: str, visit: dict[str, Any], *values: Any) -> Updates:
            if entry.problem is not None:
                return self._refused(entry.problem)
            try:
                request, inputs = current_request(), read_form(fields, values, self._paths)
                run_id = self._engine.submit(
                    Path(entry.path),
                    inputs,
                    seed=read_seed(seed),
                    owner=visit["person"],
                    person=self._people.person(request),
                    check=self._people.check(request, entry, inputs),
                )
            except WorkbenchError as error:
                return self._refused(error.report())
            return self._submitted(run_id)

        self.generate.click(
            submit,
            [self.seed, self.visit, *components],
            self._submit_outputs,
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

        typed = [field for field in fields if field.spec.media is None]
        if typed:
            # In the browser alone, so that it survives reloads and restarts at any moment.
            gr.on(
                [field.component.change for field in typed],
                None,
                [self.visit, *(field.component for field in typed)],
                self.visit,
                js=keep_typed(entry.name, [field.spec.name for field in typed]),
                show_progress="hidden", api_visibility="private",
            )  # fmt: skip

        def switch(
            to: str,
            visit: dict[str, Any],
            chosen: Chosen,
            forms: dict[str, Any],
            status: str,
            *values: Any,
        ) -> Updates:
            return {
                self.visit: {**visit, "workflow": to},
                self.forms: {**forms, entry.name: remember(fields, values)},
                self.chosen: chosen.then(to),
                # An error of the last form does not concern the next.
                **({self.outcome.status: markup.idle()} if markup.is_refusal(status) else {}),
            }

        self.workflow.select(
            switch,
            [self.workflow, self.visit, self.chosen, self.forms, self.outcome.status, *components],
            [self.visit, self.forms, self.chosen, self.outcome.status],
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

        def take_over(
            chosen: Chosen, forms: dict[str, Any], stage_state: StageState, *values: Any
        ) -> Updates:
            forms = {**forms, entry.name: remember(fields, values)}
            result = stage_state.result
            kind = None if result is None else media_kind(result)
            if result is None or kind is None:
                return {self.forms: forms}
            if not result.is_there:
                gr.Warning("The file of this result is no longer there.")
                return {self.forms: forms}
            target = self._entry_for(kind, entry)
            if target is None:
                gr.Warning(f"No workflow here takes a {KIND_NAMES[kind]}.")
                return {self.forms: forms}
            filled = {**forms.get(target.name, {}), **with_file(target.inputs, kind, result.path)}
            return {
                self.forms: {**forms, target.name: filled},
                self.workflow: target.name,
                self.chosen: chosen.then(target.name),
            }

        self.outcome.use_as_input.click(
            take_over,
            [self.chosen, self.forms, self.outcome.stage_state, *components],
            [self.forms, self.workflow, self.chosen],
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    def _wire(self) -> None:
        outcome = self.outcome
        self.request.change(
            self.run,
            [self.request, outcome.results, outcome.stage_state],
            [
                self.generate, self.cancel, self.current_run, outcome.new_seed, outcome.status,
                outcome.stage, outcome.strip, outcome.details, outcome.results, outcome.back,
                outcome.use_as_input, outcome.reuse_seed, self.beat,
            ],
            trigger_mode="once", concurrency_limit=None, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        self.cancel.click(
            self.cancel_run, self.request, None, queue=False, api_visibility="private"
        )
        outcome.new_seed.click(
            self.run_with_new_seed,
            [self.request, self.visit],
            self._submit_outputs,
            concurrency_limit=None, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        self.random_seed.click(None, None, self.seed, js="() => ''", api_visibility="private")
        outcome.reuse_seed.click(
            self.seed_of, outcome.stage_state, self.seed, queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip

    def open_page(self, visit: dict[str, Any]) -> Updates:
        """Fills a loaded page: the current catalog, this person's results, the newest run."""
        entries = self._catalog.entries()
        names = [entry.name for entry in entries]
        wanted = visit["workflow"]
        first = wanted if wanted in names else next(iter(names), "")
        person = visit["person"] or secrets.token_hex(16)
        runs = self._engine.runs(person, limit=KEPT_RUNS)
        older = [info.run_id for info in runs[1:] if info.ended_at is not None]
        results = newest(result for run in older for result in self.outcome.results_of(run))
        return {
            self.workflow: gr.update(
                choices=[(markup.choice_label(entry), entry.name) for entry in entries],
                value=first or None,
            ),
            self.visit: {**visit, "person": person},
            self.forms: {
                entry.name: typed_only(entry.inputs, visit["forms"].get(entry.name, {}))
                for entry in entries
            },
            self.chosen: Chosen(first),
            self.outcome.results: results,
            self.outcome.strip: markup.strip(results),
            self.request: Request(runs[0].run_id) if runs else None,
        }

    @property
    def open_page_outputs(self) -> list[Any]:
        """The components that `open_page` fills."""
        return [self.workflow, self.visit, self.forms, self.chosen, self.outcome.results,
                self.outcome.strip, self.request]  # fmt: skip

    async def run(
        self, request: Request | None, results: list[ResultSaved], stage_state: StageState
    ) -> AsyncIterator[Updates]:
        """Shows the run to its end. Leaving the page ends this handler, never the run."""
        if request is None:
            return
        run_id = request.run_id
        view = RunView(run_id=run_id)
        stage_state.follow(view)
        yield {
            self.current_run: run_id,
            self.outcome.status: markup.status(view),
            self.outcome.stage: markup.stage(view),
            **self._buttons(view, stage_state),
        }
        updated_at = time.monotonic()
        async with contextlib.aclosing(with_heartbeats(self._engine.follow(run_id))) as events:
            async for event in events:
                changed: Updates = {}
                if event is not None:
                    before, view = view, advance(view, event)
                    stage_state.follow(view)
                    changed = self.outcome.changes(before, view, results, stage_state)
                elapsed_s = time.monotonic() - updated_at
                if changed or elapsed_s >= LONGEST_SILENCE_S:
                    updated_at += elapsed_s
                    changed = changed or {self.beat: f"{updated_at:.0f}"}
                    yield {**changed, **self._buttons(view, stage_state)}
        told = {} if stage_state.away else self.outcome.told(view, stage_state.result)
        stage_state.away = False
        yield {self.current_run: "", **told, **self._buttons(view, stage_state, ended=True)}

    def run_with_new_seed(self, request: Request | None, visit: dict[str, Any]) -> Updates:
        """Runs the shown run again with a new seed, whatever the form holds by now."""
        if request is None:
            return {self.outcome.new_seed: gr.update(interactive=False)}
        try:
            run_id = self._engine.run_again(
                request.run_id,
                seed=drawn_seed(),
                owner=visit["person"],
                person=self._people.person(current_request()),
            )
        except WorkbenchError as error:
            return self._refused(error.report())
        return self._submitted(run_id)

    def cancel_run(self, request: Request | None) -> None:
        """Cancels the run this page shows; a run that is over is not changed."""
        if request is not None:
            self._engine.cancel(request.run_id)

    @staticmethod
    def seed_of(stage_state: StageState) -> str:
        """Returns the shown result's seed as text: it may exceed a browser's integers."""
        return "" if stage_state.result is None else str(stage_state.result.seed)

    # --- what the handlers share -----------------------------------------------------------------

    @property
    def _submit_outputs(self) -> list[Any]:
        return [self.request, self.generate, self.outcome.status, self.outcome.new_seed]

    def _submitted(self, run_id: str) -> Updates:
        return {
            self.request: Request(run_id),
            # In the same update, or a second click would start a run that nobody sees.
            self.generate: gr.update(interactive=False),
            self.outcome.new_seed: gr.update(interactive=False),
        }

    def _refused(self, error: ErrorReport) -> Updates:
        return {
            self.outcome.status: markup.refused(error),
            self.outcome.new_seed: gr.update(interactive=False),
        }

    def _buttons(self, view: RunView, stage_state: StageState, *, ended: bool = False) -> Updates:
        """Returns the state of every button, with each yield, changed or not.

        Gradio sends the difference between two yields, and its page merges it into the object of
        the first, even while that still waits to be shown: a button that the second one omits would
        keep the state from before either. Texts are replaced whole, and safe.
        """
        again = ended and view.unchanged and self._engine.info(view.run_id).takes_seed
        usable = {self.generate: ended, self.cancel: not ended, self.outcome.new_seed: again}
        return {
            **{button: gr.update(interactive=usable) for button, usable in usable.items()},
            **self.outcome.buttons(stage_state),
        }

    def _entry_for(self, kind: MediaKind, entry: CatalogEntry) -> CatalogEntry | None:
        """Returns this workflow if it takes such a file, else the first that does, ready ones
        first."""
        # One that needs a model to be chosen too comes after the others.
        others = sorted(
            self._catalog.entries(),
            key=lambda other: (not other.ready, any(s.models and s.required for s in other.inputs)),
        )
        return next((each for each in [entry, *others] if file_input(each.inputs, kind)), None)
