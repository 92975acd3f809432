"""Combined processors, without torchvision: put together from what needs none of it.

transformers refuses to make some of its processors without torchvision although what they do with
words and pictures needs none: it wants their part for videos, which no pipeline here uses.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import ProcessorMixin, Qwen2VLProcessor


class PictureProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """The processor of Qwen 2 and 2.5 VL for words and pictures; its part for videos is absent."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        for kind in ("image", "video"):
            token = f"<|{kind}_pad|>"
            setattr(self, f"{kind}_token", token)
            setattr(self, f"{kind}_token_id", tokenizer.convert_tokens_to_ids(token))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


PROCESSORS: dict[str, type[Any]] = {
    "Qwen2VLProcessor": PictureProcessor,
    "Qwen2_5_VLProcessor": PictureProcessor,
    # FLUX.2 writes its prompts into a chat and shows its language model no pictures.
    "PixtralProcessor": transformers.AutoTokenizer,
}
"""What is loaded where a model's index names one of these classes."""
