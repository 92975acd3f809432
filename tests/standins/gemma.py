"""Stand-ins for Lumina Image 2 and Sana, whose text encoder is a Gemma 2."""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
)
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from tests.standins.parts import TEXT_WIDTH, byte_vocabulary, picture_vae, save, seeded
from tests.standins.qwen import LANGUAGE_MODEL


def build_lumina2(folder: Path, seed: int = 0) -> None:
    """Lumina Image 2."""
    tokenizer = gemma_tokenizer()
    with seeded(seed):
        pipeline = Lumina2Pipeline(
            transformer=Lumina2Transformer2DModel(
                sample_size=8,
                in_channels=16,
                hidden_size=24,
                num_layers=1,
                num_refiner_layers=1,
                num_attention_heads=1,
                num_kv_heads=1,
                multiple_of=16,
                axes_dim_rope=(8, 8, 8),
                cap_feat_dim=TEXT_WIDTH,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
            vae=picture_vae(16, scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=_text_encoder(tokenizer),
            tokenizer=tokenizer,
        )
    save(pipeline, folder)


def build_sana(folder: Path, seed: int = 0) -> None:
    """Sana, whose latents are 32 times smaller than the picture."""
    tokenizer = gemma_tokenizer()
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    channels = (8, 8, 16, 16, 32, 32)
    with seeded(seed):
        pipeline = SanaPipeline(
            tokenizer=tokenizer,
            text_encoder=_text_encoder(tokenizer),
            vae=AutoencoderDC(
                attention_head_dim=8,
                encoder_block_types=blocks,
                decoder_block_types=blocks,
                encoder_block_out_channels=channels,
                decoder_block_out_channels=channels,
                encoder_layers_per_block=(1,) * 6,
                decoder_layers_per_block=(1,) * 6,
                downsample_block_type="Conv",
                upsample_block_type="interpolate",
                scaling_factor=0.41407,
            ).eval(),
            transformer=SanaTransformer2DModel(
                num_attention_heads=2,
                attention_head_dim=16,
                num_layers=1,
                num_cross_attention_heads=2,
                cross_attention_head_dim=16,
                cross_attention_dim=32,
                caption_channels=TEXT_WIDTH,
                sample_size=32,
            ),
            scheduler=DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
        )
    save(pipeline, folder)


def gemma_tokenizer() -> GemmaTokenizer:
    return GemmaTokenizer(vocab=byte_vocabulary("<pad>", "<eos>", "<bos>", "<unk>"), merges=[])


def _text_encoder(tokenizer: GemmaTokenizer) -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(**LANGUAGE_MODEL, head_dim=16, vocab_size=len(tokenizer))
    ).eval()
