"""Text and mappings: chat messages for a language model, and parts of its answer."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from app.tasks.task import Arguments, Task


class ChatMessage(Arguments):
    system_prompt: str
    user_message: str


class Entry(Arguments):
    mapping: dict[str, Any] = Field(alias="dict")
    key: str


class Sections(Arguments):
    text: str
    sections: list[str]
    """Labels to keep, in order of output."""
    keep_preamble: bool = True
    """Whether to keep the text before the first label."""


def format_chat_message(arguments: ChatMessage) -> dict[str, list[dict[str, str]]]:
    return {
        "text_inputs": [
            {"role": "system", "content": arguments.system_prompt},
            {"role": "user", "content": arguments.user_message},
        ]
    }


def get_dict_value(arguments: Entry) -> Any:
    return arguments.mapping.get(arguments.key)


def extract_sections(arguments: Sections) -> str:
    """Returns the named paragraphs of the text, each once, in the declared order.

    A section begins with its label (case-insensitive) and a colon at the start of a line, and ends
    with its paragraph; the first of a label counts. Text without sections is returned unchanged.
    """
    text = arguments.text
    names = {name.lower(): name for name in arguments.sections}
    labels = "|".join(map(re.escape, names))
    starts = list(re.finditer(rf"^({labels}):", text, re.MULTILINE | re.IGNORECASE))
    if not names or not starts:
        return text.strip()
    ends = [*(start.start() for start in starts[1:]), len(text)]
    bodies: dict[str, str] = {}
    for start, end in zip(starts, ends, strict=True):
        body = text[start.end() : end].strip()
        bodies.setdefault(start[1].lower(), re.split(r"\n\s*\n", body)[0])
    kept = [f"{name}: {bodies[key]}" for key, name in names.items() if key in bodies]
    preamble = text[: starts[0].start()].strip()
    if arguments.keep_preamble and preamble:
        kept.insert(0, preamble)
    return "\n\n".join(kept)


CHAT_MESSAGE = Task(ChatMessage, format_chat_message, gives="data", keys=("text_inputs",))
DICT_VALUE = Task(Entry, get_dict_value, gives="anything")
SECTIONS = Task(Sections, extract_sections, gives="text")
