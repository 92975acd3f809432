"""Stand-ins for HunyuanVideo and HunyuanVideo 1.5."""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import (
    ByT5Tokenizer,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    LlamaTokenizer,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    T5Config,
    T5EncoderModel,
)

from tests.standins.parts import (
    TEXT_WIDTH,
    byte_vocabulary,
    clip_text,
    clip_tokenizer,
    qwen_tokenizer,
    save,
    seeded,
    t5_sizes,
)
from tests.standins.qwen import LANGUAGE_MODEL, qwen25_sizes


def build_hunyuan_video(folder: Path, seed: int = 0) -> None:
    """HunyuanVideo, which has a Llama and a CLIP for its words."""
    clip = clip_tokenizer()
    tokens = byte_vocabulary("<pad>", "<s>", "</s>", "<unk>")
    llama = LlamaTokenizer(vocab=tokens, merges=[], pad_token="<pad>")
    with seeded(seed):
        pipeline = HunyuanVideoPipeline(
            text_encoder=LlamaModel(
                LlamaConfig(**{**LANGUAGE_MODEL, "num_hidden_layers": 4}, vocab_size=len(llama))
            ).eval(),
            tokenizer=llama,
            transformer=HunyuanVideoTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=16,
                num_layers=1,
                num_single_layers=1,
                num_refiner_layers=1,
                text_embed_dim=TEXT_WIDTH,
                pooled_projection_dim=TEXT_WIDTH,
                rope_axes_dim=(4, 6, 6),
            ),
            vae=AutoencoderKLHunyuanVideo(
                block_out_channels=(4, 4, 4, 8), layers_per_block=1, norm_num_groups=2
            ).eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            text_encoder_2=clip_text(CLIPTextModel, clip, positions=77),
            tokenizer_2=clip,
        )
    save(pipeline, folder)


def build_hunyuan_video15(folder: Path, seed: int = 0) -> None:
    """HunyuanVideo 1.5, from text: latents sixteen times smaller, four frames in one.

    The 2048 channels that its library puts between an encoder and the denoiser make it 18 MB.
    """
    qwen, byt5 = qwen_tokenizer(), ByT5Tokenizer()
    with seeded(seed):
        pipeline = HunyuanVideo15Pipeline(
            text_encoder=Qwen2_5_VLTextModel(
                Qwen2_5_VLTextConfig(**{**qwen25_sizes(qwen), "num_hidden_layers": 4})
            ).eval(),
            tokenizer=qwen,
            transformer=HunyuanVideo15Transformer3DModel(
                num_attention_heads=2,
                attention_head_dim=16,
                num_layers=1,
                num_refiner_layers=1,
                text_embed_dim=TEXT_WIDTH,
                text_embed_2_dim=TEXT_WIDTH,
                image_embed_dim=16,
                rope_axes_dim=(4, 6, 6),
                target_size=64,
                task_type="t2v",
            ),
            vae=AutoencoderKLHunyuanVideo15(
                block_out_channels=(8, 8, 8, 16, 32),
                layers_per_block=1,
                downsample_match_channel=False,
                upsample_match_channel=False,
            ).eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            text_encoder_2=T5EncoderModel(
                T5Config(**{**t5_sizes(qwen), "vocab_size": len(byt5)})
            ).eval(),
            tokenizer_2=byt5,
            guider=ClassifierFreeGuidance(guidance_scale=6.0),
        )
    save(pipeline, folder)
