"""The next leaner mode of a step: the same picture from less memory, slower.

On an accelerator the weights wait in RAM and take turns there (model offload), where the document
leaves that open. Everywhere the autoencoder works on one picture at a time (slicing) and on one
part of it at a time (tiling): with all of a large picture at once it needs most of what a step
needs beside its weights. Slicing changes nothing but rounding; tiling blends the parts where they
overlap, so the picture differs a little, and is the whole picture to the last bit where it is no
larger than one tile.

Attention slicing is none of these: diffusers computes attention with torch's
`scaled_dot_product_attention`, which takes memory in proportion to the tokens, while slices write
out scores for every pair of them. Measured on a CPU, one call of the bundled denoiser at 768 pixels
takes 56 MiB, and with slices 89 ("max") or 110 ("auto").
"""

from __future__ import annotations

from collections.abc import Collection

from app.workflow.plan import LoadingStep, PipelineStep, TaskStep

SWITCHES = ("tiling", "slicing")
"""What an autoencoder that has an attribute `use_<name>` can be told to do."""


def leaner(
    step: PipelineStep, *, may_offload: bool, switches: Collection[str]
) -> PipelineStep | None:
    """The step in its next leaner mode; None when there is none.

    `switches` are those of SWITCHES that its autoencoder has. `may_offload` says that there is an
    accelerator whose memory ran out and that the document leaves the offload open.
    """
    changes: dict[str, object] = {}
    if may_offload and step.offload is None:
        changes["offload"] = "model"
    for name in SWITCHES:
        if name in switches and not getattr(step, f"vae_{name}"):
            changes[f"vae_{name}"] = True
    return step.model_copy(update=changes) if changes else None


def difference(lean: LoadingStep, step: LoadingStep) -> str:
    """What the lean mode has and the step had not: `model offload and VAE tiling`."""
    if isinstance(lean, TaskStep) or isinstance(step, TaskStep):
        return ""
    names = [] if lean.offload == step.offload else [f"{lean.offload} offload"]
    names += [
        f"VAE {name}"
        for name in SWITCHES
        if getattr(lean, f"vae_{name}") and not getattr(step, f"vae_{name}")
    ]
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
