"""The hub's access token, for as long as this process has one."""

from __future__ import annotations

import os


def use_token(token: str | None) -> None:
    """Have huggingface_hub send this token to the hub from now on; None: none.

    A worker that may run a repository's code is never given one.
    """
    if token is None:
        os.environ.pop("HF_TOKEN", None)
    else:
        os.environ["HF_TOKEN"] = token
