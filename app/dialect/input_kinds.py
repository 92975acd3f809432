"""Kinds of form inputs."""

from __future__ import annotations

from typing import Annotated

from app.dialect.one_of import OneOf

INPUT_KINDS: dict[str, str] = {
    "text": "app.ui.widgets:TEXT",
    "number": "app.ui.widgets:NUMBER",
    "integer": "app.ui.widgets:INTEGER",
    "slider": "app.ui.widgets:SLIDER",
    "checkbox": "app.ui.widgets:CHECKBOX",
    "choice": "app.ui.widgets:CHOICE",
    "model": "app.ui.widgets:MODEL",
    "image": "app.ui.widgets:IMAGE",
    "mask": "app.ui.widgets:IMAGE",
    "video": "app.ui.widgets:VIDEO",
    "audio": "app.ui.widgets:AUDIO",
    "seed": "",
}
"""The page's widget of each kind; a seed has its own place on the page."""
InputKind = Annotated[str, OneOf(INPUT_KINDS)]
