"""Completion at the dw> prompt."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from app.dialect.inputs import InputSpec
from app.errors import BadRequest
from app.shell.completion import PromptCompleter, typed_words

INPUTS = (
    InputSpec(name="prompt", label="", kind="text", default=""),
    InputSpec(name="image", label="", kind="image", default=None),
    InputSpec(name="size", label="", kind="choice", default="small", choices=("small", "large")),
    InputSpec(name="tiled", label="", kind="checkbox", default=False),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder and the home of this test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my pictures").mkdir()
    for name in ("star.png", ".hidden.png", "mine.json", "my pictures/red star.png"):
        (tmp_path / name).touch()
    return tmp_path


def completed(line: str, workflows: tuple[str, ...] = ("inpaint", "sd15", "sdxl")) -> list[str]:
    """Returns the lines that completion offers."""
    completer = PromptCompleter(("load", "run", "set", "status"), lambda: workflows, INPUTS)
    offered = completer.get_completions(Document(line), CompleteEvent())
    return [line[: len(line) + each.start_position] + each.text for each in offered]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("s", ["set", "status"]),
        ("load sd", ["load sd15", "load sdxl"]),
        ("load m", ["load mine.json", "load 'my pictures/'"]),
        ("load sdxl ", []),
        ("status ", []),
        ("set p", ["set prompt="]),
        ("set prompt=x im", ["set prompt=x image="]),
        ("set prompt=x p", []),
        ("run --", ["run --seed", "run --fresh"]),
        ("set --", []),
        ("run size=l", ["run size=large"]),
        ("run tiled=", ["run tiled=true", "run tiled=false"]),
        ("run prompt=s", []),
        ("run no=s", []),
        ("run image=s", ["run image=star.png"]),
        ("run image=.h", ["run image=.hidden.png"]),
        ("run image=my", ["run image='my pictures/'"]),
        ("run image='my pictures/'r", ["run image='my pictures/red star.png'"]),
        ('run image="my pictures/r', ["run image='my pictures/red star.png'"]),
        ("run image=my\\ pictures/", ["run image='my pictures/red star.png'"]),
        ("run image=~/st", ["run image=~/star.png"]),
        ("run image=none/", []),
        ("run image=star.png/", []),
    ],
)
def test_line_is_completed(line: str, offered: list[str], folder: Path) -> None:
    assert completed(line) == offered


def test_absolute_path_is_completed(folder: Path) -> None:
    (line,) = completed(f"run image={folder}/st")
    assert shlex.split(line) == ["run", f"image={folder}/star.png"]


def test_unreachable_server_offers_no_workflows(folder: Path) -> None:
    def names() -> list[str]:
        raise BadRequest("The server is gone.")

    completer = PromptCompleter((), names, ())
    offered = completer.get_completions(Document("load "), CompleteEvent())
    assert [each.text for each in offered] == ["mine.json", "'my pictures/'"]


@pytest.mark.parametrize(
    "line", ["run a='b c' d", "run  a=\"b 'c\" ''", "load my\\ own", 'set a="b\\"c" d', "run x"]
)
def test_words_are_split_as_the_prompt_reads_them(line: str) -> None:
    typed = typed_words(line)
    assert [*typed.words, typed.last] == shlex.split(line)
    assert line.endswith(typed.raw)
