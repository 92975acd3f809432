"""Plans a document's task, and notes its problems."""

from __future__ import annotations

import itertools
from typing import Any

from PIL import Image

from app.dialect.document import TaskBlock
from app.dialect.inputs import FILES_OF_ARGUMENTS
from app.dialect.plan import PipelineStep, ResultSpec, TaskStep
from app.dialect.plan_values import (
    BuiltValue,
    DTypeValue,
    FileValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    RemoteValue,
    ResultValue,
    Value,
)
from app.dialect.references import Path as Place
from app.dialect.references import parse, place
from app.errors import nearest
from app.media.files import MediaKind
from app.mistakes import shown
from app.packages import missing
from app.planning.pipelines import PipelineBuilder
from app.planning.task_models import (
    Call,
    computes_on_cpu,
    pipeline_call,
    task_components,
    with_defaults,
)
from app.planning.values import ValueReader
from app.settings import PathSettings
from app.tasks import REFUSED, TASKS
from app.tasks.media import AudioVideo
from app.tasks.task import UNKNOWN, Gives, Task, loads_nothing, mistakes

MAX_FILES = 10_000
GATHERING = ("glob", "urls")
GATHERED: dict[str, tuple[MediaKind, str]] = {
    "gather_images": ("image", "images"),
    "gather_videos": ("video", "videos"),
}
"""The kind of media each task gathers, and the argument that holds it in the plan."""
SAVED_AS: dict[Gives, tuple[str, ...]] = {
    "image": ("image/",),
    "video": ("video/", "image/gif"),
    "audio": ("audio/",),
    "text": ("text/", "application/json"),
    "data": ("text/", "application/json"),
    "tensor": (),
    "anything": ("",),
}
"""Prefixes of the content types as which a task's results can be saved."""


def build_task(
    block: TaskBlock,
    reader: ValueReader,
    paths: PathSettings,
    name: str,
    at: Place,
    seed: int,
    result: ResultSpec | None,
) -> TaskStep | PipelineStep | None:
    """Returns the step, or None with its problems noted."""
    noted = len(reader.problems)
    task = _find(block.command, reader, (*at, "task", "command"))
    if task is None:
        return None
    calls = _calls(block, reader, (*at, "task"))
    for call in calls:
        for found in mistakes(block.command, task, call.samples):
            reader.note((*call.place, *found.path), found.message, found.hint)
        for key, sentence in task.warns(call.samples).items():
            reader.warnings.append(f"{place((*call.place, key))}: {sentence}")
    if result is not None and not result.content_type.startswith(SAVED_AS[task.gives]):
        reader.note(
            (*at, "result", "content_type"),
            f"{block.command} makes {_MADE[task.gives]}, which cannot be saved as"
            f" {result.content_type}.",
        )
    if task.loads is loads_nothing and any(call.devices for call in calls):
        reader.warnings.append(f"{block.command} uses no device: 'device' is left out.")
    on_cpu = computes_on_cpu(calls, reader)
    if len(reader.problems) > noted:
        return None
    builder = PipelineBuilder(paths, reader)
    if task.becomes is not None:
        return pipeline_call(task, calls, reader, builder, name, at, seed, result)
    components = task_components(task, calls, reader, builder, paths)
    if len(reader.problems) > noted:
        return None
    return TaskStep(
        name=name,
        place=place(at),
        command=block.command,
        calls=tuple(call.values for call in calls),
        seed=seed,
        random=task.random or any(task.draws(with_defaults(task, c.samples)) for c in calls),
        components=components,
        on_cpu=on_cpu and bool(components),
        result=result,
    )


_MADE: dict[Gives, str] = {
    "image": "pictures",
    "video": "a video",
    "audio": "a sound",
    "text": "a text",
    "data": "data",
    "tensor": "a tensor",
    "anything": "anything",
}


def _find(command: str, reader: ValueReader, at: Place) -> Task | None:
    """Returns the task of this name, if it can run here."""
    if reader.is_typed(at):
        reader.note(at, "An input cannot choose a task.")
        return None
    task = TASKS.get(command)
    if command in REFUSED:
        reader.note(at, f"'{command}' cannot run here: {REFUSED[command]}.")
    elif task is None:
        hint = nearest(command, [*TASKS, *REFUSED])
        reader.note(at, f"There is no task '{command}'.", hint)
    elif (lacking := missing(f"'{command}'", task.packages)) is not None:
        reader.note(at, *lacking)
    return task


