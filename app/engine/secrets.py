"""Keeps passwords and tokens out of the environment of a worker, which may run a repository's code.

The token of the hub goes to the worker with each run instead, and to none that may run such code.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
OURS = "DW_"
"""All of this project's variables: what a worker needs of them it is given as settings."""


def find_hub_token(environment: Mapping[str, str]) -> str | None:
    """The hub's access token, where huggingface_hub looks for it: a variable, or the file that
    `hf auth login` writes."""
    for name in TOKENS:
        if token := environment.get(name, "").strip():
            return token
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(environment.get("HF_HOME") or Path(cache) / "huggingface")
    try:
        return Path(environment.get("HF_TOKEN_PATH") or home / "token").read_text().strip() or None
    except (OSError, ValueError):
        return None


def forget_secrets() -> None:
    """Take passwords and tokens out of this process's environment.

    Also out of the copy that the system shows of it (`/proc/PID/environ`), which is the memory that
    the process was started with: it is overwritten.
    """
    for name in [name for name in os.environ if name in TOKENS or name.startswith(OURS)]:
        if sys.platform in ("linux", "darwin"):
            _overwrite(name)
        del os.environ[name]


def _overwrite(name: str) -> None:
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    if address := getenv(name.encode()):
        ctypes.memset(address, 0, len(ctypes.string_at(address)))
