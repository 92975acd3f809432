"""Raises when an image contains NaN, instead of saving it black.

NaN comes from a model that computes beyond the range of its dtype, an autoencoder in float16 most
often. Whatever makes bytes of numbers (diffusers, video writers, tasks) does so with numpy, which
warns then; here that warning is an error.
"""

from __future__ import annotations

import warnings

from app.errors import StepError

CAST = "invalid value encountered in cast"
"""How numpy's warning begins."""


def refuse_nan() -> None:
    """Makes the cast of NaN to a colour an error in this process, from now on."""
    warnings.filterwarnings("error", CAST, RuntimeWarning)


def is_nan_error(error: BaseException) -> bool:
    """Returns whether this error is about a cast of NaN."""
    return isinstance(error, RuntimeWarning) and str(error).startswith(CAST)


def nan_in(step: str) -> StepError:
    """Returns the error that a person is shown."""
    return StepError(
        f"What step '{step}' made is not a picture: some of its numbers are NaN.",
        hint="A model computed beyond the range of its dtype. Load it in bfloat16 or float32, the"
        " vae first of all.",
    )
