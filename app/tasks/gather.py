"""Gathers the inputs of a workflow: images and videos from files, or values in the document."""

from __future__ import annotations

from typing import Any

from PIL import Image

from app.tasks.task import Arguments, ImageInput, Task, VideoInput


class Images(Arguments):
    """Planned arguments: the files matched by `glob`."""

    images: list[ImageInput]


class Videos(Arguments):
    """Planned arguments: the files matched by `glob`."""

    videos: list[VideoInput]


class Inputs(Arguments):
    """Planned arguments: one item of `inputs`, or all of `arguments`."""

    value: Any


def gather_images(arguments: Images) -> list[Image.Image]:
    """Returns the images, each a result of its own."""
    return arguments.images


def gather_videos(arguments: Videos) -> list[Any]:
    """Returns the videos with their audio, each a result of its own."""
    return arguments.videos


def gather_inputs(arguments: Inputs) -> Any:
    return arguments.value


IMAGES = Task(Images, gather_images, gives="image", many=True)
VIDEOS = Task(Videos, gather_videos, gives="video", many=True)
INPUTS = Task(Inputs, gather_inputs, gives="anything")
