"""A minimal document of our own for each pipeline class that third-party documents name.

They stand for documents that are not available: class, components and call are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.standins.films import ALLEGRO_FRAMES, ALLEGRO_PX
from tests.standins.minimax_h3 import FRAMES as MINIMAX_H3_FRAMES
from tests.standins.minimax_h3 import WHERE as MINIMAX_H3

Document = dict[str, Any]

SIDE_PX = 64
STEPS = 2
PICTURE, MASK = "picture.png", "mask.png"
"""Files beside the document: an image of SIDE_PX, and the mask of what is drawn."""


class Saved(NamedTuple):
    """An expected file."""

    content_type: str
    width_px: int = SIDE_PX
    height_px: int = SIDE_PX
    frames: int = 1


class Own(NamedTuple):
    """A document of our own."""

    document: Document
    saved: Saved
    """The expected file."""
    preview: bool = False
    """True if its first run has previews, before a map of its latents is learnt."""

    @property
    def name(self) -> str:
        """The document's name, from its classes."""
        return str(self.document["id"])

    @property
    def is_costly(self) -> bool:
        """True if it takes seconds at any size; only `make corpus` runs it."""
        return self.name in COSTLY


COSTLY = {"QwenImageEditPlusPipeline"}
"""It sees its images in a million pixels."""


def step_of(
    kind: str,
    model: str,
    name: str = "main",
    *,
    blocks: Document | None = None,
    configuration: Document | None = None,
    **arguments: Any,
) -> Document:
    return {
        "name": name,
        "pipeline": {
            "configuration": {"component_type": kind, **(configuration or {})},
            "from_pretrained_arguments": {"model_name": model, "torch_dtype": "torch.float32"},
            **(blocks or {}),
            "arguments": arguments,
        },
    }


def _document(*steps: Document, saved: Saved, preview: bool = False, of: str = "") -> Own:
    steps[-1]["result"] = {"content_type": saved.content_type}
    kinds = [step["pipeline"]["configuration"]["component_type"] for step in steps]
    name = "-".join(kinds) + (f" of {of}" if of else "")
    return Own({"id": name, "steps": list(steps)}, saved, preview)


WORDS: Document = {"prompt": "a marmot in a top hat"}
SIZE: Document = {"width": SIDE_PX, "height": SIDE_PX}
FEW: Document = {"num_inference_steps": STEPS}
SEEN: Document = {"image": PICTURE}


def _picture(
    kind: str, model: str, *, preview: bool = False, of: str = "", **arguments: Any
) -> Own:
    step = step_of(kind, model, **WORDS, **SIZE, **FEW, **arguments)
    return _document(step, saved=Saved("image/png"), preview=preview, of=of)


def _film(kind: str, model: str, frames: int, *, of: str = "", **arguments: Any) -> Own:
    step = step_of(kind, model, **FEW, **{"num_frames": frames, **SIZE, **arguments})
    return _document(step, saved=Saved("video/mp4", frames=frames), of=of)


def controlnet_block(model: str) -> Document:
    return {
        "controlnet": {
            "configuration": {"component_type": "ControlNetModel"},
            "from_pretrained_arguments": {"model_name": model, "torch_dtype": "torch.float32"},
        }
    }


SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
REFINER = "stabilityai/stable-diffusion-xl-refiner-1.0"
KANDINSKY = "kandinsky-community/kandinsky-2-2"
FLUX = "black-forest-labs/FLUX.1-dev"

