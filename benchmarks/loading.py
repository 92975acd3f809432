"""How long it takes to have a model's weights: ours, stock diffusers, and the least it can take.

    python -m benchmarks.loading [--folder FOLDER] [--repeats 5]

Makes a model of the architecture of Stable Diffusion 1.5 (UNet, autoencoder and text encoder, 1.07
billion random parameters, float16 files, no safety checker) in the folder, 2.1 GB, unless it is
there, and prints one table. Every time includes copying every byte of the weights once, as a move
to a GPU would: memory-mapped weights are otherwise not read before they are used. The least is to
copy the same tensors, one by one, out of the page cache. The page cache is warm for all.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from app.outputs import OutputStore
from app.settings import PROJECT, PathSettings, WorkerSettings
from app.worker.context import RunContext
from app.worker.device import Device
from app.worker.loading.load import find_parts
from app.worker.runner import Runner
from app.workflow.plan import PipelineStep, Plan
from app.workflow.planning.planner import make_plan
from benchmarks.table import print_table

FOLDER = PROJECT / "outputs" / "benchmark-model"
FILES_DTYPE, OTHER_DTYPE = "float16", "bfloat16"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CLIP_TOKENS = 49_408
COPY = "copying the same bytes"


# --- the model -----------------------------------------------------------------------------------


def build_model(folder: Path) -> None:
    """Write the model; what it would draw is noise."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            layers_per_block=2,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            sample_size=512,
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=CLIP_TOKENS,
                hidden_size=768,
                intermediate_size=3072,
                projection_dim=768,
                num_hidden_layers=12,
                num_attention_heads=12,
            )
        )
    tokenizer = build_tokenizer()
    scheduler = PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    for name, library, component in (
        ("unet", "diffusers", unet),
        ("vae", "diffusers", vae),
        ("text_encoder", "transformers", text_encoder),
        ("tokenizer", "transformers", tokenizer),
        ("scheduler", "diffusers", scheduler),
    ):
        index[name] = [library, type(component).__name__]
        part = folder / name
        part.mkdir(parents=True)
        if isinstance(component, torch.nn.Module):
            stem = "diffusion_pytorch_model" if library == "diffusers" else "model"
            save_file(random_weights(component), part / f"{stem}.safetensors", {"format": "pt"})
        if name in ("unet", "vae"):
            component.save_config(part)
        elif name == "text_encoder":
            component.config.save_pretrained(part)
        else:
            component.save_pretrained(part)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def random_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random float16 numbers below 2 for each parameter."""
    random = np.random.default_rng(0)
    weights = {}
    for name, parameter in module.state_dict().items():
        bits = np.frombuffer(random.bytes(2 * parameter.numel()), dtype=np.uint16)
        # Without the exponent's highest bit: no infinity and nothing that is not a number.
        numbers = torch.from_numpy((bits & 0xBFFF).view(np.float16))
        weights[name] = numbers.reshape(parameter.shape)
    return weights


def build_tokenizer() -> CLIPTokenizer:
    """As large as CLIP's: what it costs to load depends on the number of tokens only."""
    symbols = [chr(code) for code in range(0x21, 0x7F)]
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    merges: list[tuple[str, str]] = []
    words = list(LETTERS)
    for word in words:
        for letter in LETTERS:
            if len(vocabulary) < CLIP_TOKENS - 2:
                merges.append((word, letter))
                vocabulary.append(word + letter)
                words.append(word + letter)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    numbered = {token: number for number, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=numbered, merges=merges, model_max_length=77)


# --- what is measured ----------------------------------------------------------------------------


class Copier:
    """Copies tensors into memory that is there already, so that only reading them counts."""

    def __init__(self) -> None:
        self._room = torch.zeros(256 * 1024 * 1024, dtype=torch.uint8)

    def copy(self, tensors: Iterable[torch.Tensor]) -> int:
        """How many bytes that was."""
        copied_bytes = 0
        for tensor in tensors:
            self._room[: tensor.nbytes].copy_(tensor.reshape(-1).view(torch.uint8))
            copied_bytes += tensor.nbytes
        return copied_bytes


def weights_of(components: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Every weight of these components once."""
    for component in components:
        if isinstance(component, torch.nn.Module):
            yield from (parameter.detach() for parameter in component.parameters())


def tensors_of(folder: Path) -> Iterator[torch.Tensor]:
    """Every tensor of the files in this folder, mapped into memory."""
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from (file.get_tensor(name) for name in file.keys())  # noqa: SIM118


class Ours:
    """The worker's own loading, as a run does it before its first step."""

    def __init__(self, model: Path, outputs: Path, copier: Copier) -> None:
        settings = WorkerSettings(device="cpu", log_level="WARNING")
        self._device = Device("cpu")
        self.runner = Runner(settings, OutputStore(outputs), self._device, lambda _event: None)
        self._copier = copier
        self._outputs = outputs
        self._model = model
        # Made in the parent process, before a worker is told anything.
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
        """Have everything a step needs, and copy all its weights once."""
        plan = self._plans[dtype]
        context = RunContext(
            "20260101-000000-000000", plan, self._device, lambda _event: None,
            self.runner.signals, 1.0, self.runner.prompts, self.runner.preview_maps,
        )  # fmt: skip
        step = plan.steps[0]
        assert isinstance(step, PipelineStep)
        parts = find_parts(step)
        self.runner.placement.bring(step, parts, (), context)
        keys = [part.key for part in parts.parts]
        with self.runner.residency.lease(keys, "loading") as components:
            self._copier.copy(weights_of(components.values()))

    def free(self) -> None:
        """What the button does."""
        keys = [entry.key for entry in self.runner.residency.entries]
        self.runner.residency.drop(keys, reason="memory was freed")
        self._device.release()


def stock(model: Path, dtype: str, copier: Copier) -> None:
    """What a person could write instead; the quickest settings there are."""
    pipeline: DiffusionPipeline = StableDiffusionPipeline.from_pretrained(
        model, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
    )
    copier.copy(weights_of(pipeline.components.values()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"(default {FOLDER})")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    options = parser.parse_args(arguments)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    model = options.folder
    if not (model / "model_index.json").is_file():
        shutil.rmtree(model, ignore_errors=True)
        build_model(model)
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
            # What a process does for the first time takes longer, whoever does it.
            stock(model, dtype, copier)
            load = partial(ours.load, dtype)
            measure(f"{dtype}, first load", load)
            if dtype == OTHER_DTYPE:
                measure(f"{dtype}, converted weights written when idle", ours.runner.clean_up)
            # By turns, so that what else the machine does meets all alike.
            for _ in range(options.repeats):
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
        f" {options.repeats}, first times once",
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
