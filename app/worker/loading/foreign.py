"""Models of other libraries with their own files and loaders: controlnet_aux, spandrel, OpenCV.

Each is wrapped in a module, so that its weights are counted, moved and evicted like all others. The
tasks (`app/tasks`) choose the classes; a document cannot name one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import torch

from app.models.specs import ComponentSpec

DEPTH = 2
"""Depth of attributes in which detectors keep their networks."""
SMALLEST = 32
"""Width and height in pixels to begin with."""


class Foreign(torch.nn.Module):
    """A model loaded by another library, whose own object is the `tool`."""

    def __init__(self, tool: Any) -> None:
        super().__init__()
        self.tool = tool
        for number, network in enumerate(_networks(tool, DEPTH)):
            self.add_module(f"network_{number}", network)

    @staticmethod
    def load() -> Foreign:
        raise NotImplementedError


def foreign_class(spec: ComponentSpec) -> type[Foreign]:
    """Returns a class for this one component, whose `load` needs no arguments."""
    library, _, class_name = spec.class_name.rpartition(".")

    def load() -> Foreign:
        assert spec.file is not None
        found = getattr(importlib.import_module(library), class_name)
        if library == "cv2":
            # The size of the images is set with each of them.
            return Foreign(found.create(str(spec.file), "", (SMALLEST, SMALLEST)))
        if not spec.tool_files:
            return Foreign(found(device="cpu").load_from_file(spec.file))
        folder = spec.file.parents[next(iter(spec.tool_files.values())).count("/")]
        return Foreign(found.from_pretrained(str(folder), **spec.tool_files))

    return type(class_name, (Foreign,), {"load": staticmethod(load)})


def _networks(tool: Any, depth: int) -> Iterator[torch.nn.Module]:
    if isinstance(tool, torch.nn.Module):
        yield tool
    elif depth:
        for value in vars(tool).values() if hasattr(tool, "__dict__") else ():
            yield from _networks(value, depth - 1)
