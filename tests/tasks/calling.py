"""Calls a task as a step does: checks arguments, then runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from app.tasks import TASKS
from app.tasks.task import mistakes


def call(command: str, **arguments: Any) -> Any:
    """Returns the task's result."""
    task = TASKS[command]
    more: tuple[Any, ...] = (np.random.default_rng(3),) if task.random else ()
    if task.reports:
        more = (lambda done, total: None,)
    return task.run(task.arguments.model_validate(arguments), *more)


def wrong(command: str, **arguments: Any) -> dict[str, str]:
    """Returns the mistakes in the arguments, by place."""
    return {
        ".".join(map(str, found.path)): f"{found.message} {found.hint}".strip()
        for found in mistakes(command, TASKS[command], arguments)
    }


def quarters(width: int = 64, height: int = 64) -> Image.Image:
    """Returns an image with red and green above, blue and white below."""
    picture = Image.new("RGB", (width, height), "white")
    for colour, left, up in (("red", 0, 0), ("lime", 1, 0), ("blue", 0, 1)):
        corner = (left * width // 2, up * height // 2)
        picture.paste(colour, (*corner, corner[0] + width // 2, corner[1] + height // 2))
    return picture


def plain(size: tuple[int, int], colour: str | tuple[int, ...] = "red") -> Image.Image:
    return Image.new("RGB", size, colour)


def array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)
