"""Parses a document's JSON, explains syntax errors in words, and finds lines of values."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

BLANK = re.compile(r"[ \t\r\n]*")
WORD = re.compile(r"[A-Za-z_]\w*")
NOT_JSON = {
    "True": "true", "False": "false", "None": "null", "TRUE": "true", "FALSE": "false",
    "NULL": "null", "undefined": "null", "nil": "null",
}  # fmt: skip
"""Words of other languages and their JSON equivalents."""
EXTRA_COMMA = ("There is an extra comma before this.", "")
DECODER = json.JSONDecoder()


class Parsed(NamedTuple):
    """A parsed JSON text."""

    value: Any
    repeated: tuple[str, ...]
    """Keys that occur twice in one object; JSON takes the last."""


class WrongJson(ValueError):
    """The text is not JSON; says what is wrong, where, and what to do."""

    def __init__(self, line: int, column: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.place = f"line {line}, column {column}"
        self.message, self.hint = message, hint


def text_of(content: bytes) -> str:
    """Returns the text in these bytes: UTF-8, UTF-16 or UTF-32. Raises UnicodeDecodeError."""
    return content.decode(json.detect_encoding(content))


def parse_json(content: bytes) -> Parsed:
    """Returns the value in these bytes (see `text_of`).

    Raises WrongJson, UnicodeDecodeError, or RecursionError for endless nesting.
    """
    text = text_of(content)
    repeated: dict[str, None] = {}

    def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated.update(dict.fromkeys(key for key in found if keys.count(key) > 1))
        return found

    def no_number(word: str) -> Any:
        position = re.search(rf"(?<![\w\"]){word}(?!\w)", text)
        raise _wrong(text, position.start() if position else 0, f"{word} is no number in JSON.")

    def finite_number(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else no_number(re.escape(digits))

    try:
        value = json.loads(
            text, object_pairs_hook=as_object, parse_constant=no_number, parse_float=finite_number
        )
    except json.JSONDecodeError as error:
        raise _wrong(text, error.pos, *_explained(text, error)) from error
    return Parsed(value, tuple(repeated))


def line_of(text: str, pointer: str) -> int:
    """Returns the line, from 1, of the value at this JSON pointer; of its nearest parent where the
    pointer leads beyond the text."""
    at = found = BLANK.match(text).end()  # type: ignore[union-attr]
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        step = _entered(text, at, key)
        if step is None:
            break
        found, at = step
    return text.count("\n", 0, found) + 1


def _entered(text: str, at: int, key: str) -> tuple[int, int] | None:
    """Returns where this key's entry and its value begin in the object or list that begins here."""
    opening, number = text[at], 0
    while opening in "{[":
        begins = at = BLANK.match(text, at + 1).end()  # type: ignore[union-attr]
        name = str(number)
        if text[at] in "}]":
            return None
        if opening == "{":
            name, at = DECODER.raw_decode(text, at)
            at = text.index(":", at) + 1
        at = BLANK.match(text, at).end()  # type: ignore[union-attr]
        if name == key:
            return begins, at
        _, at = DECODER.raw_decode(text, at)
        at = BLANK.match(text, at).end()  # type: ignore[union-attr]
        if text[at] != ",":
            return None
        number += 1
    return None


def _wrong(text: str, position: int, message: str, hint: str = "") -> WrongJson:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return WrongJson(line, column, message, hint)


def _explained(text: str, error: json.JSONDecodeError) -> tuple[str, str]:
    """Explains the error, and how to correct it, for common mistakes."""
    rest = text[error.pos :].lstrip()
    word = WORD.match(rest)
    if not text.strip():
        return "The file is empty.", ""
    if not rest:
        return "The file ends before the document does.", "A bracket is still open."
    if rest.startswith(("//", "/*", "#")):
        return "JSON has no comments.", "Put comments into 'description'."
    if rest.startswith("'"):
        return "A text stands in double quotes in JSON.", ""
    if word is not None and word[0] in NOT_JSON:
        return f"JSON writes {NOT_JSON[word[0]]}, not {word[0]}.", ""
    match error.msg:
        case "Expecting property name enclosed in double quotes" if rest[0] == "}":
            return EXTRA_COMMA
        case "Expecting property name enclosed in double quotes" if rest[0] == ",":
            return "There is an extra comma here.", ""
        case "Expecting property name enclosed in double quotes" if rest[0] in "[{":
            return "A key is needed here.", "Keys go in { }, list items in [ ]."
        case "Expecting property name enclosed in double quotes":
            return "A key stands in double quotes.", ""
        case "Expecting value" if rest[0] in "]}":
            return EXTRA_COMMA
        case "Expecting value" if rest[0] == ",":
            return "There is an extra comma here, or a value is missing.", ""
        case "Expecting value" if word is not None:
            return "A text stands in double quotes.", ""
        case "Expecting ',' delimiter" if rest[0] in "]}":
            return f"This '{rest[0]}' closes what another kind of bracket opened.", ""
        case "Expecting ',' delimiter" if rest[0] == ":":
            return "A key cannot stand here.", "Keys go in { }, list items in [ ]."
        case "Expecting ',' delimiter":
            return "A comma is missing before this.", ""
        case "Expecting ':' delimiter":
            return "A colon is missing between a key and its value.", ""
        case "Extra data":
            return (
                "There is text after the end of the document.",
                "A bracket may be closed too early.",
            )
        case told if told.startswith("Unterminated string"):
            return "The text that begins here has no closing quote.", ""
        case told if told.startswith("Invalid \\"):
            return "A backslash is written twice in JSON: \\\\.", "Paths can have / instead."
        case told if told.startswith("Invalid control character"):
            return "A text cannot continue on the next line.", "A new line in it is written \\n."
        case told if "trailing comma" in told:
            return "There is an extra comma here.", ""
        case told:
            return f"{told}.", ""
