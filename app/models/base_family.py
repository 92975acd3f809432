"""Names the family of models that a file of weights is of, or was made for, by its tensors."""

from __future__ import annotations

import re

from app.models.lora_family import family_of
from app.models.single_files import Shapes, is_recognised, model_type

BY_WIDTH = {768: "SD 1.5", 1024: "SD 2.x", 2048: "SDXL", 1280: "SDXL refiner"}
"""Families by the width of the texts that their denoisers attend to."""
ATTENDED = re.compile(
    r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)[._].*"
    r"attn2[._](processor\.)?to_k"
    r"(\.weight|\.(lora_down|lora_A(\.\w+)?|lora\.down)\.weight|_lora\.down\.weight"
    r"|\.hada_w[12]_b)$"
)
"""Weights of a U-Net's attention to the text whose last size is the width of the text: the
layer's own, and the first factor of a LoRA or a LoHa."""
OF_LOKR = re.compile(r"(?P<module>.*attn2_to_k)\.lokr_w(?P<factor>[12])(_b)?")
"""Factors of a LoKr whose last sizes make the width of the text together."""
OF_VIDEOS = ("motion_modules", "temporal")
"""In names of layers that attend to the other frames, not to the text."""
INPUT = "model.diffusion_model.input_blocks.0.0.weight"
INPAINTING_CHANNELS = 9
BY_TYPE = {
    "inpainting_v2": "SD 2.x inpainting", "inpainting": "SD 1.5 inpainting",
    "xl_inpaint": "SDXL inpainting", "xl_refiner": "SDXL refiner", "xl_base": "SDXL",
    "playground": "Playground 2.5", "upscale": "SD x4 upscaler", "v2": "SD 2.x", "v1": "SD 1.5",
    "controlnet_xl": "SDXL", "controlnet": "SD 1.5", "sd35": "SD3", "sd3": "SD3",
    "flux-2": "FLUX.2", "flux-3": "FLUX.3", "flux": "FLUX.1", "wan": "Wan", "ltx": "LTX",
    "hunyuan": "HunyuanVideo", "chroma": "Chroma", "qwen": "Qwen-Image", "z-image": "Z-Image",
}  # fmt: skip
"""Families by the beginning of diffusers' word for the model."""
OF_LORAS = {
    "FLUX": "FLUX.1", "Stable Diffusion 3": "SD3", "Stable Diffusion XL": "SDXL",
    "Stable Diffusion 1.5 or 2": "SD 1.5 or 2.x",
}  # fmt: skip
ENCODER = re.compile(r"(first_stage_model\.)?decoder\.conv_in\.weight")
BY_LATENTS = {4: "SD 1.5, SD 2.x or SDXL", 16: "SD3 or FLUX.1"}
"""Families by the channels of a VAE's latents, which is all that its shapes tell."""
EMBEDDED = "emb_params"
OF_BOTH_ENCODERS = {"clip_l", "clip_g"}


def base_family(shapes: Shapes, *, is_lora: bool = False) -> str:
    """Returns the family of a model, or the one that a LoRA or an embedding was made for; "" if
    the tensors do not tell."""
    widths = attended_widths(shapes)
    if (known := next((BY_WIDTH[width] for width in widths if width in BY_WIDTH), "")) != "":
        input_shape = shapes.get(INPUT, ())
        is_inpainting = len(input_shape) > 1 and input_shape[1] == INPAINTING_CHANNELS
        return f"{known} inpainting" if is_inpainting else known
    if is_lora:
        found = family_of(shapes)
        return OF_LORAS.get(found, found)
    return _of_embedding(shapes) or _of_vae(shapes) or _of_type(shapes)


def attended_widths(shapes: Shapes) -> frozenset[int]:
    """Returns the widths of the texts that a U-Net, or an adapter for one, attends to; empty if the
    tensors do not tell."""
    found, factors = set(), dict[str, dict[str, int]]()
    for name, shape in shapes.items():
        if len(shape) < 2 or any(word in name for word in OF_VIDEOS):
            continue
        if ATTENDED.search(name):
            found.add(shape[1])
        elif (lokr := OF_LOKR.fullmatch(name)) is not None:
            factors.setdefault(lokr["module"], {})[lokr["factor"]] = shape[1]
    found |= {each["1"] * each["2"] for each in factors.values() if len(each) == 2}
    return frozenset(found)


def _of_embedding(shapes: Shapes) -> str:
    if shapes.keys() >= OF_BOTH_ENCODERS:
        return "SDXL"
    return BY_WIDTH.get((shapes.get(EMBEDDED) or (0,))[-1], "")


def _of_vae(shapes: Shapes) -> str:
    """Returns the families of a VAE alone; "" for a whole checkpoint."""
    channels = [shape[1] for name, shape in shapes.items() if ENCODER.fullmatch(name) and shape[1:]]
    is_alone = channels and not any(name.startswith("model.") for name in shapes)
    return BY_LATENTS.get(channels[0], "") if is_alone else ""


def _of_type(shapes: Shapes) -> str:
    try:
        found = model_type(shapes) if is_recognised(shapes) else ""
    except ValueError:
        return ""
    return next((name for word, name in BY_TYPE.items() if found.startswith(word)), found)
