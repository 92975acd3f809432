"""Decides whether a step fits into memory, and in which mode.

Functions of numbers alone. The page and `validate` predict what the worker will do because all
three call `choose_mode`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from app.dialect.offloads import OFFLOADS, Offload
from app.dialect.plan_settings import DType
from app.errors import TooLarge
from app.models.activations import DecodeBytes
from app.units import size

DEVICE_SHARE, RAM_SHARE = 0.9, 0.7
"""Default share of all memory for weights; the rest is for activations and others."""
CPU_FACTOR = 1.75
"""Factor of a run's memory on a CPU to that of its tensors: oneDNN keeps a reordered copy of
convolution inputs, and malloc keeps what was freed. `benchmarks/peak.py` measured 1.6 to 1.8."""
REFUSED_TIMES = 2
"""Factor of the available memory above which an estimate refuses a step: measured memory
(`benchmarks/peak.py`) is at least half of the estimate."""
NAMED = 4
"""Number of components named in the sentence, the largest first."""
CHOSEN_FROM: tuple[Offload | None, ...] = (None, "model")
"""The choices on an accelerator where a document has no offload: all components stay there, or one
at a time is there.

Two leaner ways are not chosen. Sequential offload (a layer at a time) is many times slower, so a
document has to ask for it, or for group offload, which it stands for here: diffusers' own cannot be
removed again, so a held component would keep it for every later step, and on disk it trusts a file
of the same name that another model has left.
"""


@dataclass(frozen=True)
class Weights:
    """One component's weights, in the dtype in which they are loaded."""

    name: str
    dtype: DType
    weight_bytes: int


@dataclass(frozen=True)
class Need:
    """Needs of one step. Weights are exact; the rest is an estimate, or None where unknown."""

    step: str
    weights: tuple[Weights, ...]
    """Each once, however often the step names it."""
    denoise_bytes: int | None = None
    decode: DecodeBytes | None = None
    denoiser_bytes: int = 0
    """The weights used by a denoising step."""
    decoder_bytes: int = 0
    """The weights used by decoding."""
    takes_turns: bool = True
    """True if its components can be on the device one at a time."""
    streams: bool = False
    """True if the document lets weights pass through the device in groups."""
    never_offloaded_bytes: int = 0
    """The weights that sequential offload leaves on the device."""
    drawn_bytes: int = 0
    """The output as 32-bit floats, which no mode can reduce."""

    @property
    def total_bytes(self) -> int:
        """All weights."""
        return sum(each.weight_bytes for each in self.weights)

    @property
    def largest_bytes(self) -> int:
        """The largest component's weights."""
        return max((each.weight_bytes for each in self.weights), default=0)


def _at_once_bytes(offload: Offload | None, need: Need) -> int:
    """Returns the bytes of weights on the device at one time."""
    return need.total_bytes if offload is None else OFFLOADS[offload].at_once_bytes(need)


@dataclass(frozen=True)
class Room:
    """The available memory."""

    device_bytes: int
    """Weights that may be on the device."""
    ram_bytes: int
    """Weights that may be in RAM beside it; 0 without an accelerator: nothing can be offloaded."""
    total_bytes: int
    """All memory of the device, for weights and activations."""

    @property
    def is_accelerator(self) -> bool:
        """True if there is RAM beside the device."""
        return self.ram_bytes > 0


@dataclass(frozen=True)
class Mode:
    """How a step is run: a document's settings, or the chosen ones."""

    offload: Offload | None = None
    vae_slicing: bool = False
    vae_tiling: bool = False


def choose_mode(asked: Mode, need: Need, room: Room) -> Mode:
    """Returns the fastest mode in which the step fits.

    The document's settings are obeyed; the rest is chosen: first all components stay on the device,
    with the autoencoder decoding at once, one image after the other, or in tiles; then components
    take turns. Weights are known, so a step whose weights fit in no mode raises TooLarge. The rest
    is an estimate: a step that fits in no mode is tried in the leanest, unless even that needs
    several times the available memory; then it raises TooLarge too.
    """
    takes_turns = room.is_accelerator and need.takes_turns
    offloads = [each for each in _offloads(asked, need, room) if _weights_fit(each, need, room)]
    if not offloads:
        least = need.largest_bytes if takes_turns else need.total_bytes
        raise TooLarge(
            f"Step '{need.step}' needs {least / 1e9:.3g} GB of weights at once;"
            f" {room.device_bytes / 1e9:.3g} GB may be held.",
            hint="Take a smaller model or dtype, or raise DW_DEVICE_BUDGET."
            + " 'offload': 'sequential' in the document would do, slowly." * takes_turns,
        )
    modes = [mode for offload in offloads for mode in _decodings(asked, offload, need)]
    least = max(min(peak_bytes(mode, need, room) for mode in modes), need.drawn_bytes)
    if least > REFUSED_TIMES * room.total_bytes:
        raise TooLarge(
            f"Step '{need.step}' needs about {least / 1e9:.3g} GB while it runs; there are"
            f" {room.total_bytes / 1e9:.3g} GB.",
            hint="Ask for a smaller picture, fewer frames, or fewer at once.",
        )
    fitting = (mode for mode in modes if peak_bytes(mode, need, room) <= room.total_bytes)
    return next(fitting, modes[-1])


