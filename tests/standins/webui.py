"""A practitioner's folder of models, as AUTOMATIC1111's web UI or ComfyUI lays it out: small files
in the key layouts in which such files are published."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.standins.checkpoint import Tensors, original_controlnet, original_unet, original_vae
from tests.standins.families import build_narrow, narrow_configs
from tests.standins.lycoris import Writer, save_lycoris
from tests.standins.parts import seeded
from tests.standins.stable_diffusion import controlnet_of

A1111 = {
    "checkpoints": "models/Stable-diffusion", "loras": "models/Lora", "lycoris": "models/LyCORIS",
    "vae": "models/VAE", "controlnet": "models/ControlNet", "embeddings": "embeddings",
}  # fmt: skip
COMFYUI = {
    "checkpoints": "models/checkpoints", "loras": "models/loras", "lycoris": "models/loras",
    "vae": "models/vae", "controlnet": "models/controlnet", "embeddings": "models/embeddings",
}  # fmt: skip
FILES = {
    "checkpoints": ("dream", "xl/realistic_xl"),
    "loras": ("ink", "ink_xl", "chalk", "glow_dora"),
    "lycoris": ("pastel_loha", "paper_lokr"),
    "vae": ("bright",),
    "controlnet": ("control_sd15_canny", "canny_bare", "canny_xl"),
    "embeddings": ("badhands", "badhands_xl"),
}
"""The files by kind, without the suffix, as `build_folder` makes them."""
BESIDE: dict[str, dict[str, tuple[int, ...]]] = {
    "sd15": {"alphas_cumprod": (1000,), "betas": (1000,), "model_ema.decay": ()},
    "sdxl": {"denoiser.sigmas": (1000,), "conditioner.embedders.1.model.logit_scale": ()},
}
POSITIONS = {
    "sd15": "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "sdxl": "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
}
ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
IN_TEXT = ("q_proj", "v_proj", "out_proj")
VECTORS = 2

Shapes = dict[str, tuple[int, ...]]


def build_folder(root: Path) -> None:
    """Write every file in A1111's layout."""
    places = {
        name: root / A1111[kind] / f"{name}.safetensors"
        for kind, names in FILES.items()
        for name in names
    }
    _build_checkpoint("sd15", places["dream"])
    _build_checkpoint("sdxl", places["xl/realistic_xl"])
    _build_loras(places)
    _build_vae(places["bright"])
    _build_controlnets(places)
    _save({"emb_params": _vectors(32)}, places["badhands"])
    _save({"clip_l": _vectors(32), "clip_g": _vectors(64)}, places["badhands_xl"])


def link_as_comfyui(root: Path, folder: Path) -> None:
    """Link the files of such a folder in ComfyUI's layout."""
    for kind, names in FILES.items():
        for name in names:
            place = folder / COMFYUI[kind] / f"{name}.safetensors"
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(root / A1111[kind] / f"{name}.safetensors", place)


def _build_checkpoint(family: str, file: Path) -> None:
    """With the tensors beside the components' that trainers leave in such files; XL in float16."""
    build_narrow(family, file)
    tensors = load_file(file)
    extra = {name: torch.zeros(shape) for name, shape in BESIDE[family].items()}
    extra[POSITIONS[family]] = torch.arange(77).unsqueeze(0)
    if family == "sdxl":
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    _save({**tensors, **extra}, file)


