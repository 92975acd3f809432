"""Plans a task's models: its components, their sources, and its device."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from app.dialect.files import PICKLE_SUFFIXES
from app.dialect.plan import PipelineStep, ResultSpec
from app.dialect.plan_sources import ComponentBlock, ModelSource
from app.dialect.plan_values import LiteralValue, Value
from app.dialect.references import Path as Place
from app.dialect.references import place
from app.planning.loading_arguments import is_trusted
from app.planning.pipelines import PipelineBuilder
from app.planning.single_files import SingleFiles
from app.planning.values import ValueReader
from app.settings import PathSettings
from app.tasks.task import UNKNOWN, Loads, Task

CONFIG = "config.json"
HUB_FILE = "https://huggingface.co/{}/blob/main/{}"
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class Call(NamedTuple):
    """The arguments of one call while they are being read."""

    place: Place
    values: dict[str, Value]
    samples: dict[str, Any]
    """A sample of each value's kind, to check it with."""
    devices: list[Any]
    """The requested device, if any."""


def with_defaults(task: Task, samples: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments with defaults for those that are not given."""
    fields = task.arguments.model_fields.items()
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields}
    return {**defaults, **samples}


def task_components(
    task: Task,
    calls: Iterable[Call],
    reader: ValueReader,
    builder: PipelineBuilder,
    paths: PathSettings,
) -> dict[str, ComponentBlock]:
    """Returns the components that a step's calls load, by name; the same for all of them.

    Notes a model that does not exist, that an earlier step would name, or that differs between
    calls.
    """
    wanted: tuple[Loads, ...] | None = None
    found: dict[str, ComponentBlock] = {}
    for call in calls:
        loads = task.loads(with_defaults(task, call.samples))
        if wanted is None:
            wanted = loads
            for each in loads:
                if (block := _component(each, call.place, reader, builder, paths)) is not None:
                    found[each.name] = block
        elif loads != wanted:
            reader.note(call.place, "All inputs of one step have to need the same models.")
    return found


def pipeline_call(
    task: Task,
    calls: list[Call],
    reader: ValueReader,
    builder: PipelineBuilder,
    name: str,
    at: Place,
    seed: int,
    result: ResultSpec | None,
) -> PipelineStep | None:
    """Returns the pipeline step that a task stands for; None with its problems noted."""
    assert task.becomes is not None
    call, *more = calls
    for other in more:
        reader.note(other.place, "This task takes one picture at a time.", "Use 'arguments'.")
    values = with_defaults(task, call.samples)
    becomes = task.becomes(values)
    source = builder.models.named(becomes.model, call.place, "model_name")
    if source is None or more:
        return None
    for key in call.values.keys() - {*becomes.arguments, "mode", "model_name"}:
        reader.warnings.append(f"'{key}' is not used here: {place((*call.place, key))}.")
    return PipelineStep(
        name=name,
        place=place(at),
        pipeline_class=becomes.pipeline_class,
        source=source,
        dtype_open=True,
        arguments={
            key: call.values[key] if key in call.values else LiteralValue(value=values[key])
            for key in becomes.arguments
        },
        seed=seed,
        result=result,
    )


def computes_on_cpu(calls: Iterable[Call], reader: ValueReader) -> bool:
    """Returns True if the document keeps the task off the accelerator. There is no other choice, as
    a worker has one device."""
    wanted = set()
    for call in calls:
        for device in call.devices:
            if not isinstance(device, str) or not DEVICE.fullmatch(device):
                where = (*call.place, "device")
                reader.note(where, f"{device!r} is no device.", "Use 'cpu', or leave it out.")
        wanted.add(call.devices == ["cpu"])
    if len(wanted) > 1:
        reader.note(call.place, "All inputs of one step compute on the same device.")
    return True in wanted


def _of_files(
    wanted: Loads, source: ModelSource, where: Place, reader: ValueReader, paths: PathSettings
) -> ComponentBlock | None:
    """Returns a component whose own library reads it; pickles only if the operator allows them."""
    are_pickles = any(Path(file).suffix in PICKLE_SUFFIXES for file in wanted.files.values())
    if are_pickles and not paths.allow_pickles:
        message = f"The weights of '{source.model}' are pickles, which may hold code."
        reader.note(where, message, "Start the workbench with --allow-pickles to read them.")
        return None
    for file in wanted.files.values():
        if source.folder is not None and not (Path(source.folder) / file).is_file():
            reader.note(where, f"'{source.model}' has no file '{file}'.")
    return ComponentBlock(class_name=wanted.class_name, source=source, files=dict(wanted.files))


def _component(
    wanted: Loads, at: Place, reader: ValueReader, builder: PipelineBuilder, paths: PathSettings
) -> ComponentBlock | None:
    where = (*at, wanted.argument)
    if wanted.model is UNKNOWN:
        reader.note(where, "A model is named in the document; no step can name it.")
        return None
    if wanted.file is not None:
        named = wanted.model if not wanted.file else HUB_FILE.format(wanted.model, wanted.file)
        source = SingleFiles(paths, reader).read(named, where, ("upscale_models",))
        return ComponentBlock(class_name=wanted.class_name, source=source) if source else None
    source = builder.models.named(wanted.model, at, wanted.argument)
    if source is None:
        return None
    if wanted.code and not is_trusted(source.model, where, paths.trust_remote_code, reader):
        return None
    if wanted.files:
        return _of_files(wanted, source, where, reader, paths)
    if source.folder is not None and not (Path(source.folder) / CONFIG).is_file():
        reader.note(where, f"'{source.model}' is not a model: it has no {CONFIG}.")
        return None
    return ComponentBlock(class_name=wanted.class_name, source=source, code=wanted.code)
