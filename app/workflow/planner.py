"""Document + inputs → Plan. Every mistake is found here, before a queue or a model is touched."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue, ValidationError

from app.errors import InvalidInputs, InvalidWorkflow, Problem, WorkbenchError, nearest
from app.settings import SHIPPED_WORKFLOWS, PathSettings
from app.tasks import TASKS
from app.workflow.document import MAX_SEED, InputBlock, StepDocument
from app.workflow.files import can_be_path
from app.workflow.fingerprint import workflow_hash
from app.workflow.inputs import VARIABLE_NAME, InputSpec, check_inputs, input_specs
from app.workflow.loader import RawDocument, parse_document, read_document, shortened
from app.workflow.pipelines import PipelineBuilder
from app.workflow.plan import LiteralValue, Plan, ResultSpec, Step, TaskStep
from app.workflow.pointer import with_changes
from app.workflow.references import Path as Place
from app.workflow.references import Substituted, parse, place, substitute
from app.workflow.sharing import Sharing
from app.workflow.tasks import build_task
from app.workflow.values import ValueReader, problem

MAX_DEPTH = 8


def make_plan(
    workflow: Path,
    inputs: Mapping[str, JsonValue],
    *,
    paths: PathSettings,
    seed: int | None = None,
    changes: Mapping[str, JsonValue] = MappingProxyType({}),
) -> Plan:
    """The plan of this workflow with these inputs.

    `seed` is used by every step that names none of its own; None takes the document's, or draws
    one. `changes` are values of the document that are others in this run, by JSON pointer.
    Raises UnknownWorkflow, InvalidWorkflow or InvalidInputs, with every problem there is.
    """
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise InvalidInputs(f"The seed {seed} is outside 0 to {MAX_SEED}.")
    raw = read_document(workflow)
    specs = declared_inputs(raw)
    values, wrong = check_inputs(specs, inputs, paths.media)
    if wrong:
        raise InvalidInputs(f"'{workflow.stem}' cannot run with these inputs.", wrong)
    planning = _Planning(paths, drawn_seed=secrets.randbits(63))
    origins = {name: ("inputs", name) for name in values}
    planning.add(raw, values, origins, seed=seed, changes=changes)
    if planning.problems:
        # What only arises from what was typed (a missing picture, say) is the inputs' mistake.
        typed = all(found.place.startswith("inputs.") for found in planning.problems)
        error = InvalidInputs if typed else InvalidWorkflow
        raise error(f"'{workflow.stem}' cannot run as it stands.", planning.problems)
    return Plan(
        workflow_id=str(raw.tree["id"]),
        workflow_path=str(workflow.resolve()),
        workflow_hash=workflow_hash(planning.contents),
        document=raw.tree,
        changes=dict(changes),
        inputs={spec.name: values.get(spec.name, spec.default) for spec in specs},
        seed=planning.first_seed,
        seed_given=planning.seed_given,
        steps=tuple(planning.steps),
        warnings=(*raw.warnings, *dict.fromkeys(planning.warnings)),
    )


def declared_inputs(raw: RawDocument) -> tuple[InputSpec, ...]:
    """What the document asks for. Raises InvalidWorkflow where that part is malformed."""
    variables = raw.tree.get("variables", {})
    blocks = raw.tree.get("inputs", {})
    problems: list[Problem] = []
    if not isinstance(variables, dict):
        problems.append(Problem(place="variables", message="An object is needed."))
        variables = {}
    if not isinstance(blocks, dict):
        problems.append(Problem(place="inputs", message="An object is needed."))
        blocks = {}
    problems += [
        Problem(place=f"variables.{name}", message=f"'{name}' is not a name for a variable.")
        for name in variables
        if not VARIABLE_NAME.fullmatch(name)
    ]
    parsed: dict[str, InputBlock] = {}
    for name, block in blocks.items():
        if name not in variables:
            problems.append(
                Problem(
                    place=f"inputs.{name}",
                    message=f"There is no variable '{name}'.",
                    hint=nearest(name, variables),
                )
            )
            continue
        try:
            parsed[name] = InputBlock.model_validate(block)
        except ValidationError as error:
            problems += [
                Problem(place=place(("inputs", name, *wrong["loc"])), message=f"{wrong['msg']}.")
                for wrong in error.errors()
            ]
    if problems:
        raise InvalidWorkflow(f"'{raw.path.stem}' is not a valid workflow.", problems)
    return input_specs(variables, parsed)


class _Planning:
    """One plan in the making: gathers steps, problems and the files the hash covers."""

    def __init__(self, paths: PathSettings, drawn_seed: int) -> None:
        self._paths = paths
        self._drawn_seed = drawn_seed
        self.first_seed = drawn_seed
        self.seed_given = False
        self.steps: list[Step] = []
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.contents: list[bytes] = []
        self._properties: dict[str, tuple[str, ...]] = {}
        """What can be taken of the results of a step, where that is known."""

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
    ) -> str:
        """Add the document's steps; the name of its last one, "" when it could not be read.

        `given` holds what a person typed, or ready `Value`s from a parent workflow; `origins` where
        each was given, for the wording of problems.
        """
        self.contents.append(raw.content)
        tree = self._substituted(raw, given, place_prefix)
        body, changed, wrong = with_changes(tree.tree, changes)
        self.problems += wrong
        document, problems = parse_document({**body, "variables": {}})
        self.problems += [_moved(found, place_prefix) for found in problems]
        if document is None:
            return ""
        workflow_seed = next(s for s in (seed, document.seed, self._drawn_seed) if s is not None)
        if not prefix:
            self.first_seed = workflow_seed
            self.seed_given = seed is not None or document.seed is not None
        names: dict[str, str] = {}
        sharing = Sharing(document)
        for index, step in enumerate(document.steps):
            at = (*place_prefix, "steps", index)
            reader = ValueReader(
                folder=raw.path.parent,
                media=self._paths.media,
                steps=names,
                properties=self._properties,
                literal=tree.literal | changed,
                origins={**_origins(raw, origins), **{path: path for path in changed}},
                problems=self.problems,
                warnings=self.warnings,
            )
            step_seed = workflow_seed if step.seed is None else step.seed
            if step.workflow is not None:
                last = self._add_child(raw, step, at, reader, step_seed, prefix, above)
            else:
                last = f"{prefix}{step.name}"
                result = _result(step, reader, (*at, "result"))
                built: Step | None
                if step.task is not None:
                    built = build_task(step.task, reader, last, at, step_seed, result)
                else:
                    builder = PipelineBuilder(self._paths, reader)
                    if step.pipeline is not None:
                        drawing = builder.build(
                            step, last, at, place_prefix, step_seed, result, sharing
                        )
                        sharing.add(step, last, drawing, at, reader)
                    else:
                        drawing = builder.refer(step, last, at, result, sharing)
                    built = drawing
                if built is not None:
                    drawn = built.seed == self._drawn_seed
                    self.steps.append(built.model_copy(update={"seed_drawn": drawn}))
                if isinstance(built, TaskStep):
                    self._properties[last] = TASKS[built.command].keys
            names[step.name] = last
        return names[document.steps[-1].name] if document.steps else ""

    def _substituted(
        self, raw: RawDocument, given: Mapping[str, Any], place_prefix: Place
    ) -> Substituted:
        declared = raw.tree.get("variables", {})
        values = {**declared, **given}
        # A value that equals the default is the document's own word, not the person's.
        typed = frozenset(name for name in given if given[name] != declared.get(name))
        body = {key: value for key, value in raw.tree.items() if key not in ("variables", "inputs")}
        tree = substitute(body, values, typed)
        for path, name in tree.undeclared:
            self.problems.append(
                Problem(
                    place=place((*place_prefix, *path)),
                    message=f"There is no variable '{name}'.",
                    hint=nearest(name, declared),
                )
            )
        return tree

    def _add_child(
        self,
        raw: RawDocument,
        step: StepDocument,
        at: Place,
        reader: ValueReader,
        step_seed: int,
        prefix: str,
        above: tuple[Path, ...],
    ) -> str:
        """Inline a sub-workflow; its steps are called `parent/child`."""
        assert step.workflow is not None
        where = (*at, "workflow")
        if reader.is_typed((*where, "path")):
            reader.note((*where, "path"), "An input cannot choose a sub-workflow.")
            return ""
        try:
            path = _child_path(raw.path, step.workflow.path)
            if path in above or path == raw.path.resolve() or len(above) >= MAX_DEPTH:
                raise InvalidWorkflow(f"'{path.name}' would run itself again without end.")
            child = read_document(path)
            specs = declared_inputs(child)
        except WorkbenchError as error:
            inner = error.problems or (Problem(place="", message=error.message, hint=error.hint),)
            self.problems += [_moved(found, (*where, "path")) for found in inner]
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
        if step.result is not None:
            message = "A sub-workflow's results are saved by its own steps."
            hint = "Put the result block into the sub-workflow."
            problem(self.problems, (*at, "result"), message, hint)
        return self.add(
            child,
            {**checked, **values},
            origins,
            seed=step_seed if child.tree.get("seed") is None else None,
            prefix=f"{prefix}{step.name}/",
            place_prefix=where,
            above=(*above, raw.path.resolve()),
        )


def _child_path(parent: Path, named: str) -> Path:
    if parse(named) is not None or not can_be_path(parent.parent / named):
        raise InvalidWorkflow(f"'{shortened(named)}' is not a path.")
    if named.startswith("builtin:"):
        name = named.removeprefix("builtin:")
        if "/" in name or "\\" in name:
            raise InvalidWorkflow(f"'{named}' has to name a shipped workflow, without folders.")
        return (SHIPPED_WORKFLOWS / name).resolve()
    path = (parent.parent / named).resolve()
    if not path.is_relative_to(parent.parent.resolve()):
        raise InvalidWorkflow(f"'{named}' lies outside the folder of '{parent.name}'.")
    return path


def _result(step: StepDocument, reader: ValueReader, at: Place) -> ResultSpec | None:
    if step.result is None:
        return None
    name = step.result.file_base_name
    if name and not re.fullmatch(r"[\w][\w .-]{0,99}", name):
        where = (*at, "file_base_name")
        reader.note(where, f"'{name}' is not a plain name for a file.", "Leave folders out.")
    return ResultSpec(**step.result.model_dump(exclude={"embed_metadata"}))


def _origins(raw: RawDocument, given: Mapping[str, Place]) -> dict[Place, Place]:
    """Where the value at each place of the document was given, for those that were."""
    found: dict[Place, Place] = {}

    def walk(value: Any, path: Place) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, (*path, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                walk(item, (*path, index))
        else:
            reference = parse(value)
            if reference and reference.kind == "variable" and reference.target in given:
                found[path] = given[reference.target]

    walk(raw.tree, ())
    return found


def _moved(found: Problem, prefix: Place) -> Problem:
    if not prefix:
        return found
    where = f"{place(prefix)}.{found.place}" if found.place else place(prefix)
    return found.model_copy(update={"place": where})
