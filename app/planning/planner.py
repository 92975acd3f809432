"""Makes a Plan of a document and its inputs. All mistakes are found here, before a run is queued or
a model loaded."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue

from app.dialect.document import MAX_SEED, StepDocument, drawn_seed
from app.dialect.fingerprint import workflow_hash
from app.dialect.inputs import check_inputs, seed_of_run, unfit
from app.dialect.loader import RawDocument, parse_document, read_document
from app.dialect.plan import (
    MAX_ITERATIONS,
    PipelineStep,
    Plan,
    Rounds,
    Step,
    SubWorkflowStep,
    TaskStep,
)
from app.dialect.plan_values import LiteralValue, references_in
from app.dialect.references import (
    MAX_NODES,
    Substituted,
    TooManyNodes,
    TooManyProblems,
    place,
    problem,
    substitute,
)
from app.dialect.references import Path as Place
from app.dialect.request import request_problems, with_changes
from app.errors import (
    InvalidInputs,
    InvalidWorkflow,
    Problem,
    WorkbenchError,
    nearest,
    shortened,
)
from app.planning.across_steps import FrameRates, Iterations, Releases, Sharing
from app.planning.calls import output_fields
from app.planning.declarations import MAX_DEPTH, child_path, declared_inputs
from app.planning.pipelines import PipelineBuilder
from app.planning.results import read_result
from app.planning.tasks import build_task
from app.planning.values import ValueReader
from app.settings import PathSettings
from app.tasks import TASKS

NOT_SUBSTITUTED = {"variables", "inputs", "$schema"}
"""Keys of a document in which nothing is substituted; `$schema` is for editors alone."""
NO_VALUE = ("There is no variable", "The default of variable", "There is no constant")
"""Beginnings of the messages about missing values."""


def make_plan(
    workflow: Path,
    inputs: Mapping[str, JsonValue],
    *,
    paths: PathSettings,
    seed: int | None = None,
    changes: Mapping[str, JsonValue] = MappingProxyType({}),
) -> Plan:
    """Returns the plan of this workflow with these inputs.

    `seed` is used by every step that names none of its own; None takes the document's, or draws
    one. `changes` replace values of the document for this run, by JSON pointer. Raises
    UnknownWorkflow, InvalidWorkflow or InvalidInputs, with all problems.
    """
    if unreadable := request_problems(inputs, changes):
        raise InvalidInputs(f"'{workflow.stem}' cannot be run with this request.", unreadable)
    raw = read_document(workflow)
    specs = declared_inputs(raw)
    values, wrong = check_inputs(specs, inputs, paths.media)
    if seed is not None and not 0 <= seed <= MAX_SEED:
        wrong.append(Problem(place="seed", message=f"{seed} is outside 0 to {MAX_SEED}."))
    if wrong:
        raise InvalidInputs(f"'{workflow.stem}' cannot run with these inputs.", wrong)
    seed = seed_of_run(specs, values, seed, raw.tree.get("seed"))
    planning = planned(raw, values, paths, seed, changes)
    if problems := planning.mistakes():
        # A problem that only a typed value causes (a missing image, say) is the inputs'.
        typed = all(found.place.startswith("inputs.") for found in problems)
        error = InvalidInputs if typed else InvalidWorkflow
        raise error(f"'{workflow.stem}' cannot run as it stands.", problems)
    return Plan(
        workflow_id=str(raw.tree["id"]),
        workflow_path=str(workflow.resolve()),
        workflow_hash=workflow_hash(planning.contents),
        document=json.loads(raw.content),
        changes=dict(changes),
        inputs={spec.name: values.get(spec.name, spec.default) for spec in specs},
        seed=planning.first_seed,
        seed_given=planning.seed_given,
        steps=tuple(planning.steps),
        limits=paths.limits,
        warnings=tuple(dict.fromkeys(planning.warnings)),
    )


def planned(
    raw: RawDocument,
    values: Mapping[str, Any],
    paths: PathSettings,
    seed: int | None = None,
    changes: Mapping[str, JsonValue] = MappingProxyType({}),
) -> Planning:
    """Returns the steps of the document with these inputs, and all problems."""
    planning = Planning(paths, drawn_seed=drawn_seed())
    origins = {name: ("inputs", name) for name in values}
    with contextlib.suppress(TooManyProblems):
        planning.add(raw, values, origins, seed=seed, changes=changes)
    return planning


class Planning:
    """One plan under construction: its steps, its problems and the files its hash covers."""

    def __init__(self, paths: PathSettings, drawn_seed: int) -> None:
        self._paths = paths
        self._drawn_seed = drawn_seed
        self.first_seed = drawn_seed
        self.seed_given = False
        self.steps: list[Step] = []
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self._without_value: list[str] = []
        """Places whose variable has no value; problems that follow from that are not reported."""
        self.contents: list[bytes] = []
        self.files: list[Path] = []
        self._properties: dict[str, tuple[str, ...]] = {}
        """The known properties of a step's results."""
        self._releases = Releases()
        self._iterations = Iterations()
        self._paces = FrameRates()
        self._nodes = 0

    def mistakes(self) -> list[Problem]:
        """Returns the problems, without those that only follow from another."""
        told = dict.fromkeys(self.problems)
        return [found for found in told if not self._is_follow_up(found)]

    def _is_follow_up(self, found: Problem) -> bool:
        return not found.message.startswith(NO_VALUE) and any(
            found.place == place or found.place.startswith((f"{place}.", f"{place}["))
            for place in self._without_value
        )

    def add(
        self,
        raw: RawDocument,
        given: Mapping[str, Any],
        origins: Mapping[str, Place],
        *,
        seed: int | None,
        changes: Mapping[str, JsonValue] = MappingProxyType({}),
        prefix: str = "",
        place_prefix: Place = (),
        above: tuple[Path, ...] = (),
        rounds: tuple[Rounds, ...] = (),
    ) -> str:
        """Adds the document's steps; returns the name of the last one, "" for an unreadable
        document.

        `given` holds typed values, or ready `Value`s from a parent workflow; `origins` the place
        where each was given, for messages.
        """
        self.contents.append(raw.content)
        self.files.append(raw.path)
        self.warnings += raw.warnings
        tree = self._substituted(raw, given, place_prefix)
        body, changed, wrong = with_changes(tree.tree, changes)
        # Each change may be shallow, and one inside the other deep.
        if changed and (deep := unfit(body)):
            wrong.append(Problem(place="changes", message=f"The changed document {deep}."))
            body = tree.tree
        self.problems += wrong
        parsed = parse_document({**body, "variables": {}})
        given_at = {
            path: origins[name] for path, name in tree.references.items() if name in origins
        }
        told_at = {place(path): place(where) for path, where in given_at.items()}
        for found in parsed.problems:
            if found.place in told_at:
                self.problems.append(found.model_copy(update={"place": told_at[found.place]}))
            else:
                self.problems.append(_prefixed(found, place_prefix))
        self.warnings += [_prefixed_text(text, place_prefix) for text in parsed.warnings]
        document = parsed.document
        if document is None:
            return ""
        workflow_seed = next(s for s in (seed, document.seed, self._drawn_seed) if s is not None)
        if not prefix:
            self.first_seed = workflow_seed
            self.seed_given = seed is not None or document.seed is not None
        names: dict[str, str] = dict.fromkeys(parsed.unread, "")
        sharing = Sharing(document)
        reader = ValueReader(
            folder=raw.path.parent,
            media=self._paths.media,
            urls=self._paths.urls,
            limits=self._paths.limits,
            variables=tree.references,
            steps=names,
            all_steps=_names(tree.tree.get("steps")),
            properties=self._properties,
            literal=tree.literal | changed,
            origins={**given_at, **{path: path for path in changed}},
            problems=self.problems,
            warnings=self.warnings,
        )
        for index, step in zip(parsed.positions, document.steps, strict=True):
            at = (*place_prefix, "steps", index)
            built: Step | None
            step_seed = workflow_seed if step.seed is None else step.seed
            before = len(self.steps)
            if step.workflow is not None:
                last = self._add_child(raw, step, at, reader, step_seed, prefix, above, rounds)
                built = None
                if step.result is not None and last:
                    built = SubWorkflowStep(
                        name=f"{prefix}{step.name}",
                        place=place(at),
                        seed=step_seed,
                        result=read_result(step.result, reader, (*at, "result")),
                        last=last,
                    )
            else:
                last = f"{prefix}{step.name}"
                result = read_result(step.result, reader, (*at, "result"))
                if step.task is not None:
                    built = build_task(step.task, reader, self._paths, last, at, step_seed, result)
                else:
                    builder = PipelineBuilder(self._paths, reader)
                    if step.pipeline is not None:
                        drawing = builder.build(step, last, at, step_seed, result, sharing)
                        sharing.add(step, last, drawing, at, reader)
                    else:
                        drawing = builder.refer(step, last, at, result, sharing)
                    built = drawing
            if built is not None:
                known = {
                    "seed_drawn": built.seed == self._drawn_seed,
                    "file_stem": f"{document.id}-{step.name}.{index}",
                    "rounds": rounds,
                }
                built = self._paces.with_rate(built.model_copy(update=known))
                self.steps.append(built)
                self._count(built, reader, at)
            self._releases.note(step, self.steps, before, at, reader)
            names[step.name] = last
        return names[document.steps[-1].name] if document.steps else ""

    def _count(self, step: Step, reader: ValueReader, at: Place) -> None:
        """Records the step's results, and notes too many of them."""
        if isinstance(step, TaskStep):
            self._properties[step.name] = TASKS[step.command].keys
        elif isinstance(step, PipelineStep):
            # A repository's own class may return other fields.
            fields = () if step.code is not None else output_fields(step.pipeline_class)
            self._properties[step.name] = fields
        runs = self._iterations.add(step)
        if runs > MAX_ITERATIONS:
            message = f"Step '{step.name}' would run {runs} times; {MAX_ITERATIONS} at most."
            reader.note(at, message, "It runs once for every combination of earlier results.")

    def _substituted(
        self, raw: RawDocument, given: Mapping[str, Any], place_prefix: Place
    ) -> Substituted:
        declared = raw.tree.get("variables", {})
        # A value that equals the default counts as the document's own, not the person's.
        own = {name for name, value in given.items() if value == declared.get(name)}
        typed = frozenset(given) - own
        body = {key: value for key, value in raw.tree.items() if key not in NOT_SUBSTITUTED}
        try:
            tree = substitute(body, {**declared, **given}, typed=typed, given=typed)
        except TooManyNodes:
            raise InvalidWorkflow(
                f"'{raw.path.name}' has more than {MAX_NODES} parts once its variables are"
                " replaced; a workflow is a small document."
            ) from None
        self._nodes += tree.nodes
        if self._nodes > MAX_NODES:
            raise InvalidWorkflow(f"The sub-workflows have more than {MAX_NODES} parts together.")
        if declared or not tree.undeclared:
            self._note_undeclared(tree, declared, place_prefix)
        else:
            self._note_no_variables(raw, tree, place_prefix)
        for path, name in tree.endless:
            message = f"{NO_VALUE[1]} '{name}' leads back to itself."
            problem(self.problems, (*place_prefix, *path), message)
        for path, message in raw.wrong_constants:
            problem(self.problems, (*place_prefix, *path), message)
        # A variable whose default holds such a constant has no value anywhere.
        unset = {path[1] for path, _ in raw.wrong_constants if path[0] == "variables"}
        unset_at = [(path, name) for path, name in tree.references.items() if name in unset]
        self._without_value += [
            place((*place_prefix, *path))
            for path, _ in (*tree.undeclared, *tree.endless, *raw.wrong_constants, *unset_at)
        ]
        return tree

    def _note_undeclared(
        self, tree: Substituted, declared: Mapping[str, Any], place_prefix: Place
    ) -> None:
        """Notes each undeclared name once, at its first place."""
        places: dict[str, list[Place]] = {}
        for path, name in tree.undeclared:
            places.setdefault(name, []).append(path)
        for name, (first, *others) in places.items():
            also = f" It is named in {len(others)} more place(s)." if others else ""
            message, hint = f"{NO_VALUE[0]} '{name}'.{also}", nearest(name, declared)
            problem(self.problems, (*place_prefix, *first), message, hint)

    def _note_no_variables(self, raw: RawDocument, tree: Substituted, place_prefix: Place) -> None:
        """Notes one problem for all variables missing with the block that declares them."""
        names = list(dict.fromkeys(name for _, name in tree.undeclared))
        listed = shortened(", ".join(f"'{name}'" for name in names))
        mistyped = [key for key in raw.tree if nearest(key, ["variables"])]
        message = f"{NO_VALUE[0]} {listed}: the document declares none."
        hint = f"'{mistyped[0]}' should be 'variables'." if mistyped else ""
        path = tree.undeclared[0][0] if not mistyped else (mistyped[0],)
        problem(self.problems, (*place_prefix, *path), message, hint)

    def _add_child(
        self,
        raw: RawDocument,
        step: StepDocument,
        at: Place,
        reader: ValueReader,
        step_seed: int,
        prefix: str,
        above: tuple[Path, ...],
        rounds: tuple[Rounds, ...],
    ) -> str:
        """Inlines a sub-workflow; its steps are named `parent/child`."""
        assert step.workflow is not None
        where = (*at, "workflow")
        if reader.is_typed((*where, "path")):
            reader.note((*where, "path"), "An input cannot choose a sub-workflow.")
            return ""
        try:
            path = child_path(raw.path, step.workflow.path)
            if path in above or path == raw.path.resolve() or len(above) >= MAX_DEPTH:
                raise InvalidWorkflow(f"'{path.name}' would run itself again without end.")
            child = read_document(path)
            specs = declared_inputs(child, deep=False)
        except WorkbenchError as error:
            inner = error.problems or (Problem(place="", message=error.message, hint=error.hint),)
            self.problems += [_prefixed(found, (*where, "path")) for found in inner]
            return ""
        values: dict[str, Any] = {}
        literals: dict[str, JsonValue] = {}
        for name, argument in step.workflow.arguments.items():
            value = reader.read(argument, (*where, "arguments", name), handed_down=True)
            if isinstance(value, LiteralValue):
                literals[name] = value.value
            else:
                values[name] = value
        known = {spec.name for spec in specs}
        checked, wrong = check_inputs(specs, literals, self._paths.media)
        origins = {name: reader.origin((*where, "arguments", name)) for name in literals}
        for found in wrong:
            name = found.place.removeprefix("inputs.")
            at_parent = origins.get(name, (*where, "arguments", name))
            self.problems.append(found.model_copy(update={"place": place(at_parent)}))
        for name in values.keys() - known:
            message = f"The sub-workflow has no variable '{name}'."
            problem(self.problems, (*where, "arguments", name), message, nearest(name, known))
        # Results handed to this workflow itself are the same in all iterations of this step.
        here = f"{place((*where, 'arguments'))}."
        handed = tuple(
            found for found in references_in(values.values()) if found.handed_at.startswith(here)
        )
        if handed:
            rounds = (*rounds, Rounds(step=f"{prefix}{step.name}", references=handed))
        return self.add(
            child,
            {**checked, **values},
            origins,
            seed=step_seed if child.tree.get("seed") is None else None,
            prefix=f"{prefix}{step.name}/",
            place_prefix=where,
            above=(*above, raw.path.resolve()),
            rounds=rounds,
        )


def _names(steps: Any) -> list[str]:
    """Returns the names of a document's steps, "" for a step without one."""
    items = steps if isinstance(steps, list) else []
    return [str(step.get("name", "")) if isinstance(step, dict) else "" for step in items]


def _prefixed(found: Problem, prefix: Place) -> Problem:
    if not prefix:
        return found
    where = f"{place(prefix)}.{found.place}" if found.place else place(prefix)
    return found.model_copy(update={"place": where})


def _prefixed_text(warning: str, prefix: Place) -> str:
    return f"{place(prefix)}.{warning}" if prefix else warning