def _build_loras(places: dict[str, Path]) -> None:
    unet, text = unet_layers("sd15"), text_layers("sd15", "text_encoder")
    of_kohya = {f"lora_unet_{_kohya(path)}": shape for path, shape in unet.items()}
    of_kohya |= {f"lora_te_{_kohya(path)}": shape for path, shape in text.items()}
    writer = Writer()
    save_lycoris(places["ink"], {name: writer.lora(each) for name, each in of_kohya.items()})
    save_lycoris(
        places["pastel_loha"], {name: writer.loha(each) for name, each in of_kohya.items()}
    )
    save_lycoris(
        places["paper_lokr"], {name: writer.lokr(each, "two") for name, each in of_kohya.items()}
    )
    weights = load_file(places["dream"])
    save_lycoris(
        places["glow_dora"],
        {
            f"lora_unet_{_kohya(path)}": writer.lora(shape)
            | writer.magnitudes(weights[original_name(path, "sd15")])
            for path, shape in unet.items()
        },
    )
    of_peft = {f"unet.{path}": shape for path, shape in unet.items()}
    of_peft |= {f"text_encoder.{path}": shape for path, shape in text.items()}
    _save(
        {
            f"{name}.{new}.weight": tensor
            for name, shape in of_peft.items()
            for old, tensor in writer.lora(shape).items()
            if (new := {"lora_up.weight": "lora_B", "lora_down.weight": "lora_A"}.get(old))
        },
        places["chalk"],
    )
    # kohya-ss/sd-scripts has the original names of Stable Diffusion XL's modules.
    of_xl = {
        f"lora_unet_{_kohya(_original_module(path, 'sdxl'))}": shape
        for path, shape in unet_layers("sdxl").items()
    }
    for number, encoder in ((1, "text_encoder"), (2, "text_encoder_2")):
        of_xl |= {
            f"lora_te{number}_{_kohya(path)}": shape
            for path, shape in text_layers("sdxl", encoder).items()
        }
    save_lycoris(places["ink_xl"], {name: writer.lora(shape) for name, shape in of_xl.items()})


def _build_vae(file: Path) -> None:
    """An autoencoder with the names of its first authors, without a prefix."""
    config = narrow_configs("sd15")["vae"]
    with seeded(9):
        tensors = original_vae(AutoencoderKL.from_config(config).state_dict(), config)
    _save({name.removeprefix("first_stage_model."): each for name, each in tensors.items()}, file)


def _build_controlnets(places: dict[str, Path]) -> None:
    """One of Stable Diffusion 1 in its authors' names, with their prefix and without, and one of
    XL in diffusers' names, as those are published."""
    controlnet = narrow_controlnet("sd15")
    named = original_controlnet(controlnet.state_dict(), controlnet.config)
    prefixed = {f"control_model.{name}": tensor for name, tensor in named.items()}
    _save(prefixed, places["control_sd15_canny"])
    _save(named, places["canny_bare"])
    _save(narrow_controlnet("sdxl").state_dict(), places["canny_xl"])


def narrow_controlnet(family: str, seed: int = 3) -> ControlNetModel:
    """Returns a ControlNet for the small checkpoint of this family."""
    with seeded(seed):
        return controlnet_of(UNet2DConditionModel.from_config(narrow_configs(family)["unet"]))


def unet_layers(family: str) -> Shapes:
    """Returns the layers of attention in the family's small U-Net, by diffusers' names."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(narrow_configs(family)["unet"])
    return {path: tuple(each.weight.shape) for path, each in _attention(unet)}


def _attention(unet: Any) -> Iterator[tuple[str, Any]]:
    return ((path, each) for path, each in unet.named_modules() if path.endswith(ATTENTION))


def text_layers(family: str, encoder: str) -> Shapes:
    """Returns the layers of attention in one of the family's small text encoders."""
    config = narrow_configs(family)[encoder]
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    return {
        f"text_model.encoder.layers.{layer}.self_attn.{name}": (width, width)
        for layer in range(layers)
        for name in IN_TEXT
    }


def original_name(path: str, family: str) -> str:
    """Returns the name of this module's weight in a checkpoint of the family."""
    weight = {f"{path}.weight": torch.empty(0)}
    [name] = original_unet(weight, narrow_configs(family)["unet"])
    return name


def _original_module(path: str, family: str) -> str:
    name = original_name(path, family)
    return name.removeprefix("model.diffusion_model.").removesuffix(".weight")


def _kohya(path: str) -> str:
    return path.replace(".", "_")


def _vectors(width: int) -> torch.Tensor:
    return torch.randn(VECTORS, width, generator=torch.Generator().manual_seed(width))


def _save(tensors: Tensors, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file)
