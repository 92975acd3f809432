"""A workflow of the catalog as scripts get it. Fields are added, never renamed."""

from __future__ import annotations

from typing import Any

from app.api.schemas import inputs_schema
from app.catalog.catalog import CatalogEntry


def listed(entry: CatalogEntry) -> dict[str, Any]:
    """Returns the workflow for a list."""
    return {
        "name": entry.name,
        "title": entry.title,
        "description": entry.description,
        "ready": entry.ready,
        "availability": entry.availability,
        "download_bytes": entry.download_bytes,
        "problem": entry.problem.sentence() if entry.problem else None,
    }


def described(entry: CatalogEntry) -> dict[str, Any]:
    """Returns the workflow with its inputs: kinds, defaults, limits, choices; and their JSON
    Schema."""
    return {
        **listed(entry),
        "inputs": [spec.model_dump(mode="json") for spec in entry.inputs],
        "schema": inputs_schema(entry),
    }
