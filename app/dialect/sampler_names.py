"""Schedulers by the names that people know from other programs: `DPM++ 2M Karras`.

A name is a sampler, and may end with a noise schedule. Upper and lower case, spaces, `-` and `_`
make no difference, `pp` stands for `++` and `ancestral` for `a`, so `dpmpp_2m` and
`euler_ancestral` are names too.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from pydantic import JsonValue

from app.dialect.installed.constructors import scheduler_settings

Settings = dict[str, JsonValue]


class Sampler(NamedTuple):
    """A scheduler of diffusers, with the settings that make it the sampler of a name."""

    class_name: str
    settings: Settings


ODE: Settings = {"algorithm_type": "dpmsolver++"}
SDE: Settings = {"algorithm_type": "sde-dpmsolver++"}
MULTISTEP = "DPMSolverMultistepScheduler"
SAMPLERS = {
    "DDIM": Sampler("DDIMScheduler", {}),
    "DDPM": Sampler("DDPMScheduler", {}),
    "DEIS": Sampler("DEISMultistepScheduler", {}),
    "DPM++ 2M": Sampler(MULTISTEP, {**ODE, "solver_order": 2}),
    "DPM++ 2M SDE": Sampler(MULTISTEP, {**SDE, "solver_order": 2}),
    "DPM++ 3M SDE": Sampler(MULTISTEP, {**SDE, "solver_order": 3}),
    "DPM++ 2S": Sampler("DPMSolverSinglestepScheduler", {**ODE, "solver_order": 2}),
    "DPM++ SDE": Sampler("DPMSolverSDEScheduler", {}),
    "DPM2": Sampler("KDPM2DiscreteScheduler", {}),
    "DPM2 a": Sampler("KDPM2AncestralDiscreteScheduler", {}),
    "Euler": Sampler("EulerDiscreteScheduler", {}),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler", {}),
    "Heun": Sampler("HeunDiscreteScheduler", {}),
    "LCM": Sampler("LCMScheduler", {}),
    "LMS": Sampler("LMSDiscreteScheduler", {}),
    "PLMS": Sampler("PNDMScheduler", {"skip_prk_steps": True}),
    "PNDM": Sampler("PNDMScheduler", {}),
    "SA-Solver": Sampler("SASolverScheduler", {}),
    "TCD": Sampler("TCDScheduler", {}),
    "UniPC": Sampler("UniPCMultistepScheduler", {}),
}
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
"""Settings of which a scheduler takes one."""
SCHEDULES: dict[str, Settings] = {
    "Karras": {**dict.fromkeys(SIGMAS, False), "use_karras_sigmas": True},
    "Exponential": {**dict.fromkeys(SIGMAS, False), "use_exponential_sigmas": True},
    "Beta": {**dict.fromkeys(SIGMAS, False), "use_beta_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
}
"""Noise schedules, for the samplers that have these settings."""


def sampler(name: str) -> Sampler | None:
    """Returns the sampler of this name; None for another name."""
    found = _by_key().get(_key(name))
    return None if found is None else found[1]


@functools.cache
def sampler_names() -> tuple[str, ...]:
    """Returns all names, with each noise schedule that the sampler has."""
    return tuple(name for name, _ in _by_key().values())


@functools.cache
def _by_key() -> dict[str, tuple[str, Sampler]]:
    found: dict[str, tuple[str, Sampler]] = {}
    for name, plain in SAMPLERS.items():
        found[_key(name)] = (name, plain)
        known = {*scheduler_settings(plain.class_name)}
        for schedule, settings in SCHEDULES.items():
            if settings.keys() <= known:
                made = Sampler(plain.class_name, {**plain.settings, **settings})
                full = f"{name} {schedule}"
                found[_key(full)] = (full, made)
    return found


def _key(name: str) -> str:
    bare = re.sub(r"[\s_-]", "", name.lower())
    return bare.replace("++", "pp").replace("ancestral", "a")
