"""Words pydantic's errors for people."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from app.errors import nearest, shortened

NEEDED = {
    "int_type": "A whole number", "int_parsing": "A whole number",
    "int_parsing_size": "A smaller whole number",
    "int_from_float": "A whole number", "float_type": "A number", "float_parsing": "A number",
    "finite_number": "A finite number",
    "bool_type": "True or false", "bool_parsing": "True or false",
    "string_type": "A text", "string_too_short": "A non-empty text",
    "tuple_type": "A list", "list_type": "A list", "too_short": "A non-empty list",
    "byte_size": "A size such as 500MB, 20GB or 16GiB",
    "byte_size_unit": "A size such as 500MB, 20GB or 16GiB",
    "model_type": "An object", "dict_type": "An object", "model_attributes_type": "An object",
}  # fmt: skip
"""The names of JSON's types for pydantic's errors about types."""
PYDANTIC_ERRORS = frozenset(get_args(ErrorType))
"""Types of errors whose own words are about Python and not about a document."""
MAX_OFFERED = 8
"""Most choices listed, where only the nearest are."""


def in_words(details: ErrorDetails) -> tuple[str, str]:
    """Returns the mistake in words, and a hint at the right value."""
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    match kind:
        case "literal_error":
            return _not_one_of(given, context["expected"])
        case "greater_than_equal":
            return f"{shown(given)} is too small; {_bound(context['ge'])} is the least.", ""
        case "greater_than":
            return f"{shown(given)} is too small; it has to be above {_bound(context['gt'])}.", ""
        case "less_than_equal":
            return f"{shown(given)} is too large; {_bound(context['le'])} is the most.", ""
        case "less_than":
            return f"{shown(given)} is too large; it has to be below {_bound(context['lt'])}.", ""
        case "string_pattern_mismatch":
            return f"{shown(given)} does not have the form {context['pattern']}.", ""
        case "value_error":
            sentence = str(context["error"])
            return f"{sentence[0].upper()}{sentence[1:]}.", ""
        case "extra_forbidden":
            return f"'{shortened(str(details['loc'][-1]))}' is not a known key.", ""
        case "missing":
            return "It is missing.", ""
        case "too_long":
            return f"{context['max_length']} items fit, not {context['actual_length']}.", ""
        case "string_too_long":
            return f"{context['max_length']} characters fit, not {len(given)}.", ""
        case _ if kind in NEEDED:
            return f"{NEEDED[kind]} is needed, not {shown(given)}.", ""
        case _ if kind in PYDANTIC_ERRORS:
            return f"{shown(given)} does not fit here.", ""
        case _:
            # One of our own.
            return f"{details['msg']}.", str(context.get("hint", ""))


def shown(value: Any) -> str:
    """Returns the value as a document has it, cut to a length that fits into a sentence."""
    if isinstance(value, str):
        return f"'{shortened(value)}'"
    is_json = value is None or isinstance(value, int | float | list | tuple | dict)
    text = json.dumps(value, default=repr, ensure_ascii=False) if is_json else repr(value)
    return shortened(text)


def _bound(limit: float) -> str:
    """Returns all digits of a whole number, however large."""
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def _not_one_of(given: Any, expected: str) -> tuple[str, str]:
    offered = re.findall(r"'([^']*)'", expected)
    hint = nearest(given, offered) if isinstance(given, str) else ""
    if hint and len(offered) > MAX_OFFERED:
        return f"{shown(given)} is not a known value.", hint
    return f"{shown(given)} is not one of {expected}.", hint
