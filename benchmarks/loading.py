"""Measures loading a model: by the worker, by stock diffusers, and the least possible time.

    python -m benchmarks.loading [--folder FOLDER] [--repeats 5] [--smallest]

Creates a model of the architecture of Stable Diffusion 1.5 (UNet, autoencoder and text encoder,
1.07 billion random parameters, float16 files, no safety checker) in the folder, 2.1 GB, if missing,
and prints one table. Every time includes copying every byte of the weights once, as a move to a GPU
would: memory-mapped weights are otherwise not read before they are used. The least is to copy the
same tensors, one by one, out of the page cache, which is warm for all.
"""

from __future__ import annotations

import contextlib
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors import safe_open

from app.dialect.plan import PipelineStep, Plan
from app.outputs import OutputStore
from app.planning.planner import make_plan
from app.settings import PathSettings, WorkerSettings
from app.worker.context import RunContext
from app.worker.device import Device
from app.worker.loading.load import find_parts
from app.worker.runner import Runner
from benchmarks.options import options_parser
from benchmarks.random_model import FOLDER, SMALLEST, make_model
from benchmarks.table import print_table

FILES_DTYPE, OTHER_DTYPE = "float16", "bfloat16"
COPY = "copying the same bytes"


class Copier:
    """Copies tensors into preallocated memory, so that only reading them counts."""

    def __init__(self) -> None:
        self._room = torch.zeros(256 * 1024 * 1024, dtype=torch.uint8)

    def copy(self, tensors: Iterable[torch.Tensor]) -> int:
        """Copies these tensors; returns their bytes."""
        copied_bytes = 0
        for tensor in tensors:
            self._room[: tensor.nbytes].copy_(tensor.reshape(-1).view(torch.uint8))
            copied_bytes += tensor.nbytes
        return copied_bytes


def weights_of(components: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yields every weight of these components once."""
    for component in components:
        if isinstance(component, torch.nn.Module):
            yield from (parameter.detach() for parameter in component.parameters())


def tensors_of(folder: Path) -> Iterator[torch.Tensor]:
    """Yields every tensor of the files in this folder, mapped into memory."""
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from (file.get_tensor(name) for name in file.keys())  # noqa: SIM118


class Ours:
    """The worker's loading, as a run does it before its first step."""

    def __init__(self, model: Path, outputs: Path, copier: Copier) -> None:
        settings = WorkerSettings(device="cpu", log_level="WARNING")
        self._device = Device("cpu")
        self.runner = Runner(settings, OutputStore(outputs), self._device, lambda _event: None)
        self._copier = copier
        self._outputs = outputs
        self._model = model
        # Planning happens in the parent process, so it is not measured.
        self._plans = {dtype: self._plan(dtype) for dtype in (FILES_DTYPE, OTHER_DTYPE)}

    def _plan(self, dtype: str) -> Plan:
        arguments = {"model_name": str(self._model), "torch_dtype": f"torch.{dtype}"}
        pipeline = {
            "configuration": {"component_type": "StableDiffusionPipeline"},
            "from_pretrained_arguments": arguments,
            "arguments": {"prompt": "noise"},
        }
        document = self._outputs / "document.json"
        steps = [{"name": "draw", "pipeline": pipeline}]
        document.write_text(json.dumps({"id": "loading", "steps": steps}))
        return make_plan(document, {}, paths=PathSettings(), seed=0)

    def load(self, dtype: str) -> None:
        """Loads everything a step needs, and copies all its weights once."""
        plan = self._plans[dtype]
        context = RunContext(
            "20260101-000000-000000", plan, self._device, lambda _event: None,
            self.runner.signals, 1.0, self.runner.prompts, self.runner.preview_maps,
            self.runner.loras,
        )  # fmt: skip
        step = plan.steps[0]
        assert isinstance(step, PipelineStep)
        parts = find_parts(step)
        self.runner.placement.place_parts(step, parts, (), context)
        keys = [part.key for part in parts.parts]
        with self.runner.residency.lease(keys, "loading") as components:
            self._copier.copy(weights_of(components.values()))

    def free(self) -> None:
        """Frees memory, as the page's button."""
        keys = [entry.key for entry in self.runner.residency.entries]
        self.runner.residency.drop(keys, reason="memory was freed")
        self._device.release()


def stock(model: Path, dtype: str, copier: Copier) -> None:
    """Loads with stock diffusers and its fastest settings."""
    pipeline: DiffusionPipeline = StableDiffusionPipeline.from_pretrained(
        model, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
    )
    copier.copy(weights_of(pipeline.components.values()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"(default {FOLDER})")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    options = parser.parse_args(arguments)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    with contextlib.ExitStack() as made:
        if options.smallest:
            model = Path(made.enter_context(tempfile.TemporaryDirectory())) / "model"
            make_model(model, SMALLEST)
            measure_and_print(model, repeats=1)
        else:
            make_model(options.folder)
            measure_and_print(options.folder, options.repeats)


def measure_and_print(model: Path, repeats: int) -> None:
    """Measures each kind of loading in turns, and prints the table."""
    copier = Copier()
    weights_bytes = copier.copy(tensors_of(model))

    seconds: dict[str, list[float]] = {}

    def measure(name: str, what: Callable[[], object]) -> None:
        gc.collect()
        started = time.perf_counter()
        what()
        seconds.setdefault(name, []).append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory(dir=model.parent) as outputs:
        ours = Ours(model, Path(outputs), copier)
        for dtype in (FILES_DTYPE, OTHER_DTYPE):
            # The first load of a process is slower in any case.
            stock(model, dtype, copier)
            load = partial(ours.load, dtype)
            measure(f"{dtype}, first load", load)
            if dtype == OTHER_DTYPE:
                measure(f"{dtype}, converted weights written when idle", ours.runner.clean_up)
            # In turns, so that other load on the machine affects all alike.
            for _ in range(repeats):
                ours.free()
                measure(COPY, lambda: copier.copy(tensors_of(model)))
                measure(f"{dtype}, after Free", load)
                ours.free()
                measure(f"{dtype}, stock diffusers", partial(stock, model, dtype, copier))
        restarted = Ours(model, Path(outputs), copier)
        measure(f"{OTHER_DTYPE}, first load after a restart", partial(restarted.load, OTHER_DTYPE))

    medians = {name: statistics.median(each) for name, each in seconds.items()}
    least_s = medians.pop(COPY)
    print_table(
        f"{weights_bytes / 1e9:.2f} GB of weights in {FILES_DTYPE} files; medians of"
        f" {repeats}, first times once",
        [
            (COPY, f"{least_s:.2f} s ({weights_bytes / least_s / 1e9:.1f} GB/s)", ""),
            *(
                (
                    name,
                    f"{median_s:.2f} s, {median_s / least_s:.2f} times the copy",
                    "1.3 times" if name.endswith("after Free") else "",
                )
                for name, median_s in medians.items()
            ),
        ],
    )


if __name__ == "__main__":
    main()
