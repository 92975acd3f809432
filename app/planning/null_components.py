"""Checks components that a document sets to null, and that only some calls can do without."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from app.dialect.installed.constructors import constructor
from app.dialect.plan_values import LiteralValue, Value
from app.dialect.references import Path as Place
from app.planning.called import Called
from app.planning.values import ValueReader

EMBEDDINGS = "prompt_embeds"
OUTPUT, LATENT = "output_type", "latent"


def check_null_components(
    called: Called,
    names: Collection[str],
    arguments: Mapping[str, Value],
    at: Place,
    reader: ValueReader,
) -> None:
    """Notes components (`names`) that are null and that this call needs: the autoencoder for a
    picture, and the text encoder for a prompt. `at` is the place of the loading arguments."""
    made = constructor(called.name)
    if made is None or called.signature is None:
        return
    known = {parameter.name for parameter in called.signature.parameters}
    for name in names:
        if made.parameters.get(name) is not False or name in made.optional:
            continue
        if name == "vae" and OUTPUT in known and not _may_be_latent(arguments.get(OUTPUT)):
            instead = f"""set '{OUTPUT}' to "{{{LATENT}}}"."""
        elif name in ("text_encoder", "tokenizer") and EMBEDDINGS in known - arguments.keys():
            instead = f"give '{EMBEDDINGS}' instead of a prompt."
        else:
            continue
        message = f"The {name} is set to null, and this call needs one."
        reader.note((*at, name), message, f"Leave it out, give a block of it, or {instead}")


def _may_be_latent(value: Value | None) -> bool:
    if value is None:
        return False
    return value.value == LATENT if isinstance(value, LiteralValue) else True
