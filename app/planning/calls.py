"""Checks the arguments of a pipeline call: names, types, ranges and sizes."""

from __future__ import annotations

import ast
import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from app.dialect.files import config_of
from app.dialect.installed.signatures import Parameter, Sides, call_signature
from app.dialect.plan_values import FileValue, ListValue, LiteralValue, Value
from app.dialect.references import Path as Place
from app.dialect.references import place
from app.errors import nearest
from app.media import images
from app.media.images import WrongMediaError
from app.mistakes import shown
from app.models.family_configs import configuration_of
from app.models.single_files import safetensors_shapes
from app.planning.called import Called
from app.planning.values import ValueReader

GIVEN_BY_RUNNER = {"generator", "callback_on_step_end", "callback_on_step_end_tensor_inputs"}
KINDS: dict[str, str] = {
    "int": "whole number", "float": "number", "str": "text", "bool": "true or false",
    "list": "list", "dict": "object", "None": "null",
}  # fmt: skip
"""The types that JSON has, by annotation, in words."""
CONTAINERS = {"List": "list", "list": "list", "Tuple": "list", "tuple": "list",
              "Dict": "dict", "dict": "dict", "Sequence": "list", "Iterable": "list"}  # fmt: skip
NON_JSON_TYPES = {
    "Tensor",
    "FloatTensor",
    "LongTensor",
    "Generator",
    "ndarray",
    "Image",
    "Callable",
}
"""Types that no JSON value has."""
RANGES: dict[str, tuple[float, float]] = {
    "num_inference_steps": (1, 1000),
    "num_frames": (1, 10_000),
    "num_images_per_prompt": (1, 100),
    "num_videos_per_prompt": (1, 100),
    "max_sequence_length": (1, 4096),
    "strength": (0, 1),
    "denoising_start": (0, 1),
    "denoising_end": (0, 1),
}
"""Ranges of numbers that hold for every pipeline."""
SIDES = ("width", "height")
SIDE_MULTIPLE = 8
"""Pixels of a side per latent, in nearly every model."""
MAX_SIDE_PX = 8192
MAX_CLIP_SKIP = 31
"""The largest text encoder of CLIP has 32 layers."""
MIN_IMAGE_PX = 8
"""A smaller side leaves no latent where the pipeline takes its size from the image."""


def check_call(
    called: Called, arguments: Mapping[str, Value], at: Place, reader: ValueReader
) -> None:
    """Notes problems of calling the pipeline with these arguments; none where it is unknown."""
    short, signature, model, checkpoint = called
    if signature is None:
        return
    known = {parameter.name: parameter for parameter in signature.parameters}
    for key, value in arguments.items():
        where = (*at, key)
        if key in GIVEN_BY_RUNNER:
            reader.note(where, f"'{key}' is set by the workbench.", "Leave it out.")
        elif key not in known:
            reader.note(where, f"{short} takes no '{key}'.", _nearest_argument(key, known))
        elif isinstance(value, LiteralValue) and _is_kind(known[key], value.value, where, reader):
            _check_number(key, value.value, where, reader)
            if key in SIDES and signature.sides is not None:
                _check_side(value.value, where, reader, short, signature.sides, model)
            if key == "clip_skip":
                _check_clip_skip(value.value, where, reader, model, checkpoint)
    for parameter in known.values():
        if parameter.required and parameter.name not in arguments:
            reader.note(at, f"'{parameter.name}' is missing.")
    if not all(side in arguments for side in SIDES):
        _check_images(arguments.get("image"), (*at, "image"), reader, short)


def _nearest_argument(key: str, known: Iterable[str]) -> str:
    """Returns a hint: the only argument containing this word, else the nearest. `steps` gives
    `num_inference_steps`."""
    having = [name for name in known if key in name.split("_")]
    return nearest(having[0], having) if len(having) == 1 else nearest(key, known)


def output_fields(class_name: str) -> tuple[str, ...]:
    """Returns the named fields of this pipeline's result; empty where unknown."""
    signature = call_signature(class_name.rpartition(".")[2])
    return signature.gives if signature is not None else ()


def _is_kind(parameter: Parameter, value: Any, at: Place, reader: ValueReader) -> bool:
    """Returns False, and notes it, if the value does not fit the annotation."""
    kinds = json_kinds(parameter.annotation)
    if kinds is None or (value is None and parameter.default == "None"):
        return True
    fitting = {"float", "int"} if type(value) is int else {_kind(value)}
    if fitting & kinds:
        return True
    wanted = [words for kind, words in KINDS.items() if kind in kinds and kind != "None"]
    if wanted:
        reader.note(at, f"A {' or '.join(wanted)} is needed, not {shown(value)}.")
    else:
        reader.note(at, f"This cannot be {shown(value)}: only an earlier step can make it.")
    return False


@functools.cache
def json_kinds(annotation: str) -> frozenset[str] | None:
    """Returns the JSON types an annotation admits, as in `KINDS`; None where it does not say."""
    if not annotation:
        return None
    try:
        return frozenset(_kinds(ast.parse(annotation, mode="eval").body))
    except _UnknownType:
        return None