def _offloads(asked: Mode, need: Need, room: Room) -> tuple[Offload | None, ...]:
    if not (room.is_accelerator and need.takes_turns):
        return (None,)
    if asked.offload:
        return (asked.offload,)
    return (*CHOSEN_FROM, "sequential") if need.streams else CHOSEN_FROM


def _weights_fit(offload: Offload | None, need: Need, room: Room) -> bool:
    return _at_once_bytes(offload, need) <= room.device_bytes


def _decodings(asked: Mode, offload: Offload | None, need: Need) -> Iterator[Mode]:
    """Yields the ways to decode, the leanest last; only those that reduce memory."""
    yield (mode := Mode(offload, asked.vae_slicing, asked.vae_tiling))
    if _decode_bytes(leaner := replace(mode, vae_slicing=True), need) < _decode_bytes(mode, need):
        yield (mode := leaner)
    if _decode_bytes(leaner := replace(mode, vae_tiling=True), need) < _decode_bytes(mode, need):
        yield leaner


def _decode_bytes(mode: Mode, need: Need) -> int:
    if need.decode is None:
        return 0
    return need.decode.needed(slicing=mode.vae_slicing, tiling=mode.vae_tiling)


def peak_bytes(mode: Mode, need: Need, room: Room | None) -> int:
    """Returns the peak on the device: weights, and an estimate of the activations.

    Unknown needs count as nothing.
    """
    working = working_bytes(mode, need, on_cpu=room is not None and not room.is_accelerator)
    if mode.offload == "model":
        denoising = need.denoiser_bytes + (need.denoise_bytes or 0)
        return max(need.largest_bytes, denoising, need.decoder_bytes + _decode_bytes(mode, need))
    return _at_once_bytes(mode.offload, need) + working


def working_bytes(mode: Mode, need: Need, *, on_cpu: bool) -> int:
    """Returns an estimate of the peak beside the weights on the device."""
    tensors = max(need.denoise_bytes or 0, _decode_bytes(mode, need))
    return int(CPU_FACTOR * tensors) if on_cpu else tensors


# --- in words ------------------------------------------------------------------------------------


def sentence(title: str, asked: Mode, need: Need, room: Room | None) -> str:
    """Returns one line for a person: the step's needs, and whether and how it fits.

    Without `room` nothing is said about fitting.
    """
    heavy = sorted(need.weights, key=lambda each: -each.weight_bytes)[:NAMED]
    names = ", ".join(f"{each.name} {size(each.weight_bytes)}" for each in heavy)
    mode, verdict = asked, ""
    if room is not None:
        try:
            mode = choose_mode(asked, need, room)
            verdict = _verdict(asked, mode, need, room)
        except TooLarge as error:
            verdict = f"does not fit: {error.message} {error.hint}"
    on_cpu = room is not None and not room.is_accelerator
    running = working_bytes(mode, need, on_cpu=on_cpu)
    more = (
        f"about {size(running)} more while it runs"
        if need.denoise_bytes is not None and need.decode is not None
        else "how much more while it runs is not known for this kind of model"
    )
    said = f"{title}: {size(need.total_bytes)} of weights ({names}), {more}"
    return f"{said}; {verdict.removesuffix('.')}." if verdict else f"{said}."


def _verdict(asked: Mode, mode: Mode, need: Need, room: Room) -> str:
    where = size(room.total_bytes) + ("" if room.is_accelerator else ", on a CPU")
    done = _in_words(asked, mode)
    peak = peak_bytes(mode, need, room)
    if peak > room.total_bytes:
        tried = f" with {done}" if done else ""
        return f"may run out of memory: about {size(peak)} at once{tried}, of {where}"
    if not done:
        return f"fits in {where}"
    if mode.offload and asked.offload:
        return f"fits in {where} with {done}"
    least = room.device_bytes if need.total_bytes > room.device_bytes else room.total_bytes
    return f"does not fit in {size(least)} at once: {_why(need, room)}; {done} is used"


def _why(need: Need, room: Room) -> str:
    if need.total_bytes > room.device_bytes:
        largest = max(need.weights, key=lambda each: each.weight_bytes)
        return f"the {largest.name} alone has {size(largest.weight_bytes)} in {largest.dtype}"
    decoding = _decode_bytes(Mode(), need)
    if decoding >= (need.denoise_bytes or 0):
        return f"decoding needs about {size(decoding)} beside the weights"
    return f"drawing needs about {size(need.denoise_bytes or 0)} beside the weights"


def _in_words(asked: Mode, mode: Mode) -> str:
    """Returns the chosen measures, and the document's own offload, in words."""
    parts = []
    if mode.offload:
        parts.append(f"{mode.offload} offload" + (", as the document says" * bool(asked.offload)))
    if mode.vae_slicing and not asked.vae_slicing:
        parts.append("VAE slicing")
    if mode.vae_tiling and not asked.vae_tiling:
        parts.append("VAE tiling")
    return " and ".join(parts)
