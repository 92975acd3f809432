"""Completion at the dw> prompt: commands, workflows, inputs, their choices, and files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from app.dialect.inputs import InputSpec
from app.errors import WorkbenchError
from app.shell.home import from_home

OPTIONS_OF_RUN = ("--seed", "--fresh")


class Typed(NamedTuple):
    """A line up to the cursor."""

    words: list[str]
    """The words before the last one, without their quotes."""
    raw: str
    """The last word as it was typed."""
    last: str
    """The last word without its quotes."""


class PromptCompleter(Completer):
    """Completes one line of the prompt."""

    def __init__(
        self,
        commands: Iterable[str],
        workflows: Callable[[], Sequence[str]],
        inputs: Sequence[InputSpec],
    ) -> None:
        """`workflows` is asked at most once, when a workflow's name is completed; `inputs` are
        those of the loaded workflow."""
        self._commands = sorted(commands)
        self._ask = workflows
        self._inputs = {spec.name: spec for spec in inputs}

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        typed = typed_words(document.text_before_cursor)
        for text, shown in self._found(typed):
            yield Completion(text, -len(typed.raw), display=shown)

    def _found(self, typed: Typed) -> Iterator[tuple[str, str]]:
        """Yields texts for the last word, and how each is listed."""
        match typed.words:
            case []:
                yield from _beginning(typed.last, self._commands)
            case ["load"]:
                yield from _beginning(typed.last, self._workflows)
                yield from _files(typed.last, ".json")
            case ["set" | "run" as command, *given]:
                name, equals, value = typed.last.partition("=")
                if equals:
                    for text, shown in self._values(name, value):
                        yield f"{name}={text}", shown
                    return
                named = {word.partition("=")[0] for word in given}
                free = [f"{each}=" for each in self._inputs if each not in named]
                yield from _beginning(typed.last, free)
                if command == "run":
                    yield from _beginning(typed.last, OPTIONS_OF_RUN)

    def _values(self, name: str, value: str) -> Iterator[tuple[str, str]]:
        spec = self._inputs.get(name)
        if spec is None:
            return
        if spec.media:
            yield from _files(value)
        elif spec.kind == "checkbox":
            yield from _beginning(value, ("true", "false"))
        else:
            yield from _beginning(value, map(str, spec.choices))

    @cached_property
    def _workflows(self) -> Sequence[str]:
        try:
            return self._ask()
        except WorkbenchError:
            # `load` says it; nobody asked for an error while typing.
            return ()


def _beginning(start: str, offered: Iterable[str]) -> Iterator[tuple[str, str]]:
    for each in offered:
        if each.startswith(start):
            yield shlex.quote(each), each


def _files(start: str, suffix: str = "") -> Iterator[tuple[str, str]]:
    """Yields folders, and files with this suffix, whose path begins so."""
    folder, slash, begun = start.rpartition("/")
    try:
        entries = sorted(Path(from_home(f"{folder}{slash}")).iterdir())
    except OSError:
        # The folder does not exist (yet), or may not be read: there is nothing to offer.
        return
    for entry in entries:
        if not entry.name.startswith(begun) or (entry.name[0] == "." and not begun):
            continue
        if entry.is_dir():
            yield _quoted(f"{folder}{slash}{entry.name}/"), f"{entry.name}/"
        elif entry.name.lower().endswith(suffix):
            yield _quoted(f"{folder}{slash}{entry.name}"), entry.name


def _quoted(path: str) -> str:
    home = "~/" if path.startswith("~/") else ""
    return home + shlex.quote(path.removeprefix(home))


def typed_words(line: str) -> Typed:
    """Splits a line at blanks as the prompt does; its last quote may be open."""
    words: list[str] = []
    start, last, quote = 0, "", ""
    escaped = begun = False
    for position, character in enumerate(line):
        if escaped:
            last, escaped = last + character, False
        elif character == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            quote, last = ("", last) if character == quote else (quote, last + character)
        elif character in "'\"":
            quote, begun = character, True
        elif character.isspace():
            if begun:
                words.append(last)
            start, last, begun = position + 1, "", False
        else:
            last, begun = last + character, True
    return Typed(words, line[start:], last)
