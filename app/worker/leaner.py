"""The next leaner mode of a step: the same image from less memory, slower.

On an accelerator: model offload, where the document leaves it open. Everywhere: VAE slicing (one
image at a time) and tiling (one part of an image at a time), since decoding a large image at once
needs most of a step's memory beside its weights. Slicing changes only rounding. Tiling blends
overlapping tiles, so the image differs slightly; an image no larger than one tile is identical.

Attention slicing is not used: diffusers computes attention with torch's
`scaled_dot_product_attention`, which takes memory in proportion to the tokens, while slices write
out scores for every pair of them. Measured on a CPU, one call of the bundled denoiser at 768 pixels
takes 56 MiB, and with slices 89 ("max") or 110 ("auto").
"""

from __future__ import annotations

from collections.abc import Collection

from app.workflow.plan import LoadingStep, PipelineStep, TaskStep

SWITCHES = ("tiling", "slicing")
"""An autoencoder with an attribute `use_<name>` supports this mode."""


def leaner(
    step: PipelineStep, *, may_offload: bool, switches: Collection[str]
) -> PipelineStep | None:
    """Returns the step in its next leaner mode; None when there is none.

    `switches` are the SWITCHES that its autoencoder supports. `may_offload`: an accelerator ran out
    of memory and the document leaves the offload open.
    """
    changes: dict[str, object] = {}
    if may_offload and step.offload is None:
        changes["offload"] = "model"
    for name in SWITCHES:
        if name in switches and not getattr(step, f"vae_{name}"):
            changes[f"vae_{name}"] = True
    return step.model_copy(update=changes) if changes else None


def difference(lean: LoadingStep, step: LoadingStep) -> str:
    """Returns what the lean mode adds to the step: `model offload and VAE tiling`."""
    if isinstance(lean, TaskStep) or isinstance(step, TaskStep):
        return ""
    names = [] if lean.offload == step.offload else [f"{lean.offload} offload"]
    names += [
        f"VAE {name}"
        for name in SWITCHES
        if getattr(lean, f"vae_{name}") and not getattr(step, f"vae_{name}")
    ]
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
