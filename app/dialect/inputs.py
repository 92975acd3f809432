"""Inputs of a workflow, and the check of given values.

A declared variable's default decides its type (the dialect's rule); the optional `inputs` block
adds label, kind and limits. A value that does not fit is refused, never passed on unconverted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, get_args

from pydantic import JsonValue

from app.dialect.document import InputBlock
from app.dialect.files import can_be_path
from app.dialect.input_kinds import InputKind
from app.dialect.installed.names import unbraced
from app.dialect.model_kinds import Kind
from app.dialect.naming import parameter_names
from app.errors import Problem, nearest, shortened
from app.frozen import Frozen
from app.media.files import KIND_NAMES, MediaKind
from app.media.urls import is_url
from app.mistakes import shown

VARIABLE_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,99}")
MAX_NAMES_LISTED = 20
MAX_TEXT_LENGTH = 10_000
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
LONE_SURROGATES = re.compile("[\ud800-\udfff]")
MAX_NESTING = 50
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
"""Range of JSON answers to browsers and scripts; the largest is the largest seed."""
MAX_EXACT = 2**53
"""The largest whole number up to which floats are exact; beyond, floats and browsers round."""
MAX_DECIMAL_EXPONENT = 299
"""Limit of a typed number's exponent; larger ones overflow a float."""
MEDIA_NAMES: dict[str, MediaKind] = {"image": "image", "mask": "image", "video": "video"}
FILES_OF_ARGUMENTS: dict[str, MediaKind] = {"audio": "audio", "audios": "audio", "videos": "video"}
"""Task arguments that name files although the dialect has no rule for their names."""
TRUE_WORDS = {"true", "1", "yes", "on"}
FALSE_WORDS = {"false", "0", "no", "off"}


def unfit(value: object) -> str:
    """Returns why this value cannot be carried as JSON, in words; "" for none."""
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        inner: list[Any] = []
        for item in level:
            if wrong := _no_json(item):
                return wrong
            if isinstance(item, dict):
                inner += [*item, *item.values()]
            elif isinstance(item, list):
                inner += item
        if not inner:
            return ""
        level = inner
    return f"is nested deeper than {MAX_NESTING} levels"


def _no_json(item: object) -> str:
    """Returns the problem of this one value, without its parts."""
    match item:
        case str():
            return "holds half a character" if LONE_SURROGATES.search(item) else ""
        case bool() | None | list():
            return ""
        case int() if not MIN_INTEGER <= item <= MAX_INTEGER:
            return f"holds a whole number outside {MIN_INTEGER} to {MAX_INTEGER}"
        case float() if not math.isfinite(item):
            return f"holds {json.dumps(item)}, which is no number in JSON"
        case int() | float():
            return ""
        case dict():
            texts = all(isinstance(key, str) for key in item)
            return "" if texts else "holds an object with a key that is no text"
    return "holds something that JSON has not"


def printable(text: str) -> str:
    """Returns the text with lone surrogates replaced, so that terminals and streams can carry
    it."""
    return LONE_SURROGATES.sub("\ufffd", text)


class InputSpec(Frozen):
    """One input of a workflow, for the page, the API and the command line."""

    name: str
    label: str
    kind: InputKind
    default: JsonValue
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str | int | float, ...] = ()
    """The values it takes; of a model, the names that are there."""
    lines: int = 1
    help: str = ""
    required: bool = False
    group: str = ""
    mask_of: str | None = None
    models: Kind | None = None
    """Kind of the models whose names it takes."""
    examples: tuple[str, ...] = ()
    whole: bool = False
    """True if only whole numbers fit."""
    parameter: str = ""
    """Its parameter name at the workflow's own endpoint."""

    @property
    def media(self) -> MediaKind | None:
        """Kind of file that it takes; None for no file."""
        if self.kind == "mask":
            return "image"
        return next((kind for kind in get_args(MediaKind) if kind == self.kind), None)


def media_kind(name: str) -> MediaKind | None:
    """Returns the kind of media for a key or variable of this name (the dialect's rule, and
    masks)."""
    for word, kind in MEDIA_NAMES.items():
        if name == word or name.endswith(f"_{word}"):
            return kind
    return None


def is_mask(name: str) -> bool:
    """Returns True if a key or variable of this name takes a mask."""
    return "mask" in name.split("_")


def input_specs(
    variables: Mapping[str, JsonValue], blocks: Mapping[str, InputBlock]
) -> tuple[InputSpec, ...]:
    """Returns the inputs of these variables, in the order of their declaration."""
    parameters = parameter_names(variables)
    return tuple(
        _spec(name, default, blocks.get(name, InputBlock()), parameters[name])
        for name, default in variables.items()
    )


