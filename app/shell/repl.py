"""The dw> prompt: load, set, run, status, memory, clear, help, exit.

It talks to a workbench: one with its own worker, or a running server by its API. Everything goes to
stdout, including log lines, so that a transcript reads in order.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.dialect.inputs import InputSpec
from app.errors import BadRequest, UnknownWorkflow, WorkbenchError, nearest
from app.shell.home import without_mark
from app.shell.workbench import Workbench

log = logging.getLogger(__name__)

PROMPT = "dw> "
POLL_S = 0.2
"""Longest delay of a signal while a script's next line is awaited."""
HISTORY = Path.home() / ".dw_history"
HELP = """\
load FILE             select a workflow: a JSON file, or a name listed by `workflows`
workflows             list the workflows and whether their models are available
set name=value …      set values for all later runs; `set` shows them, `set name=` removes one
run name=value …      run the workflow with these values for this run only; also --seed N, --fresh
status                show the worker, the current run and the queue
memory                list the loaded components and the memory in use
clear                 unload everything and free the memory
help                  show this list
exit                  leave the prompt"""


class Repl:
    """Reads commands until exit or the end of the input."""

    def __init__(self, workbench: Workbench) -> None:
        self._workbench = workbench
        self._name = ""
        self._inputs: tuple[InputSpec, ...] = ()
        self._defaults: dict[str, Any] = {}
        self._kept: dict[str, str] = {}
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "load": self._load,
            "workflows": lambda _words: print(self._workbench.workflows()),
            "set": self._set,
            "run": self._run,
            "status": lambda _words: print(self._workbench.status()),
            "memory": lambda _words: print(self._workbench.memory()),
            "clear": lambda _words: self._clear(),
            "help": lambda _words: print(HELP),
        }

    def loop(self, first: str | None = None) -> int:
        """Runs the prompt; returns the exit code, which is 1 when a command of a script failed."""
        failed = False
        with log_on_stdout(), contextlib.closing(self._workbench):
            lines = self._typed() if sys.stdin.isatty() else self._piped()
            for line in [f"load {shlex.quote(first)}"] if first else []:
                failed |= not self._do(line)
            for line in lines:
                if line.strip() in ("exit", "quit"):
                    break
                failed |= not self._do(line)
        return int(failed and not sys.stdin.isatty())

    def _do(self, line: str) -> bool:
        """Executes a line; returns False, and prints the reason, where that failed."""
        try:
            words = _words(line)
            if not words:
                return True
            if words[0] not in self._commands:
                raise BadRequest(
                    f"'{words[0]}' is not a command.",
                    hint=nearest(words[0], self._commands) or "`help` lists them.",
                )
            self._commands[words[0]](words[1:])
        except WorkbenchError as error:
            print(error)
        else:
            return True
        return False

    def _load(self, words: list[str]) -> None:
        if len(words) != 1:
            raise BadRequest("load takes the name of one workflow.")
        self._name, title, self._inputs = self._workbench.describe(words[0])
        self._defaults = {spec.name: spec.default for spec in self._inputs}
        self._kept = {name: value for name, value in self._kept.items() if name in self._defaults}
        print(f"Loading workflow: {title}")

    def _set(self, words: list[str]) -> None:
        for name, value in self._pairs(words).items():
            if value:
                self._kept[name] = value
            else:
                self._kept.pop(name, None)
        for name, default in self._defaults.items():
            shown = self._kept.get(name, default)
            print(f"{name} = {shown}{'' if name in self._kept else '  (default)'}")

    def _run(self, words: list[str]) -> None:
        if not self._name:
            raise UnknownWorkflow("No workflow is loaded.", hint="Load one: load text-to-image")
        words, seed, fresh = _options(words)
        inputs = {**self._kept, **self._pairs(words)}
        ended = self._workbench.run(self._name, inputs, seed, fresh)
        if ended.seconds is None:
            raise BadRequest(ended.sentence)
        for file in ended.files:
            print(file)
        if ended.unchanged:
            print(ended.sentence)
        print(f"Workflow completed ({ended.seconds:.1f} seconds)")

    def _clear(self) -> None:
        print(self._workbench.free())
        print("Full cleanup performed")
        print("GPU memory cleared")

    def _pairs(self, words: list[str]) -> dict[str, str]:
        pairs: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                raise BadRequest(f"'{word}' is not of the form name=value.")
            if self._defaults and name not in self._defaults:
                raise BadRequest(
                    f"This workflow has no variable '{name}'.", hint=nearest(name, self._defaults)
                )
            pairs[name] = without_mark(value)
        return pairs

    def _typed(self) -> Iterator[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory

        from app.shell.completion import PromptCompleter

        # In a thread: a server is asked for its workflows.
        session: PromptSession[str] = PromptSession(
            history=FileHistory(str(HISTORY)), complete_in_thread=True
        )
        commands = (*self._commands, "exit")
        while True:
            completer = PromptCompleter(commands, self._workbench.names, self._inputs)
            try:
                yield without_mark(session.prompt(PROMPT, completer=completer))
            except KeyboardInterrupt:
                continue
            except EOFError:
                return

    def _piped(self) -> Iterator[str]:
        """Yields the lines of a script, printed as if somebody had typed them."""
        for line in _lines(sys.stdin.fileno()):
            print(f"{PROMPT}{line.rstrip()}", flush=True)
            yield line


def _lines(file: int) -> Iterator[str]:
    """Yields the lines of an open file as they come.

    A signal that arrives just before a read is handled after it, so no wait is long.
    """
    rest, chunk = b"", b"unread"
    while chunk:
        while not select.select([file], [], [], POLL_S)[0]:
            pass
        chunk = os.read(file, 1 << 16)
        *lines, rest = (rest + chunk).split(b"\n")
        yield from map(_text, lines)
    if rest:
        yield _text(rest)


def _text(line: bytes) -> str:
    return without_mark(line.decode(errors="replace"))


@contextlib.contextmanager
def log_on_stdout() -> Iterator[None]:
    """Sends log lines to stdout, like the answers."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    try:
        yield
    finally:
        root.handlers = before


def _options(words: list[str]) -> tuple[list[str], int | None, bool]:
    """Returns the words of a run without `--seed N` and `--fresh`, and the values of these."""
    others: list[str] = []
    seed, fresh = None, False
    left = iter(words)
    for word in left:
        if word == "--fresh":
            fresh = True
        elif word == "--seed":
            number = next(left, "")
            if not number.isdecimal():
                raise BadRequest("--seed takes a whole number.")
            seed = int(number)
        else:
            others.append(word)
    return others, seed, fresh


def _words(line: str) -> list[str]:
    try:
        return [without_mark(word) for word in shlex.split(line, comments=True)]
    except ValueError as error:
        raise BadRequest(f"That line cannot be read: {str(error).lower()}.") from None
