"""Derives form fields of variables from their uses: in a pipeline's call, a task's, a
sub-workflow's, or a setting of the document.

The result has the form of an `inputs` block, so that the document's own block overrides any of it.
Limits are hard ones: a value beyond them would be refused where it arrives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, get_args

from annotated_types import Ge, Le

from app.dialect.document import InputBlock
from app.dialect.input_kinds import InputKind
from app.dialect.inputs import FILES_OF_ARGUMENTS, media_kind
from app.dialect.installed import names
from app.dialect.installed.signatures import call_signature
from app.dialect.naming import SEED
from app.dialect.offloads import OFFLOADS
from app.dialect.references import Path, parse
from app.dialect.setting_blocks import AttentionBackend
from app.media.files import SUFFIXES
from app.planning.calls import MAX_SIDE_PX, RANGES, SIDE_MULTIPLE, SIDES
from app.tasks import TASKS

LABELS = {
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "num_inference_steps": "Steps",
    "guidance_scale": "Guidance scale",
    "true_cfg_scale": "Guidance scale",
    "num_images_per_prompt": "Pictures",
    "num_videos_per_prompt": "Videos",
    "num_frames": "Frames",
    "frame_rate": "Frames per second",
    "fps": "Frames per second",
    "model_name": "Model",
    "torch_dtype": "Number format",
}
"""Labels of well-known arguments."""
WORDS = {"lora": "LoRA", "vae": "VAE", "url": "URL", "uri": "URI", "id": "ID", "qr": "QR",
         "ip": "IP", "num": "number of"}  # fmt: skip
MAIN = {"width", "height", "num_frames", "num_images_per_prompt", "num_videos_per_prompt",
        "strength"}  # fmt: skip
"""Arguments of a pipeline shown at once, beside prompts and media; others are under Advanced."""
CHOICES: dict[str, tuple[str, ...]] = {
    "offload": tuple(OFFLOADS),
    "attention_backend": get_args(AttentionBackend),
}
"""Settings of a pipeline's configuration with a fixed set of values."""
LIMITS: dict[tuple[str, str], tuple[float | None, float | None]] = {
    ("result", "fps"): (1, 240),
    ("scheduler", "shift"): (0, None),
}
MAX_HELP_LENGTH = 160
MEDIA_PLACE = re.compile(r"_(url|uri|location|path|file)$")
"""Ends of the names of variables that hold a file's place; a form takes the file itself."""
LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)|\[(`[^`]+`)\]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")
NOT_FOR_FORMS = re.compile(r"_embeds|torch\.Tensor|numpy|equation")
"""Subjects of sentences that only help callers from Python."""
ENTRY = re.compile(r"^ {0,4}(\w+)(?: \(.*)?:?\s*$")


class Use(NamedTuple):
    """One place where a variable is used."""

    path: Path
    step: Mapping[str, Any]
    """The step that contains it."""


def uses_of_variables(tree: Mapping[str, Any]) -> dict[str, list[Use]]:
    """Returns every use of every variable in the document's steps, in order."""
    found: dict[str, list[Use]] = {}

    def walk(value: Any, path: Path, step: Mapping[str, Any]) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, (*path, key), step)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                walk(item, (*path, index), step)
        elif (reference := parse(value)) is not None and reference.kind == "variable":
            found.setdefault(reference.target, []).append(Use(path, step))

    steps = tree.get("steps")
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict):
            walk(step, (), step)
    return found


def derived_blocks(
    tree: Mapping[str, Any], children: Mapping[str, Mapping[str, InputBlock]]
) -> dict[str, InputBlock]:
    """Returns what can be derived of each variable of the document.

    `children` has the blocks of the sub-workflows' variables, by the name of the step.
    """
    steps = tree.get("steps")
    by_name = {
        step["name"]: step
        for step in (steps if isinstance(steps, list) else ())
        if isinstance(step, dict) and isinstance(step.get("name"), str)
    }
    variables = tree.get("variables", {})
    blocks = {}
    for name, uses in uses_of_variables(tree).items():
        told = [dict(_told(use, by_name, children)) for use in uses]
        blocks[name] = _block(name, variables.get(name), told)
    if blocks and all(block.group for block in blocks.values()):
        blocks = {name: block.model_copy(update={"group": ""}) for name, block in blocks.items()}
    return blocks


def _block(name: str, default: Any, told: list[dict[str, Any]]) -> InputBlock:
    """Combines what all uses of a variable tell."""
    fields: dict[str, Any] = {}
    for key in ("kind", "help", "choices"):
        said = [each[key] for each in told if each.get(key)]
        if said:
            fields[key] = said[0]
    place = MEDIA_PLACE.sub("", name) if fields.get("kind") in SUFFIXES else ""
    fields["label"] = label(place or name)
    if default not in fields.get("choices", (default,)):
        del fields["choices"]
    if isinstance(default, int | float) and not isinstance(default, bool):
        for key in ("minimum", "maximum", "step"):
            said = [each.get(key) for each in told]
            if said and None not in said and len(set(said)) == 1:
                fields[key] = said[0]
        low, high = fields.get("minimum"), fields.get("maximum")
        if (low is not None and default < low) or (high is not None and default > high):
            # The document's own value; the planner decides whether it is valid.
            fields = {key: fields[key] for key in fields.keys() - {"minimum", "maximum"}}
        ranged = isinstance(default, float) and low is not None and high is not None
        kind: InputKind = (
            "slider" if ranged else "integer" if isinstance(default, int) else "number"
        )
        # This name means the run's own seed, for which the page has a field already.
        fields["kind"] = "seed" if name == SEED else kind
    fields["group"] = "" if any(each.get("main") for each in told) else "advanced"
    return InputBlock(**fields)


def label(name: str) -> str:
    """Returns the name in words: `lora_scale` becomes `LoRA scale`."""
    if name in LABELS:
        return LABELS[name]
    words = [WORDS.get(word.lower(), word) for word in re.split(r"[-_\s]+", name) if word]
    text = " ".join(words) or name
    return text[:1].upper() + text[1:]


def _told(
    use: Use,
    steps: Mapping[str, Mapping[str, Any]],
    children: Mapping[str, Mapping[str, InputBlock]],
) -> Iterator[tuple[str, Any]]:
    """Yields what one use tells, as fields of a block, and `main` for the main arguments."""
    match use.path:
        case ("pipeline" | "pipeline_reference", "arguments", str(argument), *_):
            yield from _of_argument(_pipeline_class(use.step, steps), argument, use.path)
        case ("task", "arguments", str(argument), *_):
            yield "main", True
            yield from _of_media(use.path)
            yield from _of_task(use.step["task"], argument)
        case ("task", "inputs", *_):
            yield "main", True
        case ("workflow", "arguments", str(argument), *_):
            yield from _of_media(use.path)
            block = children.get(str(use.step.get("name")), {}).get(argument)
            if block is not None:
                yield from (
                    (key, getattr(block, key)) for key in block.model_fields_set - {"label"}
                )
                yield "main", not block.group
        case ("pipeline", "configuration", str(setting)) if setting in CHOICES:
            yield "choices", CHOICES[setting]
            yield "kind", "choice"
        case (str(block_name), str(setting)) | (_, str(block_name), str(setting)):
            low, high = LIMITS.get((block_name, setting), (None, None))
            yield "minimum", low
            yield "maximum", high


def _of_argument(class_name: str, argument: str, path: Path) -> Iterator[tuple[str, Any]]:
    media = dict(_of_media(path))
    yield from media.items()
    yield (
        "main",
        bool(media) or argument in MAIN or ("prompt" in argument and "embeds" not in argument),
    )
    if len(path) > 3:
        return
    if argument in SIDES:
        yield from zip(
            ("minimum", "maximum", "step"), (SIDE_MULTIPLE, MAX_SIDE_PX, SIDE_MULTIPLE), strict=True
        )
    elif argument in RANGES:
        yield from zip(("minimum", "maximum"), RANGES[argument], strict=True)
    help_text = argument_help(class_name).get(argument)
    if help_text:
        yield "help", help_text


def _of_media(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields the kind of media at this place, by its key."""
    keys = [part for part in path if isinstance(part, str)]
    key = keys[-2] if keys[-1] == "location" else keys[-1]
    kind = media_kind(key)
    if kind is None and path[0] == "task":
        kind = FILES_OF_ARGUMENTS.get(key) or ("image" if key == "urls" else None)
    if kind is not None:
        yield "kind", kind


def _of_task(task: Mapping[str, Any], argument: str) -> Iterator[tuple[str, Any]]:
    found = TASKS.get(str(task.get("command")))
    field = found.arguments.model_fields.get(argument) if found is not None else None
    if field is None:
        return
    for limit in field.metadata:
        if isinstance(limit, Ge):
            yield "minimum", limit.ge
        elif isinstance(limit, Le):
            yield "maximum", limit.le
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        yield "choices", choices
        yield "kind", "choice"


def _pipeline_class(step: Mapping[str, Any], steps: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the unqualified class that the step calls; "" where unknown."""
    reference = step.get("pipeline_reference")
    if isinstance(reference, dict):
        step = steps.get(str(reference.get("reference_name")), {})
    try:
        named = step["pipeline"]["configuration"]["component_type"]
        return names.class_name(str(named), "pipeline").rpartition(".")[2]
    except (KeyError, TypeError, names.UnknownName):
        return ""


@cache
def argument_help(class_name: str) -> Mapping[str, str]:
    """Returns one or two sentences of each argument's docstring in the pipeline's call."""
    signature = call_signature(class_name) if class_name else None
    if signature is None:
        return {}
    known = {parameter.name for parameter in signature.parameters}
    found: dict[str, list[str]] = {}
    entry: list[str] | None = None
    for line in signature.docstring.splitlines():
        named = ENTRY.match(line)
        if named is not None:
            entry = found.setdefault(named[1], []) if named[1] in known else None
        elif entry is not None and line.strip():
            entry.append(line.strip())
    return {name: _first_sentences(" ".join(lines)) for name, lines in found.items() if lines}


def _first_sentences(text: str) -> str:
    """Returns the first sentences of a docstring that fit on a form, without links."""
    text = LINK.sub(lambda link: link[1] or link[2], text)
    told = ""
    for sentence in SENTENCE_END.split(text):
        if NOT_FOR_FORMS.search(sentence):
            continue
        longer = f"{told} {sentence}".strip()
        if told and len(longer) > MAX_HELP_LENGTH:
            break
        told = longer
    return told if len(told) <= 2 * MAX_HELP_LENGTH else f"{told[: 2 * MAX_HELP_LENGTH - 1]}…"


def children_of(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields each sub-workflow of the document: the step's name, and the path, a variable's by
    default."""
    steps, variables = tree.get("steps"), tree.get("variables")
    for step in steps if isinstance(steps, list) else ():
        if not isinstance(step, dict) or not isinstance(step.get("workflow"), dict):
            continue
        named = step["workflow"].get("path")
        reference = parse(named)
        if reference is not None and isinstance(variables, dict):
            named = variables.get(reference.target)
        if isinstance(named, str):
            yield str(step.get("name")), named
