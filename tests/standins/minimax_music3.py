"""A stand-in for MiniMax Music 3, which there is as a modular pipeline only: songs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    MiniMaxMusic3ConditionEncoder,
    MiniMaxMusic3RVQDepthDecoder,
    MiniMaxMusic3Transformer1DModel,
    MiniMaxMusic3Vocoder,
)
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.standins.parts import qwen_tokenizer, save_modular, seeded

SAMPLE_RATE_HZ = 44_100
WIDTH, CODEBOOKS, CHANNELS = 8, 8, 8
VOCABULARY = 151_675 + 16_384
"""The words of its language model, and then the sounds; the numbers stand in diffusers' code."""


def build_minimax_music3(folder: Path, seed: int = 0) -> None:
    """MiniMax Music 3."""
    with seeded(seed):
        language_model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=VOCABULARY,
                hidden_size=WIDTH,
                intermediate_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=1,
                num_key_value_heads=1,
                head_dim=WIDTH,
                tie_word_embeddings=True,
            )
        )
        parts: dict[str, Any] = {
            "tokenizer": qwen_tokenizer(),
            # In half the bytes, for the many words.
            "language_model": language_model.to(torch.bfloat16).eval(),
            "rvq_depth_decoder": MiniMaxMusic3RVQDepthDecoder(
                hidden_size=WIDTH,
                num_layers=1,
                num_attention_heads=1,
                intermediate_size=WIDTH,
                audio_vocab_size=16,
                num_codebooks=CODEBOOKS,
            ),
            "condition_encoder": MiniMaxMusic3ConditionEncoder(
                condition_hidden_dim=WIDTH, num_condition_layers=CODEBOOKS, out_dim=CHANNELS
            ),
            "transformer": MiniMaxMusic3Transformer1DModel(
                in_channels=CHANNELS,
                condition_dim=CHANNELS,
                num_layers=1,
                num_attention_heads=1,
                attention_head_dim=16,
                ff_inner_dim=16,
                rotary_dim=8,
                fourier_embedding_dim=16,
            ),
            "vocoder": MiniMaxMusic3Vocoder(
                latent_channels=CHANNELS, decoder_input_dim=16, decoder_hidden_dim=32
            ),
            "scheduler": FlowMatchEulerDiscreteScheduler(),
        }
    save_modular(parts, folder, "MiniMaxMusic3", model="MiniMaxAI/MiniMax-Music-3")
