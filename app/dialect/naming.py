"""Names of workflows and variables for scripts: pure, and the same in every process."""

from __future__ import annotations

import hashlib
import itertools
import keyword
import os
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

TAKEN_PARAMETERS = frozenset({"request", "self", "api_name", "fn_index", "headers",
                              "result_callbacks"})  # fmt: skip
"""Names that a parameter cannot have: Gradio's own, and those of `gradio_client.Client.submit`."""
SEED = "seed"
"""A parameter of every endpoint; a variable of that name is given by it."""
MAX_TITLE_LENGTH = 100


def slug(stem: str) -> str:
    """Returns the stem in lower case, letters and digits of any script with `-` between them."""
    kept = [
        char if unicodedata.category(char)[0] in "LMN" else " "
        for char in unicodedata.normalize("NFC", stem).lower()
    ]
    return "-".join("".join(kept).split())


def workflow_names(files: Iterable[Path], known: Mapping[Path, str]) -> dict[Path, str]:
    """Returns a unique name for each of these files; known files keep theirs.

    A name never moves to another file. Files of one folder with the same slug all get a short hash
    of their path; of those in several folders the first folder's keeps the plain name.
    """
    names = dict(known)
    taken = set(known.values())
    new = [file for file in dict.fromkeys(files) if file not in known]
    alike: dict[str, list[Path]] = {}
    for file in new:
        alike.setdefault(slug(file.stem), []).append(file)
    for plain, claimants in alike.items():
        first = claimants[0]
        alone = all(other.parent != first.parent for other in claimants[1:])
        if plain and alone and plain not in taken:
            names[first] = plain
            taken.add(plain)
    for file in new:
        if file not in names:
            names[file] = _hashed(file, taken)
            taken.add(names[file])
    return names


def _hashed(file: Path, taken: set[str]) -> str:
    digest = hashlib.sha256(os.fsencode(file)).hexdigest()
    stem = slug(file.stem) or "workflow"
    short = f"{stem}-{digest[:6]}"
    return f"{stem}-{digest}" if short in taken else short


def parameter_names(variables: Iterable[str]) -> dict[str, str]:
    """Returns each variable's parameter name: its own name where Python allows it, else the nearest
    allowed one, each once."""
    variables = tuple(variables)
    names = {name: name for name in variables if _can_be_parameter(name)}
    for name in variables:
        if name not in names:
            names[name] = _free_parameter(name.replace("-", "_"), {*names.values(), SEED})
    return {name: names[name] for name in variables}


def _can_be_parameter(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and name not in TAKEN_PARAMETERS


def _free_parameter(base: str, taken: set[str]) -> str:
    other = [] if _can_be_parameter(base) else [f"{base}_"]
    numbered = (f"{base}_{number}" for number in itertools.count(2))
    candidates = itertools.chain([base], other, numbered)
    return next(name for name in candidates if name not in taken and _can_be_parameter(name))


def one_line(text: str, limit: int = MAX_TITLE_LENGTH) -> str:
    """Returns the text in one line, without invisible and bidirectional control characters."""
    shown = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    line = " ".join(shown.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
