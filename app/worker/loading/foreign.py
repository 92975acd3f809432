"""Models of libraries with files and loaders of their own: controlnet_aux's detectors, spandrel's.

Each is wrapped in a module, so that its weights are counted, moved and let go of like all others.
Which classes there are is the tasks' business (`app/tasks`); a document cannot name one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from app.worker.loading.parts import Part
from app.worker.loading.single_files import local_file
from app.workflow.fingerprint import ComponentIdentity, component_key, identify_file
from app.workflow.models.wanted import foreign_files
from app.workflow.plan_sources import ComponentBlock

DEPTH = 2
"""Detectors keep their networks in attributes, or in attributes of those."""


class Foreign(torch.nn.Module):
    """What another library loaded; its own object is the `tool`."""

    def __init__(self, tool: Any) -> None:
        super().__init__()
        self.tool = tool
        for number, network in enumerate(_networks(tool, DEPTH)):
            self.add_module(f"network_{number}", network)

    @staticmethod
    def load() -> Foreign:
        """The component, by its library."""
        raise NotImplementedError


def foreign_part(name: str, block: ComponentBlock) -> Part:
    """The component of this block. Raises LoadError where a file cannot be had."""
    files = {key: local_file(source) for key, source in foreign_files(block).items()}
    identity = ComponentIdentity(
        class_name=block.class_name,
        files=tuple(identify_file(file) for file in files.values()),
        dtype="float32",
        variant=None,
    )
    first = next(iter(files.values()))
    return Part(
        name,
        _loader(block, files),
        first.parent,
        "float32",
        None,
        block.source.model,
        block.source.short_name,
        component_key(identity),
        sum(file.stat().st_size for file in files.values()),
        file=first,
    )


def _loader(block: ComponentBlock, files: dict[str, Path]) -> type[Foreign]:
    """A class of this one component, which is all that its load needs to know."""
    library, _, class_name = block.class_name.rpartition(".")

    def load() -> Foreign:
        found = getattr(importlib.import_module(library), class_name)
        if block.source.file:
            (file,) = files.values()
            return Foreign(found(device="cpu").load_from_file(file))
        key, below = next(iter(block.files.items()))
        folder = files[key].parents[below.count("/")]
        return Foreign(found.from_pretrained(str(folder), **block.files))

    return type(class_name, (Foreign,), {"load": staticmethod(load)})


def _networks(tool: Any, depth: int) -> Iterator[torch.nn.Module]:
    if isinstance(tool, torch.nn.Module):
        yield tool
    elif depth:
        for value in vars(tool).values() if hasattr(tool, "__dict__") else ():
            yield from _networks(value, depth - 1)
