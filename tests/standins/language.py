"""Stand-ins for language models: one that writes, one that sees."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.standins.parts import TEXT_WIDTH, qwen_tokenizer, seeded

VISION_PX, PATCH_PX, SCALE = 16, 4, 2
IMAGE_TOKENS = (VISION_PX // PATCH_PX // SCALE) ** 2
"""Of every tile of a picture."""
VISION_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
VISION_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message.role | capitalize}}:"
    "{% for line in message.content %}{% if line.type == 'text' %}{{line.text}}"
    "{% elif line.type == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
SEEING_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
SEEING_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for line in message.content %}{% if line.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ line.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}


def build_language_model(folder: Path, seed: int = 0) -> None:
    """Qwen 2.5, which writes noise of printable bytes; told to draw, as the published one is."""
    tokenizer = qwen_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with seeded(seed):
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=end,
                initializer_range=1.0, **SIZES,
            )
        )  # fmt: skip
    model.generation_config.update(do_sample=True, temperature=0.7, top_p=0.8, top_k=20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_vision_model(folder: Path, seed: int = 0) -> None:
    """SmolVLM, whose classes are those of Idefics 3."""
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = None
    rows = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    tokenizer.add_special_tokens({"additional_special_tokens": [*VISION_TOKENS, *rows]})
    end, image = tokenizer.convert_tokens_to_ids(["<end_of_utterance>", "<image>"])
    with seeded(seed):
        model = Idefics3ForConditionalGeneration(
            Idefics3Config(
                image_token_id=image,
                scale_factor=SCALE,
                pad_token_id=end,
                vision_config=Idefics3VisionConfig(
                    hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                    num_attention_heads=2, image_size=VISION_PX, patch_size=PATCH_PX,
                ),
                text_config=LlamaConfig(
                    vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=end,
                    pad_token_id=end, initializer_range=1.0, **SIZES,
                ),
            )
        )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * VISION_PX}, max_image_size={"longest_edge": VISION_PX}
    ).save_pretrained(folder)
    settings = {"processor_class": "Idefics3Processor", "image_seq_len": IMAGE_TOKENS}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": VISION_TEMPLATE}))


def build_seeing_writer(folder: Path, seed: int = 0) -> None:
    """Qwen 2.5 VL, whose processor has a part for videos."""
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = SEEING_TEMPLATE
    tokenizer.add_special_tokens({"additional_special_tokens": SEEING_TOKENS})
    start, end, image, video = tokenizer.convert_tokens_to_ids(SEEING_TOKENS)
    with seeded(seed):
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config={
                    **SIZES, "vocab_size": len(tokenizer), "bos_token_id": None,
                    "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
                    "initializer_range": 1.0,
                    "rope_parameters": {
                        "rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3],
                    },
                },
                vision_config={
                    "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
                    "out_hidden_size": TEXT_WIDTH, "fullatt_block_indexes": [0],
                    "initializer_range": 1.0,
                },
                image_token_id=image, video_token_id=video,
                vision_start_token_id=start, vision_end_token_id=end,
            )
        )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56).save_pretrained(folder)
