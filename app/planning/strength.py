"""Checks the strength of a pipeline that redraws: with few steps a low one leaves none to draw."""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Mapping

from app.dialect.installed.signatures import CallSignature
from app.dialect.plan_values import LiteralValue, Value
from app.dialect.references import Path as Place
from app.planning.called import Called
from app.planning.modular import is_modular
from app.planning.values import ValueReader

MAKE_ONE_MORE = {"PNDMScheduler"}
"""Schedulers with more timesteps than steps, of which a low strength leaves some."""
OWN_STEPS = ("timesteps", "sigmas", "denoising_start")
"""Arguments instead of which a strength counts for nothing."""


def check_strength(
    called: Called,
    scheduler: str | None,
    arguments: Mapping[str, Value],
    at: Place,
    reader: ValueReader,
) -> None:
    """Notes a strength that leaves no step to draw.

    `scheduler` is the class of the step's scheduler. Nothing is noted where it is not known (None):
    some make more steps than they are asked for.
    """
    signature = called.signature
    if signature is None or not signature.strength or not _redraws(called, arguments):
        return
    if scheduler is None or scheduler.rpartition(".")[2] in MAKE_ONE_MORE:
        return
    if any(_is_given(arguments.get(name)) for name in OWN_STEPS):
        return
    strength = _number(signature.strength, signature, arguments)
    steps = _number("num_inference_steps", signature, arguments)
    if strength is None or steps is None or not 0 <= strength <= 1 or steps < 1:
        return
    if strength > 0 and (not signature.rounds_strength_down or int(steps * strength) >= 1):
        return
    least = math.ceil(1000 / steps) / 1000
    needs = f" {strength:g} needs {math.ceil(1 / strength)} steps." if strength else ""
    reader.note(
        (*at, signature.strength),
        f"{strength:g} of {steps:g} steps leaves no step to draw.",
        f"The least strength for {steps:g} steps is {least:g}{';' if needs else '.'}{needs}",
    )


def _redraws(called: Called, arguments: Mapping[str, Value]) -> bool:
    """Returns False for a modular pipeline that draws anew: its workflow has no strength."""
    return not is_modular(called.name) or _is_given(arguments.get("image"))


def _number(
    name: str, signature: CallSignature, arguments: Mapping[str, Value]
) -> int | float | None:
    """Returns the number of this argument, or its default; None where it is not known."""
    value = arguments.get(name)
    default = next((each.default for each in signature.parameters if each.name == name), None)
    if value is None and default:
        with contextlib.suppress(ValueError, SyntaxError):
            value = LiteralValue(value=ast.literal_eval(default))
    number = value.value if isinstance(value, LiteralValue) else None
    return None if isinstance(number, bool) or not isinstance(number, int | float) else number


def _is_given(value: Value | None) -> bool:
    return value is not None and not (isinstance(value, LiteralValue) and value.value is None)
