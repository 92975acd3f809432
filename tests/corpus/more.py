"""Further pipeline classes that run on the stand-ins of models, each with a minimal document."""

from __future__ import annotations

from tests.corpus.own import (
    FEW,
    FLUX,
    MASK,
    PICTURE,
    SD15,
    SDXL,
    SEEN,
    SIZE,
    WORDS,
    Document,
    controlnet_block,
    step_of,
)

SD3 = "stabilityai/stable-diffusion-3.5-large"
QWEN = "Qwen/Qwen-Image"
DRAWN_IN: Document = {**SEEN, "mask_image": MASK}
"""An image, and the mask of what is drawn in it."""
KOLORS = "Kwai-Kolors/Kolors-diffusers"
DEPTH_FLUX = "black-forest-labs/FLUX.1-Depth-dev"
DEPTH = "lllyasviel/control_v11f1p_sd15_depth"


def _document(
    kind: str,
    model: str,
    *,
    blocks: Document | None = None,
    saved: str = "image/png",
    **call: object,
) -> Document:
    made = step_of(kind, model, blocks=blocks, **WORDS, **FEW, **call)
    return {"id": kind, "steps": [{**made, "result": {"content_type": saved}}]}


MORE: tuple[Document, ...] = (
    _document("StableDiffusionInpaintPipeline", SD15, **DRAWN_IN, **SIZE),
    _document("StableDiffusionPAGPipeline", SD15, **SIZE),
    _document(
        "StableDiffusionControlNetInpaintPipeline",
        SD15,
        **DRAWN_IN,
        **SIZE,
        control_image=PICTURE,
        blocks=controlnet_block(DEPTH),
    ),
    _document("StableDiffusionXLInpaintPipeline", SDXL, **DRAWN_IN, **SIZE, strength=0.9),
    _document("StableDiffusion3Img2ImgPipeline", SD3, **SEEN, **SIZE),
    _document("StableDiffusion3InpaintPipeline", SD3, **DRAWN_IN, **SIZE),
    _document("FluxInpaintPipeline", FLUX, **DRAWN_IN, **SIZE),
    _document("FluxControlImg2ImgPipeline", DEPTH_FLUX, **SEEN, **SIZE, control_image=PICTURE),
    _document("ZImageImg2ImgPipeline", "Tongyi-MAI/Z-Image-Turbo", **SEEN, **SIZE),
    _document("QwenImageImg2ImgPipeline", QWEN, **SEEN, **SIZE),
    _document("QwenImageInpaintPipeline", QWEN, **DRAWN_IN, **SIZE),
    _document("KolorsImg2ImgPipeline", KOLORS, **SEEN, strength=0.9),
    _document(
        "LTXImageToVideoPipeline",
        "Lightricks/LTX-Video",
        **SEEN,
        **SIZE,
        num_frames=9,
        saved="video/mp4",
    ),
)
