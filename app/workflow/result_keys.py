"""What decides what a step makes, as a key; and which steps have to run when results are known.

Pure: who calls says what would be loaded and which machine would compute.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from app.workflow.plan import Chain, PipelineStep, Step, SubWorkflowStep
from app.workflow.plan_values import (
    BuiltValue,
    FileValue,
    ListValue,
    ObjectValue,
    ResultValue,
    Value,
)

CALLED_AND_SAVED = {"name", "place", "file_stem", "result", "releases"}
RESOLVED = {"source", "code", "config", "model_folders", "reused", "dtype_open"}
"""Where what a step loads comes from: what that is says `loaded`, by the identity of its files."""
NOT_DECISIVE = CALLED_AND_SAVED | RESOLVED | {"seed_drawn"}
"""Fields of a step that cannot change what it makes; every other one is part of its key."""
RESOLVED_IN: dict[str, set[str]] = {
    "components": {"class_name", "source", "dtype", "quantisation", "config", "files"},
    "loras": {"source", "weight_name", "adapter_name"},
    "ip_adapter": {"source", "weight_name", "image_encoder", "encoder_source"},
}
"""In these fields of a step, what `loaded` says too; all else in them is part of its key."""
DESCRIBED = {"arguments", "chain", "calls", "rounds", "seed"}
"""Fields that are part of the key in a form in which equal things are equal."""


_EXCLUDED: dict[str, Any] = {
    **dict.fromkeys(NOT_DECISIVE | DESCRIBED, True),
    "components": {"__all__": RESOLVED_IN["components"]},
    "loras": {"__all__": RESOLVED_IN["loras"]},
    "ip_adapter": RESOLVED_IN["ip_adapter"],
}
"""As pydantic is told it."""


def result_key(
    step: Step,
    *,
    loaded: JsonValue,
    machine: JsonValue,
    earlier: Mapping[str, str | None],
) -> str | None:
    """The key of what the step makes: equal only where another run would make the same again.

    `loaded` identifies everything the step loads, `machine` the device and the libraries; `earlier`
    holds the keys of the steps before. Of the step everything counts but NOT_DECISIVE and
    RESOLVED_IN. None where it would be another result each time: with a seed that was drawn,
    without a generator (the pipeline then draws from torch's own), or with a reference to such a
    step.
    """
    if None in [earlier[reference.step] for reference in step.references]:
        return None
    if step.seed_drawn and step.takes_seed:
        return None
    if isinstance(step, SubWorkflowStep):
        return earlier[step.last]
    if isinstance(step, PipelineStep) and not step.generator:
        return None
    decisive = step.model_dump(mode="json", exclude=_EXCLUDED)
    if isinstance(step, PipelineStep):
        decisive["arguments"] = _all_described(step.arguments, earlier)
        decisive["chain"] = None if step.chain is None else _chain_described(step.chain, earlier)
    else:
        decisive["calls"] = [_all_described(call, earlier) for call in step.calls]
    decisive["handed"] = [_described(reference, earlier) for reference in step.handed]
    decisive["seed"] = step.seed if step.takes_seed else None
    text = json.dumps([loaded, machine, decisive])
    return hashlib.sha256(text.encode()).hexdigest()


def steps_to_run(steps: Sequence[Step], known: Collection[str]) -> set[str]:
    """Names of the steps that have to run where the results of those in `known` are remembered.

    A step whose result is not known runs when its files are wanted, when a step that runs refers to
    it, or when no step at all does.
    """
    referred_to = {reference.step for step in steps for reference in step.references}
    needed = {step.name for step in steps if step.saves or step.name not in referred_to}
    running: set[str] = set()
    for step in reversed(steps):
        if step.name in needed and step.name not in known:
            running.add(step.name)
            needed |= {reference.step for reference in step.references}
    return running


def answered(steps: Sequence[Step], known: Collection[str]) -> set[str]:
    """Of the steps whose results are known those that need not run.

    A sub-workflow that runs in rounds is answered as a whole or not at all.
    """
    used = set(known)
    while True:
        running = steps_to_run(steps, used)
        in_rounds = {step.rounds[0].step for step in steps if step.rounds and step.name in running}
        halves = {s.name for s in steps if s.rounds and s.rounds[0].step in in_rounds} & used
        if not halves:
            return used
        used -= halves


def _all_described(
    values: Mapping[str, Value], earlier: Mapping[str, str | None]
) -> dict[str, JsonValue]:
    return {name: _described(value, earlier) for name, value in values.items()}


def _chain_described(chain: Chain, earlier: Mapping[str, str | None]) -> list[JsonValue]:
    # Whether segments are kept decides nothing; that they were written does, they are compressed.
    decisive = chain.model_dump(exclude={"prompts", "keep_segments"})
    return [decisive, [_described(prompt, earlier) for prompt in chain.prompts]]


def _argument(reference: ResultValue) -> str:
    """As which argument of a sub-workflow it was handed in: of a mapping it picks that entry."""
    return reference.handed_at.rpartition(".")[2]


def _described(value: Value, earlier: Mapping[str, str | None]) -> JsonValue:
    match value:
        case FileValue():
            # Where the file lies decides nothing.
            return {value.kind: value.sha256}
        case ResultValue():
            return {"result": [earlier[value.step], value.property, _argument(value)]}
        case BuiltValue():
            media = None if value.media is None else _described(value.media, earlier)
            return {"built": [value.class_name, media, _all_described(value.arguments, earlier)]}
        case ListValue():
            return {"list": [_described(item, earlier) for item in value.items]}
        case ObjectValue():
            return {
                "object": {name: _described(item, earlier) for name, item in value.entries.items()}
            }
    return value.model_dump()
