"""Stable Diffusion 1.5 and XL with weights in their prompts, and what their denoisers read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook

from models.shapes.tokenizer import MAX_TOKENS
from tests.standins import build_controlnet, build_sd, build_sdxl
from tests.worker.bench import Bench, Document, document, step

SIDE_PX = 64
CHUNK = MAX_TOKENS - 2
"""Tokens of one chunk: those of an encoder without its two marks."""
LOADING = {"safety_checker": None}
KINDS = (
    "", "Img2Img", "Inpaint", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint",
    "XL", "XLImg2Img", "XLInpaint", "XLControlNet", "XLControlNetImg2Img",
)  # fmt: skip


def build(folder: Path) -> None:
    """Writes the models into the folders `sd`, `sdxl`, and their ControlNets."""
    build_sd(folder / "sd")
    build_sdxl(folder / "sdxl")
    build_controlnet(folder / "sd-control")
    unet = UNet2DConditionModel.from_pretrained(folder / "sdxl" / "unet")
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    control.save_pretrained(folder / "sdxl-control")


def bench_with_pictures(folder: Path) -> Bench:
    for name, colour in (("picture", "teal"), ("mask", "white")):
        Image.new("RGB", (SIDE_PX, SIDE_PX), colour).save(folder / f"{name}.png")
    return Bench(folder)


def drawing(
    models: Path, prompt: str | list[str], kind: str = "", *, weighed: bool = True, **arguments: Any
) -> Document:
    """Returns a document of one step, with the pictures of `bench_with_pictures`."""
    family = "sdxl" if kind.startswith("XL") else "sd"
    given: dict[str, Any] = {"num_inference_steps": 4}
    blocks: Document = {}
    if "ControlNet" in kind:
        given |= {"image": "./picture.png"}
        if not kind.endswith("ControlNet"):
            given |= {"control_image": "./picture.png"}
        blocks["controlnet"] = {
            "configuration": {"component_type": "ControlNetModel"},
            "from_pretrained_arguments": {"model_name": str(models / f"{family}-control")},
        }
    if "Img2Img" in kind or "Inpaint" in kind:
        given |= {"image": "./picture.png", "strength": 1.0}
    elif "ControlNet" not in kind:
        given |= {"width": SIDE_PX, "height": SIDE_PX}
    if "Inpaint" in kind:
        given["mask_image"] = "./mask.png"
    made = step(
        model=models / family, kind=kind, loading=LOADING if family == "sd" else {},
        prompt=prompt, blocks=blocks, **{**given, **arguments},
    )  # fmt: skip
    made["pipeline"]["configuration"]["prompt_weighting"] = weighed
    return document(made, id="weighed")


def stock(models: Path, kind: str) -> Any:
    """Returns diffusers' own pipeline of the model."""
    model, more = ("sdxl", {}) if kind.startswith("XL") else ("sd", LOADING)
    name = f"StableDiffusion{'XL' if kind.startswith('XL') else ''}Pipeline"
    return getattr(diffusers, name).from_pretrained(models / model, **more)


class Encoded(NamedTuple):
    embeddings: torch.Tensor
    pooled: torch.Tensor | None


@torch.inference_mode()
def by_hand(pipeline: Any, *chunks: str) -> Encoded:
    """Returns the embeddings of these chunks, each of CHUNK tokens or fewer."""
    found, pooled = [], None
    encoders = [(pipeline.tokenizer, pipeline.text_encoder)]
    if is_xl := hasattr(pipeline, "text_encoder_2"):
        encoders.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    for tokenizer, encoder in encoders:
        parts = []
        for number, chunk in enumerate(chunks):
            ids = tokenizer(chunk, add_special_tokens=False).input_ids
            padding = [tokenizer.pad_token_id] * (CHUNK - len(ids))
            framed = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]
            made = encoder(torch.tensor([framed]), output_hidden_states=True)
            parts.append(made.hidden_states[-2] if is_xl else made.last_hidden_state)
            if number == 0 and is_xl:
                pooled = made[0]
        found.append(torch.cat(parts, dim=1))
    return Encoded(torch.cat(found, dim=-1), pooled)


class Read(NamedTuple):
    """What a denoiser or a ControlNet got in one call."""

    model: str
    embeddings: torch.Tensor
    pooled: torch.Tensor | None


@contextlib.contextmanager
def listening() -> Iterator[list[Read]]:
    """Lists what denoisers and ControlNets are given inside."""
    read: list[Read] = []

    def after_call(module: torch.nn.Module, _given: Any, named: Any, _result: Any) -> None:
        if isinstance(module, UNet2DConditionModel | ControlNetModel):
            added = named.get("added_cond_kwargs") or {}
            read.append(
                Read(
                    type(module).__name__,
                    named["encoder_hidden_states"],
                    added.get("text_embeds"),
                )
            )

    handle = register_module_forward_hook(after_call, with_kwargs=True)
    try:
        yield read
    finally:
        handle.remove()
