"""Words what is missing of a model that is there in part, and what could be used instead."""

from __future__ import annotations

from pathlib import PurePosixPath

from app.dialect.fingerprint import WEIGHTS, variant_in, variants_of
from app.models.hub import Held


def missing_words(model: str, held: Held) -> str:
    """Returns what is not there, with its verb: `The model 'a/b' is`, `'vae/x' of the model … is`.

    Names a file only where others of the model are there.
    """
    if held.folder is None or len(held.missing) == len(held.wanted):
        return f"The model '{model}' is"
    first, *more = held.missing
    if not more:
        return f"'{first}' of the model '{model}' is"
    noun = "file" if len(more) == 1 else "files"
    return f"'{first}' and {len(more)} more {noun} of the model '{model}' are"


def variant_advice(held: Held) -> str:
    """Returns how to use the weights of another variant, which are there instead of the missing
    ones; empty where none are."""
    weights = [name for name in held.missing if name.endswith(WEIGHTS)]
    if held.folder is None or not weights:
        return ""
    wanted = {variant_in(PurePosixPath(name).name) for name in weights}
    there = [
        variants_of(file.name for file in folder.iterdir() if file.is_file())
        if (folder := held.folder / PurePosixPath(name).parent).is_dir()
        else set()
        for name in weights
    ]
    common = set.intersection(*there) - wanted
    if None in common:
        return "It has files without a variant: leave out 'variant' to use them."
    found = sorted(filter(None, common))
    if not found:
        return ""
    return (
        f"""It has {found[0]} files: add "variant": "{found[0]}" beside 'model_name' to use them."""
    )