def _spec(name: str, default: JsonValue, block: InputBlock, parameter: str) -> InputSpec:
    kind = block.kind or _kind_of(name, default, block)
    return InputSpec(
        name=name,
        label=block.label or name.replace("_", " ").replace("-", " ").capitalize(),
        kind=kind,
        default=default,
        minimum=block.minimum,
        maximum=block.maximum,
        step=block.step,
        choices=block.choices,
        lines=block.lines if block.lines > 1 else (3 if name.endswith("prompt") else 1),
        help=block.help,
        required=block.required,
        group=block.group,
        mask_of=block.mask_of,
        models=block.models,
        examples=block.examples,
        whole=isinstance(default, int) and not isinstance(default, bool),
        parameter=parameter,
    )


def _kind_of(name: str, default: JsonValue, block: InputBlock) -> InputKind:
    if block.choices:
        return "choice"
    if block.models:
        return "model"
    if isinstance(default, None | str | dict | list) and (kind := media_kind(name)):
        return "mask" if block.mask_of else kind
    if name == "seed":
        return "seed"
    if isinstance(default, bool):
        return "checkbox"
    if isinstance(default, int | float):
        ranged = block.minimum is not None and block.maximum is not None
        return "slider" if ranged else "integer" if isinstance(default, int) else "number"
    return "text"


def seed_of_run(
    specs: Sequence[InputSpec], values: dict[str, Any], seed: int | None, own: object
) -> int | None:
    """Returns the run's seed, which the seed variable shares: a value given for one counts for
    both. `own` is the document's seed; without one the variable's default counts."""
    variable = next((spec for spec in specs if spec.kind == "seed"), None)
    if variable is None:
        return seed
    if seed is not None:
        values.setdefault(variable.name, seed)
        return seed
    found = values.get(variable.name, variable.default if own is None else None)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def contradiction(spec: InputSpec, pictures: Collection[str]) -> str:
    """Returns why the document's input is impossible, in words; "" for none. `pictures` are the
    names of the variables that take an image."""
    low, high, default = spec.minimum, spec.maximum, spec.default
    numeric = isinstance(default, int | float) and not isinstance(default, bool)
    if low is not None and high is not None and low >= high:
        return f"The minimum {written(low)} is not below the maximum {written(high)}."
    if spec.step is not None and spec.step <= 0:
        return f"The step {written(spec.step)} is not above 0."
    if spec.kind == "slider" and (low is None or high is None):
        return "A slider needs a minimum and a maximum."
    if spec.kind == "slider" and not numeric:
        return f"A slider cannot stand at {default!r}."
    if spec.kind in ("number", "integer") and not (numeric or default is None):
        return f"A field for a number cannot hold {default!r}."
    if spec.kind == "checkbox" and not isinstance(default, bool | None):
        return f"A checkbox is true or false, not {default!r}."
    if spec.kind == "choice" and not spec.choices:
        return "A choice needs choices."
    if (spec.kind == "model") != (spec.models is not None):
        return "The kind 'model' goes with 'models', which says what kind of models."
    if spec.kind == "model" and not isinstance(default, str | None):
        return f"The name of a model is a text, not {default!r}."
    if spec.mask_of is not None and spec.mask_of not in pictures:
        return f"There is no picture '{spec.mask_of}' to paint a mask on."
    return ""


def check_inputs(
    specs: tuple[InputSpec, ...], given: Mapping[str, JsonValue], media: tuple[Path, ...]
) -> tuple[dict[str, JsonValue], list[Problem]]:
    """Returns the given values in their variables' types, and all problems.

    Files are checked to lie inside `media`; the planner checks whether they are media.
    """
    problems: list[Problem] = []
    values: dict[str, JsonValue] = {}
    known = {spec.name: spec for spec in specs}
    unknown = [name for name in given if name not in known]
    problems += _unknown(unknown, known)
    for name in (name for name in given if name in known):
        try:
            values[name] = _fitting(known[name], given[name], media)
        except ValueError as error:
            problems.append(Problem(place=f"inputs.{name}", message=str(error)))
    for spec in specs:
        if spec.required and values.get(spec.name, spec.default) in (None, ""):
            problems.append(
                Problem(place=f"inputs.{spec.name}", message=f"{spec.label} is needed.")
            )
    return values, problems


def _unknown(names: Sequence[str], known: Mapping[str, InputSpec]) -> Iterator[Problem]:
    """Yields problems of unknown names. Limited, as comparing each with all known takes long."""
    there = ", ".join([*known][:MAX_NAMES_LISTED]) or "none"
    for name in names[:MAX_NAMES_LISTED]:
        called = shortened(printable(name))
        yield Problem(
            place=f"inputs.{called}",
            message=f"This workflow has no variable '{called}'.",
            hint=nearest(name, known) or f"It has: {there}.",
        )
    more = len(names) - MAX_NAMES_LISTED
    if more > 0:
        message = f"{more} more inputs are no variables of this workflow."
        yield Problem(place="inputs", message=message)


