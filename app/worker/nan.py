"""Raises when an image contains NaN, instead of saving it black.

NaN comes from a model that computes beyond the range of its dtype, most often an autoencoder in
float16. Diffusers, video writers and tasks all cast to bytes with numpy, which warns of NaN; here
that warning becomes an error.
"""

from __future__ import annotations

import warnings

from app.errors import StepError

CAST = "invalid value encountered in cast"
"""Prefix of numpy's warning."""


def refuse_nan() -> None:
    """Makes a cast of NaN an error in this process."""
    warnings.filterwarnings("error", CAST, RuntimeWarning)


def is_nan_error(error: BaseException) -> bool:
    return isinstance(error, RuntimeWarning) and str(error).startswith(CAST)


def nan_error(step: str) -> StepError:
    return StepError(
        f"The picture of step '{step}' contains NaN.",
        hint="A model computed beyond the range of its dtype. Load it in bfloat16 or float32, the"
        " vae first of all.",
    )