class _UnknownType(Exception):
    """A name that may stand for any type."""


def _kinds(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=None):
            yield "None"
        case ast.Name(id=name) if name in KINDS:
            yield name
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in CONTAINERS:
            yield CONTAINERS[name]
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in NON_JSON_TYPES:
            return
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield from _kinds(left)
            yield from _kinds(right)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            yield "None"
            yield from _kinds(inner)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=parts)):
            for part in parts:
                yield from _kinds(part)
        case ast.Subscript(value=outer):
            yield from _kinds(outer)
        case _:
            raise _UnknownType


def _kind(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict"}
    return names.get(type(value), "None")


def _check_number(key: str, value: Any, at: Place, reader: ValueReader) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    low, high = (1, MAX_SIDE_PX) if key in SIDES else RANGES.get(key, (value, value))
    if not low <= value <= high:
        reader.note(at, f"{value} is outside {low:g} to {high:g}.")


def _check_side(
    value: Any,
    at: Place,
    reader: ValueReader,
    class_name: str,
    sides: Sides,
    model: Path | None,
) -> None:
    """Notes a side the pipeline refuses, and warns of one that it rounds."""
    multiple = sides.multiple_px or side_multiple(model)
    if type(value) is not int or not 1 <= value <= MAX_SIDE_PX or value % multiple == 0:
        return
    nearest_px = max(multiple, (value + multiple // 2) // multiple * multiple)
    hint = f"The nearest is {nearest_px}."
    if sides.are_rounded and value >= multiple:
        message = f"{value} is not a multiple of {multiple}, so {class_name} rounds it. {hint}"
        reader.warnings.append(f"{place(at)}: {message}")
    else:
        message = f"{value} is not a multiple of {multiple}, which {class_name} needs."
        reader.note(at, message, hint)


def side_multiple(model: Path | None) -> int:
    """Returns the multiple of which the sides of this model's images must be: pixels per latent
    times latents per token; `SIDE_MULTIPLE` where its configurations do not say."""
    vae = {} if model is None else config_of(model / "vae")
    named = (vae.get(f"{part}block_out_channels") for part in ("", "encoder_"))
    levels = next((each for each in (*named, vae.get("dim_mult")) if each), None)
    if model is None or not isinstance(levels, list):
        return SIDE_MULTIPLE
    denoiser = config_of(model / "transformer")
    # Patches of latents are channels of a packed token, or cut by the transformer or autoencoder.
    latent_channels = vae.get("latent_channels") or vae.get("z_dim")
    channels = denoiser.get("out_channels") or denoiser.get("in_channels")
    packed = 1
    if isinstance(channels, int) and isinstance(latent_channels, int) and latent_channels:
        packed = math.isqrt(abs(channels // latent_channels))
    cut = (denoiser.get("patch_size"), denoiser.get("all_patch_size"), vae.get("patch_size"))
    sides = (each[-1] if isinstance(each, list) and each else each for each in cut)
    patch = max([packed, *(side for side in sides if isinstance(side, int)), 1])
    return min(patch << min(len(levels) - 1, 10), MAX_SIDE_PX)


def _check_clip_skip(
    value: Any, at: Place, reader: ValueReader, model: Path | None, checkpoint: Path | None
) -> None:
    """Notes a count of skipped layers that leaves none of a CLIP text encoder."""
    if type(value) is not int:
        return
    configs = [config_of(folder) for folder in model.glob("text_encoder*")] if model else []
    if checkpoint is not None:
        configs = _text_encoders_of(checkpoint)
    layers = [config.get("num_hidden_layers") for config in configs if "projection_dim" in config]
    most = min([each for each in layers if isinstance(each, int)], default=MAX_CLIP_SKIP + 1) - 1
    if not 0 <= value <= most:
        reader.note(at, f"{value} is outside 0 to {most}, the layers of the text encoder to skip.")


def _text_encoders_of(checkpoint: Path) -> list[dict[str, Any]]:
    """Returns the configurations of the text encoders in a file of a whole pipeline; none where its
    tensors do not tell."""
    try:
        known = configuration_of(safetensors_shapes(checkpoint))
    except (ValueError, OSError):
        # The reason is told where the file is read.
        return []
    files = {} if known is None else known.files
    return [json.loads(text) for name, text in files.items()
            if name.startswith("text_encoder") and name.endswith("/config.json")]  # fmt: skip


def _check_images(value: Value | None, at: Place, reader: ValueReader, class_name: str) -> None:
    """Notes images too small for the pipeline."""
    match value:
        case ListValue():
            for index, item in enumerate(value.items):
                _check_images(item, (*at, index), reader, class_name)
        case FileValue(kind="image"):
            try:
                width, height = images.size_of(Path(value.path))
            except WrongMediaError as error:
                reader.note(at, str(error))
                return
            if min(width, height) < MIN_IMAGE_PX:
                message = f"The picture has {width}x{height} pixels; {class_name} needs at least"
                reader.note(at, f"{message} {MIN_IMAGE_PX} on each side.")
