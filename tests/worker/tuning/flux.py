"""Documents that draw with a Flux of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.worker.bench import Document, document, step


def with_flux(flux: Path, **configuration: Any) -> Document:
    """Returns a document that draws with the model in this folder."""
    wanted = step(model=flux, num_inference_steps=8, width=64, height=64)
    wanted["pipeline"]["configuration"] = {"component_type": "FluxPipeline", **configuration}
    return document(wanted, id="drawn")
