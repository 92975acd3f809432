"""What a workflow begins with: pictures and videos from files, or values it lists itself."""

from __future__ import annotations

from typing import Any

from PIL import Image

from app.tasks.task import Arguments, Picture, Task, Video


class Pictures(Arguments):
    """As planned: the files that `glob` names have been found."""

    images: list[Picture]


class Videos(Arguments):
    """As planned: the files that `glob` names have been found."""

    videos: list[Video]


class Inputs(Arguments):
    """As planned: one item of `inputs`, or all of `arguments`."""

    value: Any


def gather_images(arguments: Pictures) -> list[Image.Image]:
    """The pictures, each a result of its own."""
    return arguments.images


def gather_videos(arguments: Videos) -> list[Any]:
    """The videos with their sound, each a result of its own."""
    return arguments.videos


def gather_inputs(arguments: Inputs) -> Any:
    """The value, unchanged."""
    return arguments.value


IMAGES = Task(Pictures, gather_images, gives="image", many=True)
VIDEOS = Task(Videos, gather_videos, gives="video", many=True)
INPUTS = Task(Inputs, gather_inputs, gives="anything")
