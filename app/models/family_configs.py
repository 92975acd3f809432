"""Configurations of Stable Diffusion 1.5, 2.1 and XL for checkpoints in one file, which have none.

The facts of each family are in `families/`, one folder each in diffusers' layout. What the shapes
of a checkpoint's tensors tell replaces them. The result is written once to a cache, with the files
of CLIP's tokenizer, and is read from there as a model's folder is.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from app.dialect.files import format_of, read_object
from app.dialect.fingerprint import tensor_shapes
from app.models.controlnet_configs import (
    controlnet_config,
    family_of_controlnet,
    is_controlnet,
)
from app.models.shape_configs import (
    clip_config,
    open_clip_config,
    unet_config,
    vae_config,
)
from app.models.single_files import Shapes, is_recognised, model_type
from app.unfinished import private_folder

FOLDER = ".configs"
FACTS = Path(__file__).parent / "families"
FAMILIES = {"v1": "sd15", "inpainting": "sd15", "v2": "sd21", "xl_base": "sdxl",
            "xl_refiner": "sdxl-refiner"}  # fmt: skip
"""Folders of facts, by diffusers' word for a checkpoint's model."""
OF_SDXL = "model.diffusion_model.label_emb.0.0.weight"
ATTENDED = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
REFINER_WIDTH = 1280
"""Width of the texts that the refiner's U-Net attends to."""
SCHEDULER = "scheduler/scheduler_config.json"
CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
OF_CLIP = "quick_gelu"
"""The activation of OpenAI's CLIP, which OpenCLIP's models do not have."""
MERGES, VOCABULARY = "merges.txt", "vocab.json"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
WORD_END = "</w>"


class Configuration(NamedTuple):
    """The configuration of a whole pipeline, or of a ControlNet."""

    name: str
    """The family's, and a hash of the content."""
    files: Mapping[str, str]
    """The texts of its files, by their paths below a model's folder; without tokenizers' words."""


def configuration_of(shapes: Shapes) -> Configuration | None:
    """Returns the configuration of the checkpoint with these tensors; None for other families.

    Raises ValueError where its tensors are not a family's.
    """
    family = _family(shapes)
    if family is None:
        return None
    found = {name: _config(name, facts, shapes) for name, facts in _facts(family).items()}
    return _configuration(family, found)


def encoder_configs(file: Path) -> dict[str, dict[str, Any]]:
    """Returns the configurations of the text encoders that a safetensors checkpoint of a known
    family has, by their names; none for other files. Raises ValueError or OSError where it cannot
    be read."""
    if format_of(file) != "safetensors":
        return {}
    shapes = {name: shape for name, (_, shape) in tensor_shapes(file).items()}
    family = _family(shapes)
    facts = {} if family is None else _facts(family)
    return {
        name.partition("/")[0]: _config(name, config, shapes)
        for name, config in facts.items()
        if name.startswith("text_encoder") and name.endswith(f"/{CONFIG}")
    }


def configuration_of_controlnet(shapes: Shapes, unet: Mapping[str, Any]) -> Configuration | None:
    """Returns the configuration of the ControlNet with these tensors, alone in its folder; None for
    others. `unet` is the configuration of the pipeline's U-Net, {} where it is not known.

    Raises ValueError where its tensors are not a ControlNet's.
    """
    if not is_controlnet(shapes):
        return None
    family = family_of_controlnet(shapes)
    try:
        config = controlnet_config(shapes, _facts(family)[f"unet/{CONFIG}"], unet)
    except LookupError as error:
        raise ValueError(f"it has no published layout: {error} is amiss") from error
    return None if config is None else _configuration(f"controlnet-{family}", {CONFIG: config})


def _configuration(name: str, found: Mapping[str, Mapping[str, Any]]) -> Configuration:
    files = {path: json.dumps(config, indent=2) for path, config in found.items()}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return Configuration(f"{name}-{digest[:16]}", files)


def family_scheduler(shapes: Shapes) -> str | None:
    """Returns the class of the scheduler of the family with these tensors; None for other families.

    Raises ValueError where its tensors are not a family's.
    """
    family = _family(shapes)
    return None if family is None else str(_facts(family)[SCHEDULER]["_class_name"])


def written(configuration: Configuration, cache: Path) -> Path:
    """Returns the folder below the cache that has the configuration, written if it is not there.

    Raises OSError where it cannot be written.
    """
    folder = cache / configuration.name
    if not _is_there(folder, configuration.files):
        _write(folder, configuration.files)
    return folder


def _is_there(folder: Path, files: Mapping[str, str]) -> bool:
    return all((folder / name).is_file() for name in files)


def _family(shapes: Shapes) -> str | None:
    if not is_recognised(shapes):
        return None
    found = FAMILIES.get(model_type(shapes))
    if found == "sd15" and OF_SDXL in shapes:
        # diffusers tells SDXL by its text encoders, which a U-Net alone lacks.
        return "sdxl-refiner" if shapes.get(ATTENDED, (0,))[-1] == REFINER_WIDTH else "sdxl"
    return found


@functools.cache
def _facts(family: str) -> dict[str, dict[str, Any]]:
    """Returns the family's configurations, by their paths below a model's folder."""
    root = FACTS / family
    return {
        file.relative_to(root).as_posix(): read_object(file)
        for file in sorted(root.rglob("*.json"))
    }


def _config(name: str, facts: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Returns the configuration of this path for these tensors: the facts for a component that the
    checkpoint lacks."""
    derive = _derivation(name, facts)
    if derive is None:
        return dict(facts)
    try:
        return derive(shapes, dict(facts))
    except LookupError as error:
        component = name.partition("/")[0]
        raise ValueError(f"its {component} has no published layout: {error} is amiss") from error


def _derivation(
    name: str, facts: Mapping[str, Any]
) -> Callable[[Shapes, dict[str, Any]], dict[str, Any]] | None:
    component, _, file = name.partition("/")
    if file != CONFIG:
        return None
    if component.startswith("text_encoder"):
        return clip_config if facts["hidden_act"] == OF_CLIP else open_clip_config
    return {"unet": unet_config, "vae": vae_config}[component]


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Writes the folder, whole or not at all; another process may write the same."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with private_folder(folder.parent) as part:
        new = part / folder.name
        for name, text in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_text(text, encoding="utf-8")
            if name.endswith(TOKENIZER_CONFIG):
                _write_tokenizer((new / name).parent)
        try:
            new.rename(folder)
        except OSError:
            if not _is_there(folder, files):
                raise


def _write_tokenizer(folder: Path) -> None:
    merges = (FACTS / "clip" / MERGES).read_text(encoding="utf-8")
    (folder / MERGES).write_text(merges, encoding="utf-8")
    vocabulary = json.dumps(clip_vocabulary(merges), ensure_ascii=False)
    (folder / VOCABULARY).write_text(vocabulary, encoding="utf-8")


def clip_vocabulary(merges: str) -> dict[str, int]:
    """Returns the tokens of CLIP by their ids: each byte, each byte that ends a word, the pairs in
    the order in which they are merged, and the two that begin and end a text."""
    letters = _letters()
    pairs = ("".join(line.split()) for line in merges.splitlines()[1:])
    tokens = [*letters, *(letter + WORD_END for letter in letters), *pairs, *SPECIAL]
    return {token: number for number, token in enumerate(tokens)}


def _letters() -> list[str]:
    """Returns the letters that stand for the bytes in byte pair encodings: printable ones for
    themselves first, then others from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = 256 - len(printable)
    return [chr(each) for each in (*printable, *range(256, 256 + others))]
