"""Stand-ins for the models that documents name: real pipelines, tiny, of random weights.

Each has the classes, the settings, the compression factors and the folder layout of the model it
stands for, in sizes that load and draw in a moment (under 5 MB), so a document runs on one as it
runs on the model. What they draw is noise; that they draw it with every component the model has is
the point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

from diffusers import FluxControlPipeline, FluxFillPipeline

from app.planning.loading_arguments import PRIOR_OF
from app.planning.task_models import with_defaults
from app.settings import SHIPPED_WORKFLOWS
from app.tasks import TASKS
from tests.standins.checkpoint import WEIGHTS, build_checkpoint
from tests.standins.films import (
    build_allegro,
    build_cogvideox,
    build_ltx,
    build_mochi,
    build_svd,
)
from tests.standins.flux import build_flux, build_flux_kontext, build_redux
from tests.standins.flux2 import build_ernie_image, build_flux2, build_ideogram4
from tests.standins.gemma import build_lumina2, build_sana
from tests.standins.gguf import build_gguf
from tests.standins.hunyuan import build_hunyuan_video, build_hunyuan_video15
from tests.standins.ip_adapter import build_ip_adapter
from tests.standins.kandinsky import (
    build_kandinsky3,
    build_kandinsky_decoder,
    build_kandinsky_prior,
)
from tests.standins.kolors import build_kolors
from tests.standins.lora import build_lora
from tests.standins.ltx2 import build_ltx2
from tests.standins.marigold import build_marigold
from tests.standins.minimax_h3 import WHERE as MINIMAX_H3
from tests.standins.minimax_h3 import build_minimax_h3
from tests.standins.qwen import (
    build_krea2,
    build_nucleus_image,
    build_qwen_image,
    build_qwen_image_edit_plus,
    build_zimage,
)
from tests.standins.stable_diffusion import (
    build_controlnet,
    build_sd,
    build_sd3,
    build_sd21,
    build_sdxl,
    build_sdxl_refiner,
)
from tests.standins.task_models import TASK_MODELS
from tests.standins.upscalers import build_latent_upscaler, build_upscaler
from tests.standins.wan import build_wan, build_wan_i2v

Build = Callable[[Path], None]

FLUX_DEV = "black-forest-labs/FLUX.1-dev"
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD35_LARGE = "stabilityai/stable-diffusion-3.5-large"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"

MODELS: dict[str, Build] = {
    SD15: build_sd,
    "runwayml/stable-diffusion-v1-5": build_sd,
    "stabilityai/stable-diffusion-2-1": build_sd21,
    "lllyasviel/control_v11f1p_sd15_depth": build_controlnet,
    "DionTimmer/controlnet_qrcode-control_v11p_sd21": partial(build_controlnet, linear=True),
    SDXL: build_sdxl,
    "stabilityai/stable-diffusion-xl-refiner-1.0": build_sdxl_refiner,
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": partial(build_sdxl, inpainting=True),
    "stabilityai/sdxl-turbo": partial(build_sdxl, turbo=True),
    "stabilityai/stable-diffusion-3.5-medium": build_sd3,
    SD35_LARGE: build_sd3,
    FLUX_DEV: build_flux,
    "black-forest-labs/FLUX.1-schnell": partial(build_flux, guidance_embeds=False),
    "black-forest-labs/FLUX.1-Fill-dev": partial(build_flux, kind=FluxFillPipeline),
    "black-forest-labs/FLUX.1-Depth-dev": partial(build_flux, kind=FluxControlPipeline),
    "black-forest-labs/FLUX.1-Canny-dev": partial(build_flux, kind=FluxControlPipeline),
    "black-forest-labs/FLUX.1-Kontext-dev": build_flux_kontext,
    "black-forest-labs/FLUX.1-Redux-dev": build_redux,
    "black-forest-labs/FLUX.2-dev": build_flux2,
    "baidu/ERNIE-Image": build_ernie_image,
    "ideogram-ai/ideogram-v4": build_ideogram4,
    "Tongyi-MAI/Z-Image-Turbo": build_zimage,
    "Qwen/Qwen-Image": build_qwen_image,
    "Qwen/Qwen-Image-Edit-2509": build_qwen_image_edit_plus,
    "krea/Krea-2-Turbo": build_krea2,
    "Alpha-VLLM/Lumina-Image-2.0": build_lumina2,
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": build_sana,
    "kandinsky-community/kandinsky-2-2-prior": build_kandinsky_prior,
    "kandinsky-community/kandinsky-2-2-decoder": build_kandinsky_decoder,
    "kandinsky-community/kandinsky-3": build_kandinsky3,
    "Kwai-Kolors/Kolors-diffusers": build_kolors,
    "NucleusAI/Nucleus-Image": build_nucleus_image,
    "kandinsky-community/kandinsky-2-2-controlnet-depth": partial(
        build_kandinsky_decoder, controlnet=True
    ),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": build_wan,
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": partial(build_wan, version="2.2"),
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": build_wan_i2v,
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": partial(build_wan_i2v, version="2.2"),
    "THUDM/CogVideoX-5b": build_cogvideox,
    "THUDM/CogVideoX-5b-I2V": partial(build_cogvideox, from_image=True),
    "rhymes-ai/Allegro": build_allegro,
    "genmo/mochi-1-preview": build_mochi,
    "Lightricks/LTX-Video": build_ltx,
    "Lightricks/LTX-2.5-Diffusers": build_ltx2,
    "prs-eth/marigold-depth-lcm-v1-0": build_marigold,
    "hunyuanvideo-community/HunyuanVideo": build_hunyuan_video,
    "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v": build_hunyuan_video15,
    "stabilityai/stable-video-diffusion-img2vid-xt": build_svd,
    MINIMAX_H3: build_minimax_h3,
    "stabilityai/stable-diffusion-x4-upscaler": build_upscaler,
    "stabilityai/sd-x2-latent-upscaler": build_latent_upscaler,
    **TASK_MODELS,
}
"""What builds the stand-in of a model, by the model's name on the hub."""


