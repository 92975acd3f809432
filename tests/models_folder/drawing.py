"""Documents over the folder, and the same by stock diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from tests.engines import Finished, notices
from tests.standins.parts import quiet
from tests.worker.bench import Bench, Document, document, pixels, step

SIZE = {"width": 64, "height": 64}
SEED = 7
PROMPT = "a red circle"
KINDS = {"dream": "", "realistic_xl": "XL"}
"""The checkpoints, and the middle of their pipelines' names."""


def drawing(checkpoint: str, prompt: str = PROMPT, **blocks: Any) -> Document:
    """Returns a document that draws with the checkpoint of this name; blocks are by bare name."""
    named = {name: blocks.pop(name) for name in ("vae", "controlnet") if name in blocks}
    classes = {"vae": "AutoencoderKL", "controlnet": "ControlNetModel"}
    parts = {
        name: {
            "configuration": {"component_type": classes[name]},
            "from_pretrained_arguments": {"from_single_file": file},
        }
        for name, file in named.items()
    }
    kind = KINDS[checkpoint] + "ControlNet" * ("controlnet" in named)
    image = {"image": "a.png"} if "controlnet" in named else {}
    wanted = step(kind=kind, blocks={**blocks, **parts}, **SIZE, **image, prompt=prompt)
    wanted["pipeline"]["from_pretrained_arguments"] = {"from_single_file": checkpoint}
    return document(wanted)


def lora(name: str, scale: float = 0.8) -> Document:
    return {"loras": [{"model_name": name, "scale": scale}]}


def run(bench: Bench, wanted: Document) -> Finished:
    control_image().save(bench.folder / "a.png")
    with quiet():
        return bench.run(wanted)


def drawn(bench: Bench, wanted: Document) -> np.ndarray:
    """Returns the picture of a run that left nothing out."""
    finished = run(bench, wanted)
    [picture] = pixels(finished)
    assert notices(finished) == []
    return picture


def control_image() -> Image.Image:
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")


def config_for(bench: Bench, beginning: str) -> Path:
    """Returns the folder of a configuration that a run of the bench has written."""
    [folder] = (bench.folder / "outputs" / ".configs").glob(f"{beginning}-*")
    return folder


def stock(bench: Bench, place: dict[str, Path], checkpoint: str, **parts: Any) -> Any:
    """Returns stock diffusers' pipeline of the checkpoint."""
    kind = KINDS[checkpoint] + "ControlNet" * ("controlnet" in parts)
    pipeline = getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_single_file(
        str(place[checkpoint]),
        config=str(config_for(bench, "sdxl" if KINDS[checkpoint] else "sd15")),
        local_files_only=True,
        **({"add_watermarker": None} if KINDS[checkpoint] else {}),
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn_by(pipeline: Any, prompt: str = PROMPT, **arguments: Any) -> np.ndarray:
    generator = torch.Generator().manual_seed(SEED)
    given = {"num_inference_steps": 2, **SIZE, **arguments}
    with quiet():
        made = pipeline(prompt, generator=generator, **given)
    return np.asarray(made.images[0])