def _fitting(spec: InputSpec, value: JsonValue, media: tuple[Path, ...]) -> JsonValue:
    """Returns the value in the type of its variable. Raises ValueError with a sentence."""
    if wrong := unfit(value):
        raise ValueError(f"The value {wrong}.")
    if type(value) is type(spec.default) and value == spec.default:
        return value
    if (kind := spec.media) is not None:
        if isinstance(value, list) and isinstance(spec.default, list):
            return [_file(spec, kind, item, media) for item in value]
        return _file(spec, kind, value, media)
    converted = _converted(spec, value)
    if isinstance(converted, str):
        if isinstance(spec.default, str) and unbraced(spec.default) is not None:
            # A braced default says that its text names no class; then neither does this one.
            plain = unbraced(converted)
            converted = converted if plain is None or converted in spec.choices else plain
        if len(converted) > MAX_TEXT_LENGTH:
            raise ValueError(f"The text has {len(converted)} characters; {MAX_TEXT_LENGTH} fit.")
        if CONTROL_CHARACTERS.search(converted):
            raise ValueError("The text holds a control character; remove it.")
    if spec.kind != "model" and spec.choices and converted not in spec.choices:
        hint = nearest(str(converted), map(str, spec.choices))
        offered = ", ".join(map(str, spec.choices))
        raise ValueError(f"{shown(converted)} is not one of: {offered}. {hint}".rstrip())
    if isinstance(converted, int | float) and not isinstance(converted, bool):
        low, high = spec.minimum, spec.maximum
        if (low is not None and converted < low) or (high is not None and converted > high):
            raise ValueError(f"{written(converted)} {_beyond(converted, low, high)}.")
    return converted


def _converted(spec: InputSpec, value: JsonValue) -> JsonValue:
    default = spec.default
    match default:
        case None:
            return value
        case bool():
            word = str(value).strip().lower()
            if isinstance(value, bool) or word in TRUE_WORDS | FALSE_WORDS:
                return word in TRUE_WORDS
            raise ValueError(f"{shown(value)} is neither true nor false.")
        case int() | float():
            return _number(value, whole=isinstance(default, int))
        case list():
            if isinstance(value, str):
                found = _json(value, list)
                return [item.strip() for item in value.split(",")] if found is None else found
            if isinstance(value, list):
                return value
            raise ValueError(f"A list is needed, not {shown(value)}.")
        case str():
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                return str(value)
            raise ValueError(f"A text is needed, not {shown(value)}.")
        case _:
            if isinstance(value, str):
                found = _json(value, dict)
                return value if found is None else found
            if isinstance(value, dict):
                return value
            raise ValueError(f"An object is needed, not {shown(value)}.")


def _json(text: str, kind: type) -> JsonValue:
    """Returns the list or object in a JSON text; None for anything else."""
    try:
        found: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, kind) and not unfit(found) else None


def _number(value: JsonValue, *, whole: bool) -> int | float:
    kind = "whole number" if whole else "number"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"A {kind} is needed, not {shown(value)}.")
    try:
        exact = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"A {kind} is needed, not {shown(value)}.") from None
    if not exact.is_finite() or exact.adjusted() > MAX_DECIMAL_EXPONENT:
        raise ValueError(f"A finite number is needed, not {shown(value)}.")
    if whole and exact != exact.to_integral_value():
        raise ValueError(f"A whole number is needed, not {shown(value)}.")
    if whole and isinstance(value, float) and abs(value) > MAX_EXACT:
        raise ValueError(
            f"{shown(value)} may have been rounded on its way here: numbers with a point or an"
            f" exponent hold whole numbers exactly up to {MAX_EXACT}. Write all its digits."
        )
    if whole:
        number = int(exact)
        if wrong := unfit(number):
            raise ValueError(f"The value {wrong}.")
        return number
    in_digits = not isinstance(value, float) and exact.as_tuple().exponent == 0
    if in_digits and Decimal(float(exact)) != exact:
        raise ValueError(
            f"{shown(value)} cannot be held exactly as a number with a point; whole numbers up to"
            f" {MAX_EXACT} can."
        )
    return float(exact)


def _file(spec: InputSpec, kind: MediaKind, value: JsonValue, media: tuple[Path, ...]) -> JsonValue:
    if not isinstance(value, str):
        raise ValueError(f"A {KIND_NAMES[kind]} file is needed, not {shown(value)}.")
    if is_url(value):
        # The planner checks where it is used whether it may be fetched.
        return value
    path = Path(value).resolve() if can_be_path(value) else Path()
    if not any(path.is_relative_to(folder.resolve()) for folder in media):
        raise ValueError(
            f"The {KIND_NAMES[kind]} for {spec.label} has to be uploaded; a path is not taken."
        )
    return str(path)


def _beyond(value: float, low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"is outside {written(low)} to {written(high)}"
    return (
        f"is less than {written(low)}" if low is not None else f"is more than {written(high or 0)}"
    )


def written(number: float) -> str:
    """Returns the number as a person writes it: `50`, `0.1`, `1234567`."""
    return str(number) if isinstance(number, int) else f"{number:.12g}"