def _ip_adapter(model: Path, file: Path) -> None:
    build_ip_adapter(model, file.parent, file.name)


ADAPTERS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "h94/IP-Adapter/models/ip-adapter_sd15": (SD15, _ip_adapter),
    "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl": (SDXL, _ip_adapter),
    "XLabs-AI/flux-RealismLora/lora": (FLUX_DEV, build_lora),
    "lightx2v/Minimax-h3-Turbo/minimax_h3_fl2v_turbo_8step_v1.0_bf16": (MINIMAX_H3, build_lora),
    "crystalwizard/cubic-abstract-1/cubic-abstract-lora": (SD35_LARGE, build_lora),
    "linoyts/yart_art_sd3-5_lora/pytorch_lora_weights": (SD35_LARGE, build_lora),
    **{
        f"ali-vilab/In-Context-LoRA/{style}": (FLUX_DEV, partial(build_lora, seed=seed))
        for seed, style in enumerate(
            (
                "couple-profile", "film-storyboard", "font-design", "home-decoration",
                "portrait-illustration", "portrait-photography", "ppt-templates",
                "sandstorm-visual-effect", "sparklers-visual-effect", "visual-identity-design",
            )
        )
    },
}  # fmt: skip
"""What builds an adapter, by repository and file, and the model whose denoiser it fits."""

SINGLE_FILES: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "city96/FLUX.1-dev-gguf/flux1-dev-Q2_K.gguf": (FLUX_DEV, build_gguf),
}
"""What builds a transformer in one file, by repository and file, and the model whose it is."""

FAMILIES = (
    "flux-dev", "flux-schnell", "qwen-image", "sd15", "sd35-medium", "sdxl", "sdxl-turbo",
    "wan21-t2v", "z-image-turbo",
)  # fmt: skip
"""Shipped workflows, by stem, of one model each, which stand for its family."""
STANDINS: dict[str, Build] = {
    stem: MODELS[name]
    for stem in FAMILIES
    for name in MODELS
    if f'"{name}"' in (SHIPPED_WORKFLOWS / f"{stem}.json").read_text()
}
"""What builds the stand-in of each family's model, by the stem of the workflow's file."""


class StandIns:
    """A models folder (`OWNER/NAME/…`) that gets its stand-ins when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, *names: str) -> Path:
        """Have the stand-ins of these models in the folder; the folder of the last."""
        for name in names:
            if not (self.folder / name).exists():
                MODELS[name](self.folder / name)
        return self.folder / names[-1]

    def add_checkpoint(self) -> dict[str, str]:
        """Have Stable Diffusion 1.5 there in one file, and a ControlNet; returns their names."""
        files = {
            "checkpoint": self.folder / "checkpoints" / "dream.safetensors",
            "controlnet": self.folder / "controlnet" / "canny.safetensors",
        }
        if not files["checkpoint"].exists():
            for file in files.values():
                file.parent.mkdir()
            build_checkpoint(self.add(SD15), files["checkpoint"])
            controlnet = self.add("lllyasviel/control_v11f1p_sd15_depth")
            copyfile(controlnet / WEIGHTS, files["controlnet"])
        return {name: file.stem for name, file in files.items()}

    def add_named(self, document: Any) -> None:
        """Have every model and adapter there that the document names anywhere, and those that its
        tasks have as their defaults."""
        named = set(texts(document))
        for task in (TASKS[command] for command in named & TASKS.keys()):
            models = (each.model for each in task.loads(with_defaults(task, {})))
            # One that has to be named by the document has no default.
            named |= {model for model in models if isinstance(model, str)}
        # The model that is put together with one that is named.
        named |= {PRIOR_OF[name] for name in named & PRIOR_OF.keys()}
        for name in MODELS:
            if name in named:
                self.add(name)
        for adapter, (model, build) in ADAPTERS.items():
            repository = "/".join(adapter.split("/")[:2])
            file = self.folder / f"{adapter}.safetensors"
            if repository in named and not file.exists():
                build(self.add(model), file)
        for name, (model, build) in SINGLE_FILES.items():
            repository = "/".join(name.split("/")[:2])
            file = self.folder / name
            if any(repository in text for text in named) and not file.exists():
                build(self.add(model) / "transformer", file)


def texts(tree: Any) -> Iterable[str]:
    """Every text in a document."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, list | dict):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from texts(item)