OWN = (
    _picture("StableDiffusionPipeline", SD15, preview=True),
    _picture("DiffusionPipeline", SDXL, preview=True),
    _picture("AutoPipelineForText2Image", "stabilityai/sdxl-turbo", guidance_scale=0.0,
             preview=True),
    _document(
        step_of("AutoPipelineForImage2Image", SD15, **WORDS, **SEEN, strength=0.6, **FEW),
        saved=Saved("image/png"), preview=True,
    ),
    _document(
        step_of("StableDiffusionXLPipeline", SDXL, "base", **WORDS, **SIZE, **FEW,
              denoising_end=0.5, output_type="{latent}"),
        step_of("StableDiffusionXLImg2ImgPipeline", REFINER, **WORDS, **FEW,
              image="previous_result:base", denoising_start=0.5),
        saved=Saved("image/png"), preview=True,
    ),
    _document(
        step_of("StableDiffusionControlNetPipeline", SD15, **WORDS, **SEEN, **FEW,
              blocks=controlnet_block("lllyasviel/control_v11f1p_sd15_depth")),
        saved=Saved("image/png"), preview=True,
    ),
    _document(
        step_of("StableDiffusionControlNetImg2ImgPipeline", "stabilityai/stable-diffusion-2-1",
              **WORDS, **SEEN, control_image=PICTURE, strength=0.9, **FEW,
              blocks=controlnet_block("DionTimmer/controlnet_qrcode-control_v11p_sd21")),
        saved=Saved("image/png"), preview=True,
    ),
    _picture("StableDiffusion3Pipeline", "stabilityai/stable-diffusion-3.5-large",
             preview=True),
    _picture("FluxPipeline", FLUX, preview=True),
    _picture("FluxImg2ImgPipeline", FLUX, **SEEN, strength=0.6, preview=True),
    _picture("FluxFillPipeline", "black-forest-labs/FLUX.1-Fill-dev", **SEEN, mask_image=MASK,
             preview=True),
    _picture("FluxControlPipeline", "black-forest-labs/FLUX.1-Depth-dev", control_image=PICTURE,
             preview=True),
    _picture("FluxKontextPipeline", "black-forest-labs/FLUX.1-Kontext-dev", **SEEN,
             max_area=SIDE_PX * SIDE_PX, _auto_resize=False, preview=True),
    _document(
        step_of("FluxPriorReduxPipeline", "black-forest-labs/FLUX.1-Redux-dev", "prior", **SEEN,
              prompt="", configuration={"no_generator": True}),
        step_of("FluxPipeline", FLUX, **SIZE, **FEW,
              prompt_embeds="previous_result:prior.prompt_embeds",
              pooled_prompt_embeds="previous_result:prior.pooled_prompt_embeds"),
        saved=Saved("image/png"), preview=True,
    ),
    _picture("Flux2Pipeline", "black-forest-labs/FLUX.2-dev"),
    _picture("ErnieImagePipeline", "baidu/ERNIE-Image"),
    _picture("Ideogram4Pipeline", "ideogram-ai/ideogram-v4", guidance_scale=7.0,
             guidance_schedule=None),
    _picture("ZImagePipeline", "Tongyi-MAI/Z-Image-Turbo", guidance_scale=0.0, preview=True),
    _picture("QwenImagePipeline", "Qwen/Qwen-Image"),
    _picture("QwenImageEditPlusPipeline", "Qwen/Qwen-Image-Edit-2509", **SEEN),
    _picture("Krea2Pipeline", "krea/Krea-2-Turbo", guidance_scale=0.0),
    _picture("Lumina2Text2ImgPipeline", "Alpha-VLLM/Lumina-Image-2.0"),
    _picture("SanaPipeline", "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
             use_resolution_binning=False),
    _document(
        step_of("KandinskyV22PriorPipeline", f"{KANDINSKY}-prior", "prior", **WORDS, **FEW),
        step_of("KandinskyV22Pipeline", f"{KANDINSKY}-decoder", **SIZE, **FEW,
              image_embeds="previous_result:prior.image_embeds",
              negative_image_embeds="previous_result:prior.negative_image_embeds"),
        saved=Saved("image/png"),
    ),
    _picture("AutoPipelineForText2Image", f"{KANDINSKY}-decoder", of="Kandinsky 2.2"),
    _picture("AutoPipelineForImage2Image", f"{KANDINSKY}-decoder", of="Kandinsky 2.2", **SEEN,
             strength=0.6),
    _picture("AutoPipelineForText2Image", "kandinsky-community/kandinsky-3", of="Kandinsky 3"),
    _picture("KolorsPipeline", "Kwai-Kolors/Kolors-diffusers"),
    _picture("NucleusMoEImagePipeline", "NucleusAI/Nucleus-Image"),
    _film("WanPipeline", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 5, **WORDS),
    _film("WanImageToVideoPipeline", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", 5, **WORDS, **SEEN),
    _film("WanImageToVideoPipeline", "Wan-AI/Wan2.2-I2V-A14B-Diffusers", 5, of="Wan 2.2", **WORDS,
          **SEEN),
    _film("CogVideoXPipeline", "THUDM/CogVideoX-5b", 9, **WORDS),
    _film("CogVideoXImageToVideoPipeline", "THUDM/CogVideoX-5b-I2V", 9, **WORDS, **SEEN),
    _film("HunyuanVideoPipeline", "hunyuanvideo-community/HunyuanVideo", 5, **WORDS),
    _film("HunyuanVideo15Pipeline",
          "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v", 5, **WORDS),
    _film("MochiPipeline", "genmo/mochi-1-preview", 7, **WORDS),
    _document(
        step_of("AllegroPipeline", "rhymes-ai/Allegro", **WORDS, **FEW, num_frames=ALLEGRO_FRAMES,
              width=ALLEGRO_PX, height=ALLEGRO_PX,
              configuration={"vae": {"enable_tiling": True}}),
        saved=Saved("video/mp4", ALLEGRO_PX, ALLEGRO_PX, ALLEGRO_FRAMES),
    ),
    _film("LTXPipeline", "Lightricks/LTX-Video", 9, **WORDS),
    _film("LTX2Pipeline", "Lightricks/LTX-2.5-Diffusers", 9, **WORDS, frame_rate=24.0),
    _document(
        step_of("MarigoldDepthPipeline", "prs-eth/marigold-depth-lcm-v1-0", **SEEN, **FEW,
              processing_resolution=SIDE_PX),
        saved=Saved("image/png"),
    ),
    _film("StableVideoDiffusionPipeline", "stabilityai/stable-video-diffusion-img2vid-xt", 4,
          **SEEN),
    _picture("FluxModularPipeline", FLUX, preview=True),
    _picture("StableDiffusionXLModularPipeline", SDXL, preview=True),
    _film("MiniMaxH3ModularPipeline", MINIMAX_H3, MINIMAX_H3_FRAMES, **WORDS),
)  # fmt: skip
