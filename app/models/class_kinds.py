"""Tells classes of models from others, by their names."""

from __future__ import annotations

import re

from app.dialect.installed.signatures import public_classes

WITHOUT_WEIGHTS = re.compile(r"Tokenizer|Processor|FeatureExtractor|Scheduler|Guidance$")
"""In the names of classes whose objects are no modules."""


def has_weights(class_name: str) -> bool:
    """Returns True for classes of models, False for tokenizers, processors and schedulers."""
    library, _, bare = class_name.rpartition(".")
    known = public_classes("diffusers").get(bare) if library == "diffusers" else None
    if known is not None and known.kind in ("model", "scheduler"):
        return known.kind == "model"
    return not WITHOUT_WEIGHTS.search(bare)
