"""Relations between a plan's steps: iterations, frame rates, releases, and shared components."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping

from app.dialect.document import PipelineBlock, StepDocument, WorkflowDocument
from app.dialect.installed.signatures import call_signature
from app.dialect.plan import MAX_ITERATIONS, PipelineStep, Step, SubWorkflowStep, TaskStep
from app.dialect.plan_values import ListValue, LiteralValue, ResultValue, Value, references_in
from app.dialect.references import Path as Place
from app.errors import LoadError, nearest
from app.models.resolve import component_names, misfit
from app.models.specs import Unknown
from app.planning.component_lists import lengths
from app.planning.values import ValueReader
from app.tasks import TASKS

# --- how often a step runs ------------------------------------------------------------------------

PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt")


class Iterations:
    """Counts the runs of a plan's steps, in their order."""

    def __init__(self) -> None:
        self._runs: dict[str, int] = {}
        self._artifacts: dict[str, int] = {}

    def add(self, step: Step) -> int:
        """Returns how often this step, the next one of the plan, runs at least."""
        if isinstance(step, SubWorkflowStep):
            self._runs[step.name] = self._runs.get(step.last, 1)
            self._artifacts[step.name] = self._artifacts.get(step.last, 1)
            return self._runs[step.name]
        calls = [step.arguments] if isinstance(step, PipelineStep) else step.calls
        rounds = self._product(step.handed)
        runs = rounds * sum(self._combinations(call) for call in calls)
        self._runs[step.name] = runs
        self._artifacts[step.name] = rounds * sum(
            self._combinations(call) * _made_by(step, call) for call in calls
        )
        return runs

    def _combinations(self, arguments: Mapping[str, Value]) -> int:
        found = references_in(arguments.values())
        # Each iteration of a sub-workflow gets one of the results it is handed.
        return self._product(reference for reference in found if not reference.handed_at)

    def _product(self, references: Iterable[ResultValue]) -> int:
        counts = (
            (self._runs if found.property else self._artifacts).get(found.step, 1)
            for found in references
        )
        # A product over many references has thousands of digits, so it is capped.
        product = 1
        for count in counts:
            product = min(product * count, MAX_ITERATIONS**2)
        return product


def _made_by(step: PipelineStep | TaskStep, call: Mapping[str, Value]) -> int:
    """Returns the least number of results of one run."""
    if not isinstance(step, PipelineStep):
        gathered = call.get("images") if step.command == "gather_images" else None
        return max(1, len(gathered.items)) if isinstance(gathered, ListValue) else 1
    prompt = _literal(call.get("prompt"))
    prompts = len(prompt) if isinstance(prompt, list) and prompt else 1
    each = (_literal(call.get(name)) for name in PER_PROMPT)
    return prompts * math.prod(count for count in each if isinstance(count, int) and count > 0)


def _literal(value: Value | None) -> object:
    return value.value if isinstance(value, LiteralValue) else None


# --- frames per second ----------------------------------------------------------------------------

ARGUMENTS = ("frame_rate", "fps")
"""The names of a frame rate in calls."""
OF_FILMS = ("video/", "image/gif")


class FrameRates:
    """Frame rates of videos whose result block names none, for the steps read so far.

    The dialect's default of eight is right for a video without any frame rate. A video made for 24
    (by its call's `frame_rate`, its audio or its chain) matches its audio only at 24.
    """

    def __init__(self) -> None:
        self._paces: dict[str, float] = {}

    def with_rate(self, step: Step) -> Step:
        """Returns the step with a frame rate in its result where the document leaves that open: its
        chain's, its call's, else that of the steps whose videos it takes."""
        result = step.result
        said = None if result is None else result.fps
        pace = said or _own(step) or self._inherited(step)
        if pace is None:
            return step
        self._paces[step.name] = pace
        if said or result is None or not result.content_type.startswith(OF_FILMS):
            return step
        return step.model_copy(update={"result": result.model_copy(update={"fps": pace})})

    def _inherited(self, step: Step) -> float | None:
        paces = (self._paces.get(each.step) for each in step.references)
        found = {pace for pace in paces if pace is not None}
        factors = _quickened(step)
        return found.pop() * factors.pop() if len(found) == len(factors) == 1 else None


def _quickened(step: Step) -> set[float]:
    """Returns the factors by which the step's calls multiply a video's frame rate."""
    task = TASKS[step.command] if isinstance(step, TaskStep) else None
    if not isinstance(step, TaskStep) or task is None or not task.quickens_by:
        return {1}
    usual = task.arguments.model_fields[task.quickens_by].default
    factors = (_literal(call.get(task.quickens_by)) or usual for call in step.calls)
    return {factor for factor in factors if isinstance(factor, int)}


def _own(step: Step) -> float | None:
    if isinstance(step, TaskStep):
        found = {_argued(call) for call in step.calls}
        return found.pop() if len(found) == 1 else None
    if not isinstance(step, PipelineStep):
        return None
    of_chain = None if step.chain is None else step.chain.fps
    return of_chain or _argued(step.arguments) or _usual(step)


def _argued(call: Mapping[str, Value]) -> float | None:
    for name in ARGUMENTS:
        value = call.get(name)
        if isinstance(value, LiteralValue) and (pace := _pace(value.value)):
            return pace
    return None


def _usual(step: PipelineStep) -> float | None:
    """Returns the pipeline's default, where the call names none."""
    signature = call_signature(step.pipeline_class.rpartition(".")[2])
    for parameter in signature.parameters if signature is not None else ():
        if parameter.name in ARGUMENTS and parameter.name not in step.arguments:
            return _pace(ast.literal_eval(parameter.default)) if parameter.default else None
    return None