def _calls(block: TaskBlock, reader: ValueReader, at: Place) -> list[Call]:
    if block.command in GATHERED:
        return [_gathered(block, reader, (*at, "arguments"))]
    if block.inputs is None:
        return [_call(block.command, block.arguments, reader, (*at, "arguments"))]
    if not block.inputs:
        reader.note((*at, "inputs"), "There is nothing to do: the list is empty.")
    return [
        _call(block.command, item, reader, (*at, "inputs", index))
        for index, item in enumerate(block.inputs)
    ]


def _call(command: str, given: Any, reader: ValueReader, at: Place) -> Call:
    call = Call(at, {}, {}, [])
    if command == "gather_inputs":
        call.values["value"] = reader.read(given, at)
        call.samples["value"] = UNKNOWN
    elif not isinstance(given, dict):
        reader.note(at, f"An object with the arguments is needed, not {shown(given)}.")
        call.samples.update(dict.fromkeys(TASKS[command].arguments.model_fields, UNKNOWN))
    else:
        for key, value in given.items():
            if key == "device":
                # The dialect lets a document name the device of any task.
                call.devices.extend([] if value is None else [value])
                continue
            noted = len(reader.problems)
            found = call.values[key] = _argument(command, key, value, reader, (*at, key))
            # A value already refused is not refused again for its type.
            call.samples[key] = UNKNOWN if len(reader.problems) > noted else _sample(found)
    return call


def _argument(command: str, key: str, value: Any, reader: ValueReader, at: Place) -> Value:
    kind = FILES_OF_ARGUMENTS.get(key)
    items = value if isinstance(value, list) else [value]
    named = any(
        isinstance(item, str) or (isinstance(item, dict) and "location" in item) for item in items
    )
    if kind and named and key in TASKS[command].arguments.model_fields:
        return reader.media(value, at, kind)
    return reader.read(value, at)


def _gathered(block: TaskBlock, reader: ValueReader, at: Place) -> Call:
    """Returns the files named by `glob` and `urls`, as one list.

    A pattern is matched in the workflow's folder and below, and only the document may choose it: a
    typed pattern could otherwise probe which files exist.
    """
    kind, name = GATHERED[block.command]
    found: list[Value] = []
    arguments = block.arguments or {}
    for key, value in arguments.items():
        where = (*at, key)
        if key not in GATHERING:
            reader.note(where, f"{block.command} takes no '{key}'.", nearest(key, GATHERING))
        elif key == "urls":
            urls = value if isinstance(value, list) else [value]
            found += [reader.media(url, (*where, i), kind) for i, url in enumerate(urls)]
        elif value is not None:
            found += [reader.media(file, where, kind) for file in _matching(value, reader, where)]
    if not any(arguments.get(key) for key in GATHERING):
        reader.note(at, "'glob' or 'urls' is needed.")
    return Call(at, {name: ListValue(items=tuple(found))}, {name: []}, [])


def _matching(pattern: Any, reader: ValueReader, at: Place) -> list[str]:
    """Returns the files that a pattern matches in the workflow's folder."""
    if reader.is_typed(at):
        reader.note(at, "An input cannot choose files by a pattern.")
    elif not isinstance(pattern, str) or not pattern or parse(pattern):
        reader.note(at, f"A pattern like 'pictures/*.png' is needed, not {shown(pattern)}.")
    elif pattern.startswith(("/", "~")) or ".." in pattern.split("/") or "\0" in pattern:
        reader.note(at, "The pattern leads out of the workflow's folder.")
    else:
        found = itertools.islice(reader.folder.glob(pattern), MAX_FILES)
        files = sorted(str(file.relative_to(reader.folder)) for file in found if file.is_file())
        if not files:
            reader.note(at, f"No file matches '{pattern}'.")
        return files
    return []


def _sample(value: Value) -> Any:
    """Returns a sample of the value's kind, to check arguments with."""
    match value:
        case LiteralValue():
            return value.value
        case ResultValue() | BuiltValue():
            return UNKNOWN
        case FileValue() | RemoteValue():
            return _sample_of(value.kind)
        case DTypeValue():
            return value.dtype
        case ListValue():
            return [_sample(item) for item in value.items]
        case ObjectValue():
            return {key: _sample(entry) for key, entry in value.entries.items()}


def _sample_of(kind: MediaKind) -> Any:
    import numpy as np

    picture = Image.new("RGB", (1, 1))
    if kind == "image":
        return picture
    # A video may turn out to be silent when it is read.
    silence = np.zeros((1, 1), np.float32)
    return AudioVideo((picture,) if kind == "video" else (), silence, 8000)
