"""Attention backends, for one step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from diffusers.models.attention_dispatch import attention_backend

from app.errors import LoadError, first_line


@contextlib.contextmanager
def using_attention_backend(backend: str) -> Iterator[None]:
    """Sets the attention backend inside. Raises LoadError.

    The backend is a setting of the whole process, and a component's own method does not reset it.
    """
    with contextlib.ExitStack() as given_back:
        try:
            given_back.enter_context(attention_backend(backend))
        except (ValueError, RuntimeError, ImportError) as error:
            raise LoadError(
                f"The attention backend '{backend}' cannot be used here.", hint=first_line(error)
            ) from error
        yield
