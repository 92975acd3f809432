"""Lets diffusers' pipelines skip layers of CLIP's text encoder.

Their `clip_skip` reads `text_encoder.text_model`, which CLIPTextModel of transformers 5 no longer
has: it is that model itself. Only while a pipeline is called: where LoRAs and single files are
loaded, diffusers looks for the attribute to tell the two kinds apart. Needed with diffusers 0.42.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import CLIPTextModel


@contextlib.contextmanager
def with_inner_text_model() -> Iterator[None]:
    """Gives every CLIPTextModel the attribute `text_model`, itself."""
    CLIPTextModel.text_model = property(lambda model: model)
    try:
        yield
    finally:
        del CLIPTextModel.text_model
