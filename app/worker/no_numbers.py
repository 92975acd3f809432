"""Pictures of numbers that are none (NaN), which would be black and nobody would know why.

They come of a model that computes beyond the range of its dtype, an autoencoder in float16 most of
all. Whoever makes bytes of numbers (diffusers, what writes films, tasks) does so with numpy, which
warns then; here that warning is an error.
"""

from __future__ import annotations

import warnings

from app.errors import StepError

CAST = "invalid value encountered in cast"
"""How numpy says it."""


def refuse_no_numbers() -> None:
    """From here on, in the whole process, what is no number cannot become a colour."""
    warnings.filterwarnings("error", CAST, RuntimeWarning)


def is_of_no_numbers(error: BaseException) -> bool:
    """Whether this error says that numbers were none."""
    return isinstance(error, RuntimeWarning) and str(error).startswith(CAST)


def no_numbers_in(step: str) -> StepError:
    """What a person is told."""
    return StepError(
        f"What step '{step}' made is not a picture: some of its numbers are none (NaN).",
        hint="A model computed beyond the range of its dtype. Load it in bfloat16 or float32, the"
        " vae first of all.",
    )
