"""Keeps passwords and tokens out of the environment of a worker, which may run a repository's code.

The parent fetches models itself, so no worker needs the hub's token.
"""

from __future__ import annotations

import ctypes
import os
import sys

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
OURS = "DW_"
"""This project's variables; a worker gets settings instead."""


def remove_secrets() -> None:
    """Removes passwords and tokens from this process's environment.

    Also overwrites the memory that the process was started with, which `/proc/PID/environ` shows.
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