def _pace(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= 240 else None  # type: ignore[arg-type,operator]


# --- what a step releases -------------------------------------------------------------------------


class Releases:
    """Releases of the documents read so far."""

    def __init__(self) -> None:
        self._tasks: list[str] = []
        """The task steps, which `release_models` refers to."""

    def note(
        self, step: StepDocument, steps: list[Step], before: int, at: Place, reader: ValueReader
    ) -> None:
        """Records the releases in the last of `steps`; the first `before` of them were there before
        this step of the document, which may be a sub-workflow."""
        made = [each.name for each in steps[before:]]
        if step.task is not None:
            self._tasks += made
            if step.release_pipeline:
                message = "A task has no pipeline."
                reader.note(
                    (*at, "release_pipeline"), message, "Release its models with 'release_models'."
                )
        leaving = [name for name in made if name not in self._tasks] * step.release_pipeline
        leaving += self._tasks * step.release_models
        if leaving and made:
            together = tuple(dict.fromkeys((*steps[-1].releases, *leaving)))
            steps[-1] = steps[-1].model_copy(update={"releases": together})


# --- what steps share -----------------------------------------------------------------------------


class Sharing:
    """The shared components of the steps read so far; a sub-workflow has a Sharing of its own."""

    def __init__(self, document: WorkflowDocument) -> None:
        self._document = document
        self._sharing: dict[str, str] = {}
        """The last step that shares each component."""
        self._built: dict[str, PipelineStep | None] = {}
        """Pipeline steps by their name in the document; None for one with a mistake."""

    def add(
        self,
        step: StepDocument,
        name: str,
        built: PipelineStep | None,
        at: Place,
        reader: ValueReader,
    ) -> None:
        """Records a pipeline step, named `name` in the plan, and its shared components."""
        assert step.pipeline is not None
        self._built[step.name] = built
        known = None if built is None else known_components(built)
        for component, where in _named(step.pipeline, (*at, "pipeline"), "shared_components"):
            if known is not None and not known.get(component):
                message = f"The pipeline of '{step.name}' has no component '{component}'."
                reader.note(where, message, nearest(component, known))
            self._sharing[component] = name

    def reused(self, block: PipelineBlock, at: Place, reader: ValueReader) -> dict[str, str]:
        """Returns the plan's step for each component the block reuses."""
        found: dict[str, str] = {}
        for component, where in _named(block, at, "reused_components"):
            if component in self._sharing:
                found[component] = self._sharing[component]
            else:
                message = f"No earlier step shares '{component}'."
                reader.note(where, message, self._hint(component))
        for name in ("scheduler", "audio_scheduler"):
            if name in found and getattr(block, name) is not None:
                message = "A scheduler that is reused cannot be changed."
                reader.note((*at, name), message, "Leave it out of 'reused_components'.")
        return found

    def list_lengths(self, components: Iterable[str], reused: Mapping[str, str]) -> dict[str, int]:
        """Returns the length of each list among a step's components, its own and reused ones."""
        found = lengths(components)
        planned = {built.name: built for built in self._built.values() if built is not None}
        for component, name in reused.items():
            if (sharing := planned.get(name)) is not None:
                theirs = self.list_lengths(sharing.components, sharing.reused)
                found |= {each: count for each, count in theirs.items() if each == component}
        return found

    def step(self, name: str, at: Place, reader: ValueReader) -> PipelineStep | None:
        """Returns the earlier pipeline step of this name in the document; notes a problem for
        none."""
        if name in self._built:
            return self._built[name]
        later = name in [step.name for step in self._document.steps if step.pipeline is not None]
        hint = f"Step '{name}' comes later." if later else nearest(name, self._built)
        reader.note(at, f"There is no earlier pipeline step '{name}'.", hint)
        return None

    def _hint(self, component: str) -> str:
        for step in self._document.steps:
            if step.name in self._built or step.pipeline is None:
                continue
            if component in dict(_named(step.pipeline, (), "shared_components")):
                return f"Step '{step.name}' shares it and has to come first."
        return nearest(component, self._sharing)


def check_assembled(
    pipeline_class: str, block: PipelineBlock, at: Place, reader: ValueReader
) -> None:
    """Notes problems of a pipeline without a model, which has only the components it is given."""
    stands_for = pipeline_class.rpartition(".")[2].startswith(("DiffusionPipeline", "AutoPipe"))
    given = any(block.all_component_blocks) or block.reused_components
    if stands_for or not (given or block.configuration.reused_components):
        message = "The name of a model is needed: a folder or 'owner/name'."
        reader.note((*at, "model_name"), message)


def check_components(step: PipelineStep, at: Place, reader: ValueReader) -> None:
    """Notes missing components, and warns of those that the pipeline does not take, as far as the
    model is known."""
    if step.modular is not None or step.code is not None:
        return
    try:
        found = misfit(step)
    except (LoadError, Unknown):
        return
    if found.error is not None:
        reader.note(at, found.error.message, found.error.hint)
    for name in found.idle:
        reader.warn_of_idle((*at, name), f"{found.class_name} takes no '{name}'")


def _named(block: PipelineBlock, at: Place, key: str) -> list[tuple[str, Place]]:
    """Returns the components in the list of this key, from both of its places."""
    settings = getattr(block.configuration, key)
    beside = getattr(block, key)
    return [
        *((name, (*at, "configuration", key, index)) for index, name in enumerate(settings)),
        *((name, (*at, key, index)) for index, name in enumerate(beside)),
    ]


def known_components(step: PipelineStep) -> dict[str, bool] | None:
    """Returns the pipeline's components by name, False for one set to null; None where the model is
    not local yet."""
    try:
        return component_names(step)
    except (LoadError, Unknown):
        # Loading the model tells about its problems.
        return None
