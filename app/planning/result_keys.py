"""Result keys of steps, and the choice of steps that have to run when results are cached.

Pure: the caller passes what would be loaded and which machine would compute.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from app.dialect.plan import Chain, PipelineStep, Step, SubWorkflowStep
from app.dialect.plan_values import (
    BuiltValue,
    FileValue,
    ListValue,
    ObjectValue,
    ResultValue,
    Value,
)

CALLED_AND_SAVED = {"name", "place", "file_stem", "result", "releases"}
RESOLVED = {"source", "code", "config", "model_folders", "config_cache", "reused", "dtype_open"}
"""Fields about the sources of a step's models; `loaded` identifies them by their files."""
NOT_DECISIVE = CALLED_AND_SAVED | RESOLVED | {"seed_drawn"}
"""Fields of a step that cannot change its result; every other one is part of its key."""
RESOLVED_IN: dict[str, set[str]] = {
    "components": {"class_name", "source", "dtype", "quantisation", "config", "files"},
    "loras": {"source", "weight_name", "adapter_name"},
    "textual_inversions": {"source"},
    "ip_adapters": {"source", "weight_name", "image_encoder", "encoder_source"},
}
"""Parts of a step's fields that `loaded` covers; the rest of these fields is part of its key."""
DESCRIBED = {"arguments", "chain", "calls", "rounds", "seed"}
"""Fields that enter the key in a normalised form, in which equal things are equal."""


_EXCLUDED: dict[str, Any] = {
    **dict.fromkeys(NOT_DECISIVE | DESCRIBED, True),
    "components": {"__all__": RESOLVED_IN["components"]},
    "loras": {"__all__": RESOLVED_IN["loras"]},
    "textual_inversions": {"__all__": RESOLVED_IN["textual_inversions"]},
    "ip_adapters": {"__all__": RESOLVED_IN["ip_adapters"]},
}
"""In pydantic's form."""


def result_key(
    step: Step,
    *,
    loaded: JsonValue,
    machine: JsonValue,
    earlier: Mapping[str, str | None],
) -> str | None:
    """Returns the key of the step's result: equal only where another run would make the same
    result.

    `loaded` identifies everything the step loads, `machine` the device and the libraries; `earlier`
    holds the keys of the steps before. All fields of the step but NOT_DECISIVE and RESOLVED_IN
    count. None where each run makes another result: with a random seed, without a generator (the
    pipeline then draws from torch's own), or with a reference to such a step.
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
    """Returns the names of the steps that have to run where the results in `known` are cached.

    A step without a cached result runs when its files are wanted, when a step that runs refers to
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
    """Returns the steps with cached results that need not run.

    A sub-workflow with several iterations is reused as a whole or not at all.
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
    # Keeping segments has no effect on the result; writing them has, as they are compressed.
    decisive = chain.model_dump(exclude={"prompts", "keep_segments"})
    return [decisive, [_described(prompt, earlier) for prompt in chain.prompts]]


def _argument(reference: ResultValue) -> str:
    """Returns the sub-workflow's argument that received it: of a mapping, the key that picks its
    entry."""
    return reference.handed_at.rpartition(".")[2]


def _described(value: Value, earlier: Mapping[str, str | None]) -> JsonValue:
    match value:
        case FileValue():
            # The file's path has no effect.
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
