"""Counts the text encoder or denoiser calls of runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.modules.module import register_module_forward_hook
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5EncoderModel,
    UMT5EncoderModel,
)

from tests.engines import Finished
from tests.worker.bench import Bench, Document

ENCODERS = (CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel, UMT5EncoderModel)


class Encoded(NamedTuple):
    """A run, and its number of text encoder calls."""

    finished: Finished
    calls: int


@contextlib.contextmanager
def counting(*classes: type[torch.nn.Module]) -> Iterator[list[str]]:
    """Lists the class of each module called inside, of these classes; without: text encoders."""
    calls: list[str] = []

    def after_call(module: torch.nn.Module, _arguments: Any, _result: Any) -> None:
        if isinstance(module, classes or ENCODERS):
            calls.append(type(module).__name__)

    handle = register_module_forward_hook(after_call)
    try:
        yield calls
    finally:
        handle.remove()


def encoded(bench: Bench, drawing: Document, seed: int = 7) -> Encoded:
    with counting() as calls:
        finished = bench.run(drawing, seed)
    assert finished.success
    return Encoded(finished, len(calls))
