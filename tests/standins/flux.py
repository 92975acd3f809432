"""Stand-ins for the FLUX.1 models: dev, schnell, Fill, Canny, Depth, Kontext and Redux."""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxPriorReduxPipeline,
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import (
    CLIPTextModel,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.standins.parts import (
    EYE_PX,
    TEXT_WIDTH,
    clip_text,
    clip_tokenizer,
    picture_vae,
    save,
    seeded,
    t5_encoder,
    t5_tokenizer,
)

FluxKind = type[FluxPipeline] | type[FluxFillPipeline] | type[FluxControlPipeline]
LATENTS, PATCH = 16, 2 * 2
SEEN_CHANNELS: dict[type, int] = {
    # The picture to fill and, a pixel a channel, its mask.
    FluxFillPipeline: (LATENTS + 8 * 8) * PATCH,
    FluxControlPipeline: LATENTS * PATCH,
}
"""What the denoiser of each kind is shown beside the picture that it draws."""


def build_flux(
    folder: Path,
    seed: int = 0,
    *,
    guidance_embeds: bool = True,
    kind: FluxKind = FluxPipeline,
    head_dim: int = 16,
) -> None:
    """FLUX.1 dev, which is told the guidance scale, or without `guidance_embeds` schnell; of a
    `kind` that is shown more than noise: Fill, Canny and Depth, Kontext."""
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    # dev shifts its noise schedule by the picture's size, schnell does not.
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=guidance_embeds, shift=3.0 if guidance_embeds else 1.0
    )
    with seeded(seed):
        pipeline = kind(
            scheduler=scheduler,
            vae=picture_vae(LATENTS, scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=clip_text(CLIPTextModel, clip),
            tokenizer=clip,
            text_encoder_2=t5_encoder(t5),
            tokenizer_2=t5,
            transformer=FluxTransformer2DModel(
                in_channels=LATENTS * PATCH + SEEN_CHANNELS.get(kind, 0),
                out_channels=LATENTS * PATCH,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=head_dim,
                num_attention_heads=2,
                joint_attention_dim=TEXT_WIDTH,
                pooled_projection_dim=TEXT_WIDTH,
                guidance_embeds=guidance_embeds,
                axes_dims_rope=(head_dim // 4, head_dim // 4, head_dim // 2),
            ),
        )
    save(pipeline, folder)


def build_flux_kontext(folder: Path, seed: int = 0) -> None:
    """FLUX.1 Kontext, whose denoiser is dev's."""
    build_flux(folder, seed, kind=FluxKontextPipeline)


def build_redux(folder: Path, seed: int = 0) -> None:
    """FLUX.1 Redux, with the text encoders of dev, which the model leaves to be given.

    Without them the library assumes the widths of the real ones, and no weights of these are small.
    """
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    with seeded(seed):
        pipeline = FluxPriorReduxPipeline(
            image_encoder=SiglipVisionModel(
                SiglipVisionConfig(
                    hidden_size=16,
                    intermediate_size=16,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    image_size=EYE_PX,
                    patch_size=EYE_PX // 2,
                )
            ).eval(),
            feature_extractor=SiglipImageProcessorPil(size={"height": EYE_PX, "width": EYE_PX}),
            image_embedder=ReduxImageEncoder(redux_dim=16, txt_in_features=TEXT_WIDTH).eval(),
            text_encoder=clip_text(CLIPTextModel, clip),
            tokenizer=clip,
            text_encoder_2=t5_encoder(t5),
            tokenizer_2=t5,
        )
    save(pipeline, folder)
