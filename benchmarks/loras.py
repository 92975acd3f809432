"""Measures what a LoRA costs in a warm run, compared with bare diffusers.

    python -m benchmarks.loras [--runs 15] [--smallest]

Prints one table. The model has SDXL's layers, narrow ones, and the LoRAs change all 722 that
trainers usually choose. Bare diffusers is a script that leaves the LoRA loaded, or loads it for
each call. The time outside the pipeline's calls is what the workbench adds; a LoRA's own
multiplications are inside.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from app.engine.engine import Engine
from app.protocol import RunSucceeded
from app.settings import PathSettings, Settings, WorkerSettings
from benchmarks.options import options_parser
from benchmarks.random_model import build_tokenizer
from benchmarks.table import print_table

TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
)  # fmt: skip
RANK = 8
SIDE_PX = 64
CALL: dict[str, Any] = {"prompt": "a red circle", "num_inference_steps": 2, "width": SIDE_PX}
CALL |= {"height": SIDE_PX}
NAMES = ("a", "b", "c")

BARE = """
import json, statistics, sys, time, torch
from diffusers import StableDiffusionXLPipeline
folder, loras, runs, arguments = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
pipe = StableDiffusionXLPipeline.from_pretrained(folder)
pipe.set_progress_bar_config(disable=True)
def call():
    with torch.inference_mode():
        pipe(**arguments, generator=torch.Generator().manual_seed(0))
def load():
    pipe.load_lora_weights(loras, weight_name="a.safetensors", adapter_name="a")
def timed(*steps):
    found = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        for step in steps:
            step()
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])
without = timed(call)
each = timed(load, call, pipe.unload_lora_weights)
load()
print(json.dumps([without, timed(call), each]))
"""


def make_model(folder: Path) -> None:
    """Writes a narrow model with SDXL's layers."""
    text = CLIPTextConfig(
        vocab_size=1000, hidden_size=24, intermediate_size=48, projection_dim=24,
        num_hidden_layers=2, num_attention_heads=4, bos_token_id=998, eos_token_id=999,
        pad_token_id=999,
    )  # fmt: skip
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIDE_PX // 8,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(4, 8, 16),
        use_linear_projection=True,
        cross_attention_dim=48,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    StableDiffusionXLPipeline(
        vae,
        CLIPTextModel(text),
        CLIPTextModelWithProjection(text),
        build_tokenizer(1000),
        build_tokenizer(1000),
        unet,
        EulerDiscreteScheduler(),
    ).save_pretrained(folder)


def make_loras(model: Path, folder: Path) -> int:
    """Writes the LoRAs; returns the number of layers each of them changes."""
    shapes = load_file(next((model / "unet").glob("*.safetensors")))
    layers = {
        name.removesuffix(".weight"): weight.shape
        for name, weight in shapes.items()
        if weight.ndim == 2 and name.removesuffix(".weight").endswith(TARGETS)
    }
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        noise = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer, (rows, columns) in layers.items():
            tensors[f"unet.{layer}.lora_A.weight"] = torch.randn(RANK, columns, generator=noise)
            tensors[f"unet.{layer}.lora_B.weight"] = torch.randn(rows, RANK, generator=noise) / 50
        save_file(tensors, folder / f"{name}.safetensors")
    return len(layers)


class Runs:
    """Runs of the model with LoRAs, through an engine."""

    def __init__(self, engine: Engine, folder: Path, model: Path, loras: Path) -> None:
        self._engine, self._folder, self._model, self._loras = engine, folder, model, loras

    def measured(self, *names: str) -> tuple[float, float]:
        """Returns the seconds of one run with these LoRAs: in all, and outside the calls."""
        blocks = [
            {"model_name": str(self._loras), "weight_name": f"{name}.safetensors"}
            | {"adapter_name": name, "scale": 0.5}
            for name in names
        ]
        pipeline = {
            "configuration": {"component_type": "StableDiffusionXLPipeline"},
            "from_pretrained_arguments": {"model_name": str(self._model)},
            "arguments": CALL,
            "loras": blocks,
        }
        saved = {"content_type": "image/png"}
        steps = [{"name": "draw", "pipeline": pipeline, "result": saved}]
        path = self._folder / f"with-{'-'.join(names)}.json"
        path.write_text(json.dumps({"id": path.stem, "steps": steps}))
        started = time.perf_counter()
        end = [*self._engine.events(self._engine.submit(path, {}, seed=0, fresh=True))][-1]
        total_s = time.perf_counter() - started
        if not isinstance(end, RunSucceeded):
            raise SystemExit(f"the run did not succeed: {end}")
        return total_s, total_s - end.timings.compute_s


def medians(measured: Sequence[tuple[float, float]]) -> tuple[float, float]:
    total_s, outside_s = zip(*measured, strict=True)
    return statistics.median(total_s), statistics.median(outside_s)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args(arguments)
    runs = 1 if options.smallest else options.runs
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, loras = folder / "model", folder / "loras"
        make_model(model)
        layers = make_loras(model, loras)
        bare = subprocess.run(
            [sys.executable, "-c", BARE, model, loras, str(runs), json.dumps(CALL)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        bare_without_s, bare_with_s, bare_each_s = json.loads(bare.stdout.splitlines()[-1])
        read_s = []
        for _ in range(runs):
            started = time.perf_counter()
            load_file(loras / "a.safetensors")
            read_s.append(time.perf_counter() - started)
        engine = Engine()
        engine.start(
            Settings(
                paths=PathSettings(outputs=folder / "outputs"),
                worker=WorkerSettings(log_level="WARNING"),
            )
        )
        try:
            run = Runs(engine, folder, model, loras).measured
            for names in ((), ("a",), ("a", "b")):
                run(*names)
            without, with_a = [], []
            for _ in range(runs):
                without.append(run())
                with_a.append(run("a"))
            run("a", "b")
            both = medians([run("a", "b") for _ in range(runs)])[1]
            new = run("a", "c")[1]
            back = run("a", "b")[1]
        finally:
            engine.close()
    (without_s, without_outside_s), (with_s, with_outside_s) = medians(without), medians(with_a)
    print_table(
        f"a LoRA on {layers} layers, medians of {runs} runs",
        [
            ("warm run without a LoRA", f"{without_s:.3f} s", ""),
            (
                "warm run with the LoRA",
                f"{with_s:.3f} s, {with_s / without_s:.2f} times as long",
                "",
            ),
            (
                "outside the calls, more than without a LoRA",
                f"{1000 * (with_outside_s - without_outside_s):.1f} ms",
                "10 ms",
            ),
            (
                "bare diffusers, the LoRA stays loaded",
                f"{bare_with_s:.3f} s, {bare_with_s / bare_without_s:.2f} times as long as without",
                "",
            ),
            (
                "bare diffusers, the LoRA is loaded for each call",
                f"{bare_each_s:.3f} s, {bare_each_s / with_s:.1f} times the warm run",
                "",
            ),
            (
                "another one instead of one of two, outside the calls",
                f"{1000 * (new - both):.0f} ms more; reading its file takes"
                f" {1000 * statistics.median(read_s):.0f} ms",
                "100 ms + reading",
            ),
            (
                "back to one that was used before, outside the calls",
                f"{1000 * (back - both):.0f} ms more",
                "",
            ),
        ],
    )


if __name__ == "__main__":
    main()
