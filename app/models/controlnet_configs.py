"""Configurations of ControlNets of Stable Diffusion 1, 2 and XL in one file, from the shapes of
their tensors.

A ControlNet is a copy of a U-Net's encoder: what no shape tells is taken from the U-Net of the
pipeline where it is of the same widths, else from the facts of its family. Its tensors have the
names of their first authors, with a prefix or without, or those of diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.models.shape_configs import UNET, Config, encoder_config
from app.models.single_files import Shapes

PREFIX = "control_model."
HINTS = ("input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight")
"""What only ControlNets have: the first layer of the picture, in both namings."""
PARTS = frozenset({
    "time_embed", "label_emb", "input_blocks", "middle_block", "zero_convs", "middle_block_out",
    "input_hint_block",
    "conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block",
    "controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding",
})  # fmt: skip
"""The parts of a ControlNet, in both namings; a union of several or one for videos has others."""
OF_VIDEOS = "motion_modules"
OF_UNET = frozenset({
    "act_fn", "addition_embed_type", "addition_time_embed_dim", "attention_head_dim",
    "block_out_channels", "class_embed_type", "cross_attention_dim", "down_block_types",
    "downsample_padding", "encoder_hid_dim", "encoder_hid_dim_type", "flip_sin_to_cos",
    "freq_shift", "in_channels", "layers_per_block", "mid_block_scale_factor", "mid_block_type",
    "norm_eps", "norm_num_groups", "num_attention_heads", "num_class_embeds",
    "only_cross_attention", "projection_class_embeddings_input_dim", "resnet_time_scale_shift",
    "transformer_layers_per_block", "upcast_attention", "use_linear_projection",
})  # fmt: skip
"""Settings that a ControlNet has in common with its U-Net, as in diffusers' `from_unet`."""
SINGLE = {
    "conv_in.weight": "input_blocks.0.0.weight",
    "add_embedding.linear_1.weight": "label_emb.0.0.weight",
}
BLOCK = re.compile(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.+)")
IN_BLOCK = {"conv2.weight": "out_layers.3.weight", "conv.weight": "op.weight"}
IN_MIDDLE = "mid_block.attentions.0."
MIDDLE = f"{UNET}middle_block"
NORM, ATTENDED = ".1.norm.weight", ".1.transformer_blocks.0.attn2.to_k.weight"


def is_controlnet(shapes: Shapes) -> bool:
    """Returns True if the tensors are those of a ControlNet for these families."""
    bare = _bare(shapes)
    return any(name in bare for name in HINTS) and all(
        name.partition(".")[0] in PARTS and OF_VIDEOS not in name for name in bare
    )


def family_of_controlnet(shapes: Shapes) -> str:
    """Returns the name of the family's folder of facts."""
    named = _as_encoder(shapes)
    if f"{UNET}label_emb.0.0.weight" in named:
        return "sdxl"
    return "sd21" if len(named.get(f"{MIDDLE}.1.proj_in.weight", ())) == 2 else "sd15"


def controlnet_config(shapes: Shapes, facts: Config, unet: Mapping[str, Any]) -> Config | None:
    """Returns the configuration of the ControlNet; None where its layout is another one (the small
    ones of XL). `facts` are those of its family's U-Net, `unet` is that of the pipeline's.

    Raises LookupError where one of its tensors is missing.
    """
    named = _as_encoder(shapes)
    attention = {name.removesuffix(NORM) for name in named if name.endswith(NORM)}
    if MIDDLE not in attention or any(f"{each}{ATTENDED}" not in named for each in attention):
        return None
    found = encoder_config(named, facts)
    alike = ("block_out_channels", "cross_attention_dim")
    if all(unet.get(key) == found[key] for key in alike):
        found = encoder_config(named, {**facts, **unet})
    return {
        "_class_name": "ControlNetModel",
        **{key: value for key, value in found.items() if key in OF_UNET},
        **_picture_layers(shapes),
    }


def _picture_layers(shapes: Shapes) -> Config:
    """Returns the settings of the layers that read the picture."""
    bare = _bare(shapes)
    if HINTS[0] in bare:
        first, others = bare[HINTS[0]], "input_hint_block.{}.weight"
        last = max(
            int(name.split(".")[1])
            for name in bare
            if name.startswith("input_hint_block.") and name.endswith(".weight")
        )
        numbers = range(4, last, 4)
    else:
        first, others = bare[HINTS[1]], "controlnet_cond_embedding.blocks.{}.weight"
        count = sum(bool(re.fullmatch(others.format(r"\d+"), name)) for name in bare)
        numbers = range(1, count, 2)
    return {
        "conditioning_channels": first[1],
        "conditioning_embedding_out_channels": [
            first[0],
            *(bare[others.format(number)][0] for number in numbers),
        ],
    }


def _as_encoder(shapes: Shapes) -> Shapes:
    """Returns the tensors by the names that they have in a U-Net of its first authors; in
    diffusers' names only those which tell settings."""
    bare = _bare(shapes)
    named = bare.items() if HINTS[0] in bare else _renamed(bare)
    return {f"{UNET}{name}": shape for name, shape in named}


def _bare(shapes: Shapes) -> Shapes:
    """Returns the tensors without the prefix; of a file with a whole pipeline the ControlNet's."""
    prefixed = {
        name.removeprefix(PREFIX): shape
        for name, shape in shapes.items()
        if name.startswith(PREFIX)
    }
    return prefixed or shapes


def _renamed(shapes: Shapes) -> Iterator[tuple[str, tuple[int, ...]]]:
    blocks = [(name, match) for name in shapes if (match := BLOCK.fullmatch(name))]
    per_block = 1 + len({m[3] for _, m in blocks if m[2] == "resnets" and m[1] == "0"})
    for name, match in blocks:
        kind, rest = match[2], match[4]
        layer = per_block - 1 if kind == "downsamplers" else int(match[3])
        number = int(match[1]) * per_block + layer + 1
        yield (
            f"input_blocks.{number}.{int(kind == 'attentions')}.{IN_BLOCK.get(rest, rest)}",
            (shapes[name]),
        )
    for name, shape in shapes.items():
        if name in SINGLE:
            yield SINGLE[name], shape
        elif name.startswith(IN_MIDDLE):
            yield f"middle_block.1.{name.removeprefix(IN_MIDDLE)}", shape
