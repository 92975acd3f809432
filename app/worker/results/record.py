"""The record of each result: how it was made, without private details.

Images are shared with their record inside. So it has the name (and SHA-256) of a local file, never
its path, and URLs without query and password.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from app.dialect.plan import PipelineStep, Step
from app.media.urls import is_url, without_query
from app.outputs import Record
from app.planning.plan_media import media_files

if TYPE_CHECKING:
    from app.worker.context import RunContext

LONGEST_PATH = 4096
DRIVE = re.compile(r"[a-zA-Z]:[\\/]|\\\\")
"""Prefix of an absolute Windows path."""


def record_of(step: Step, index: int, context: RunContext, versions: Mapping[str, str]) -> Record:
    """Returns the record of the step's result number `index`."""
    plan = context.plan
    files = media_files(plan)
    return {
        "run_id": context.run_id,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "workflow": without_paths(plan.document),
        "workflow_sha256": plan.workflow_hash,
        "changes": without_paths(plan.changes),
        "inputs": without_paths(plan.inputs, files),
        "fetched": {without_query(url): digest for url, digest in plan.fetched.items()},
        "step": step.name,
        "seed": step.seed,
        "index": index,
        "versions": dict(versions),
        "device": str(context.device),
        "device_name": context.device.name,
        "out_of_memory": list(context.out_of_memory),
        "notices": [*context.notices.get("", ()), *context.notices.get(step.name, ())],
        "mode": _mode(step),
        "timings": {
            "load_s": round(context.spent.load_s, 4),
            "compute_s": round(context.spent.compute_s, 4),
        },
    }


def without_paths(value: Any, files: Mapping[str, str] | None = None) -> Any:
    """Returns the value with file names instead of absolute paths, and URLs without queries. Paths
    in `files` (path: SHA-256) become objects with name and hash."""
    if isinstance(value, Mapping):
        return {key: without_paths(entry, files) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(entry, files) for entry in value]
    if not isinstance(value, str):
        return value
    if files is not None and value in files:
        return {"file": _name(value), "sha256": files[value]}
    if is_url(value):
        return without_query(value)
    return _name(value) if _is_absolute_path(value) else value


def _is_absolute_path(text: str) -> bool:
    """Returns whether a text is an absolute path, not prose that begins like one."""
    if len(text) > LONGEST_PATH or "\n" in text or "\0" in text:
        return False
    if DRIVE.match(text):
        return True
    if not text.startswith(("/", "~/")):
        return False
    plain = not re.search(r"\s", text) and text.count("/", 1) > 0
    return plain or os.path.lexists(text)


def _name(path: str) -> str:
    parts = PureWindowsPath(path) if DRIVE.match(path) else PurePosixPath(path)
    return parts.name or "."


def _mode(step: Step) -> Record | None:
    """Returns the memory mode of a pipeline's step."""
    if not isinstance(step, PipelineStep):
        return None
    return {
        "offload": step.offload,
        "vae_slicing": step.vae_slicing,
        "vae_tiling": step.vae_tiling,
    }
