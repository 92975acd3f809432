"""Stand-in for Kolors, whose words are read by a ChatGLM."""

from __future__ import annotations

import string
import tempfile
from pathlib import Path

import sentencepiece
from diffusers import EulerDiscreteScheduler
from torch import nn

from tests.standins.parts import NOISE, TEXT_WIDTH, picture_vae, quiet, save, seeded
from tests.standins.stable_diffusion import small_sdxl_unet

ROLES = 9
"""Marks that the tokenizer adds to its vocabulary."""


def build_kolors(folder: Path, seed: int = 0) -> None:
    """Kolors, which is Stable Diffusion XL with another text encoder."""
    with quiet():
        # It compiles two functions in a way that torch has deprecated.
        from diffusers import KolorsPipeline
        from diffusers.pipelines.kolors import ChatGLMModel
        from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
        from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = ChatGLMTokenizer(str(_vocabulary(Path(scratch))))
        with seeded(seed):
            pipeline = KolorsPipeline(
                vae=picture_vae(4, scaling_factor=0.13025),
                text_encoder=ChatGLMModel(
                    ChatGLMConfig(
                        num_layers=2,
                        padded_vocab_size=tokenizer.tokenizer.n_words + ROLES,
                        hidden_size=TEXT_WIDTH,
                        ffn_hidden_size=TEXT_WIDTH,
                        kv_channels=16,
                        num_attention_heads=2,
                        add_qkv_bias=True,
                        original_rope=True,
                    )
                ).eval(),
                tokenizer=tokenizer,
                unet=small_sdxl_unet(
                    cross_attention_dim=16,
                    encoder_hid_dim=TEXT_WIDTH,
                    encoder_hid_dim_type="text_proj",
                ),
                scheduler=EulerDiscreteScheduler(
                    **NOISE, timestep_spacing="leading", steps_offset=1
                ),
                force_zeros_for_empty_prompt=False,
            )
            # The class leaves its weights as memory happened to be.
            for parameter in pipeline.text_encoder.parameters():
                nn.init.normal_(parameter, std=0.2)
        save(pipeline, folder)


def _vocabulary(folder: Path) -> Path:
    """One token for each printable character."""
    letters = string.ascii_letters + string.digits + string.punctuation
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(letters),
        model_prefix=str(folder / "tokenizer"),
        model_type="char",
        vocab_size=len(letters) + 4,
        minloglevel=2,
    )
    return folder / "tokenizer.model"
