"""A repository's own code: it runs only where whoever started the workbench has allowed it.

A document cannot allow it: its `trust_remote_code` and `custom_pipeline` only ask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from app.errors import shortened
from app.mistakes import shown
from app.workflow.models.hub import is_repository
from app.workflow.models.pipeline_shapes import OWN_CODE_FLAG
from app.workflow.plan_sources import ModelSource
from app.workflow.planning.values import ValueReader
from app.workflow.references import Path as Place


def read_code(
    loading: dict[str, Any],
    at: Place,
    trusted: Collection[str],
    source_of: Callable[[dict[str, Any], Place], ModelSource | None],
    reader: ValueReader,
) -> ModelSource | None:
    """The repository whose code these loading arguments ask for; None where they ask for none.

    Notes a problem where it is not one of the `trusted`.
    """
    custom, asked = loading.get("custom_pipeline"), loading.get("trust_remote_code")
    if asked is not None and not isinstance(asked, bool):
        reader.note((*at, "trust_remote_code"), f"True or false is needed, not {shown(asked)}.")
        return None
    if custom is None and not asked:
        return None
    key = "trust_remote_code" if custom is None else "custom_pipeline"
    repository = loading.get("model_name") if custom is None else custom
    if not isinstance(repository, str) or not is_repository(repository):
        what = shortened(str(repository))
        message = f"The code of '{what}' is not run: only that of a repository 'owner/name' can be."
        reader.note((*at, key), message)
        return None
    if repository not in trusted:
        message = f"'{repository}' would run code of its own here, and nobody has allowed that."
        hint = f"Whoever trusts it starts the workbench with {OWN_CODE_FLAG} {repository}."
        reader.note((*at, key), message, hint)
        return None
    revision = loading.get("custom_revision" if custom is not None else "revision")
    return source_of({"model_name": repository, "revision": revision}, at)
