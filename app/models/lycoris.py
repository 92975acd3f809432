"""LoHa, LoKr and DoRA files of kohya-ss/sd-scripts and LyCORIS, by the names of their tensors.

A tensor is named `MODULE.FACTOR`; the module's name has `_` for each `.` of its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from app.errors import WorkbenchError

OF_COMPONENTS = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
"""Prefixes of the modules' names, by component."""
LORA = ("lora_up.weight", "lora_down.weight", "lora_mid.weight")
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
ALPHA, DORA = "alpha", "dora_scale"
KINDS = {"LoHa": LOHA, "LoKr": LOKR, "DoRA": (DORA,), "LoCon": ("lora_mid.weight",)}
"""Kinds that diffusers does not load for these models, with the factors that tell them."""
WHOLE = (
    {*LORA[:2]}, {*LORA},
    {*LOHA[:4]}, {*LOHA},
    *({*one, *two} for one in (LOKR[:1], LOKR[1:3]) for two in (LOKR[3:4], LOKR[4:6], LOKR[4:])),
)  # fmt: skip
"""The sets of factors that make a weight."""
MODELS = "Stable Diffusion 1, 2 and XL"
MAX_LISTED = 4


class UnfitLora(WorkbenchError):
    """The file cannot be applied as a whole."""


def kind_of(names: Iterable[str]) -> str:
    """Returns the kind of a file with tensors of these names that are kohya's; "" for a plain LoRA
    and for other names."""
    factors = {factor for name in names for module, factor in [_split(name)] if _component(module)}
    return next((kind for kind, told_by in KINDS.items() if factors & {*told_by}), "")


def factors_by_module(names: Iterable[str]) -> dict[str, set[str]]:
    """Returns the factors of each module in a file with these names."""
    found: dict[str, set[str]] = {}
    for name in names:
        module, factor = _split(name)
        found.setdefault(module, set()).add(factor)
    return found


def check_fits(file: str, names: Iterable[str], *, has_unet: bool, offload: str | None) -> None:
    """Raises UnfitLora where some tensors of a file of these kinds could not be applied in a
    pipeline with, or without, a UNet, in this offload mode. Other files are left to diffusers."""
    names = [*names]
    kind = kind_of(names)
    if not kind:
        # (Transformers' LoKr is diffusers' own.)
        factors = {*LOHA, *LOKR} if has_unet else {*LOHA}
        others = [name for name in names if name.rpartition(".")[2] in factors]
        if others:
            raise UnfitLora(
                f"The {'LoHa' if others[0].endswith(LOHA) else 'LoKr'} file '{file}' has other"
                f" names than those of kohya-ss and LyCORIS: '{others[0]}'.",
                hint=f"A name that can be read begins with {' or '.join(OF_COMPONENTS)}.",
            )
        return
    if has_unet:
        _check_whole(file, kind, names)
        if offload == "sequential":
            # It moves the weights of a layer only while that layer itself is called.
            raise UnfitLora(
                f"'{file}' is a {kind} file, which cannot be applied with sequential offload.",
                hint="Use 'offload': 'model'.",
            )
    elif kind != "DoRA":
        raise UnfitLora(
            f"'{file}' is a {kind} file, and this pipeline has no UNet.",
            hint=f"{', '.join(KINDS)} of kohya-ss and LyCORIS are applied to {MODELS}.",
        )


def _check_whole(file: str, kind: str, names: list[str]) -> None:
    """Raises UnfitLora where some of the file's tensors could not be applied."""
    unknown = [name for name in names if not _is_known(name)]
    if unknown:
        shown = ", ".join(f"'{name}'" for name in sorted(unknown)[:MAX_LISTED])
        raise UnfitLora(
            f"The {kind} file '{file}' also has tensors of another kind, which are not applied"
            f" here: {shown}{', …' if len(unknown) > MAX_LISTED else ''}.",
            hint="Take a file without them.",
        )
    for module, factors in factors_by_module(names).items():
        if factors - {ALPHA, DORA} not in WHOLE:
            raise UnfitLora(
                f"The {kind} file '{file}' is not complete: of '{module}' it has only"
                f" {', '.join(sorted(factors))}.",
                hint="Download it again.",
            )


def component_of(module: str) -> tuple[str, str]:
    """Returns the component of a module, and the rest of its name. Raises KeyError."""
    prefix = _component(module)
    return OF_COMPONENTS[prefix], module.removeprefix(prefix)


def _component(module: str) -> str:
    """Returns the prefix of a module's name; "" for another."""
    return next((prefix for prefix in OF_COMPONENTS if module.startswith(prefix)), "")


def _split(name: str) -> tuple[str, str]:
    module, _, factor = name.partition(".")
    return module, factor


def _is_known(name: str) -> bool:
    module, factor = _split(name)
    return bool(_component(module)) and factor in {*LORA, *LOHA, *LOKR, ALPHA, DORA}


# --- modules' names ------------------------------------------------------------------------------

OF_SGM = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d+)_(?:(\d+)_)?(\w+)")
"""A module of the original UNet, whose names kohya-ss has for Stable Diffusion XL."""
OF_RESNETS = {
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
SINGLE = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
IN_MIDDLE = ("resnets_0", "attentions_0", "resnets_1")


def diffusers_name(module: str, layers_per_block: int) -> str:
    """Returns diffusers' name, with `_` for `.`, of a UNet's module that may have an original
    one."""
    if module in SINGLE:
        return SINGLE[module]
    found = OF_SGM.fullmatch(module)
    if found is None:
        return module
    blocks, number, inner, rest = found[1], int(found[2]), found[3], found[4]
    rest = OF_RESNETS.get(rest, rest)
    if blocks == "middle_block":
        return f"mid_block_{IN_MIDDLE[number]}_{rest}" if number < len(IN_MIDDLE) else module
    if blocks == "input_blocks":
        block, layer = divmod(number - 1, layers_per_block + 1)
        if rest == "op":
            return f"down_blocks_{block}_downsamplers_0_conv"
        kind = "resnets" if inner == "0" else "attentions"
        return f"down_blocks_{block}_{kind}_{layer}_{rest}"
    block, layer = divmod(number, layers_per_block + 1)
    if rest == "conv":
        return f"up_blocks_{block}_upsamplers_0_conv"
    kind = "resnets" if inner == "0" else "attentions"
    return f"up_blocks_{block}_{kind}_{layer}_{rest}"


def paths_by_name(paths: Mapping[str, object]) -> dict[str, str]:
    """Returns the paths of modules by their names with `_`."""
    return {path.replace(".", "_"): path for path in paths}
