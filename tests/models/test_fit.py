"""Whether a step fits, and its mode: computed from numbers alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import TooLarge
from app.models.activations import DecodeBytes
from app.models.fit import (
    CPU_FACTOR,
    Mode,
    Need,
    Offload,
    Room,
    Weights,
    choose_mode,
    peak_bytes,
    sentence,
)

GB = 1_000_000_000
CARD = Room(device_bytes=100, ram_bytes=1000, total_bytes=120)


def need(*weights_bytes: int, **more: Any) -> Need:
    """Returns a step with components of these sizes: the first denoises, the second decodes."""
    names = ("transformer", "vae", "text_encoder")
    weights = (Weights(n, "bfloat16", b) for n, b in zip(names, weights_bytes, strict=False))
    sizes = (*weights_bytes, 0, 0)
    return Need("draw", tuple(weights), denoiser_bytes=sizes[0], decoder_bytes=sizes[1], **more)


def decode(whole: int, tile: int, decoded: int = 0, batch: int = 1) -> DecodeBytes:
    return DecodeBytes(whole, tile, decoded, batch)


@pytest.mark.parametrize(
    ("asked", "weights_bytes", "chosen"),
    [
        (None, (60, 40), None),
        (None, (60, 41), "model"),
        ("model", (10, 10), "model"),
        ("sequential", (500, 10), "sequential"),
    ],
)
def test_document_offload_is_obeyed_and_rest_is_chosen_to_fit(
    asked: Offload | None, weights_bytes: tuple[int, ...], chosen: Offload | None
):
    assert choose_mode(Mode(asked), need(*weights_bytes), CARD).offload == chosen


@pytest.mark.parametrize("asked", [None, "model"])
def test_component_larger_than_device_is_refused_with_remedy(asked: Offload | None):
    with pytest.raises(TooLarge, match=r"at once.*'sequential' in the document would do, slowly"):
        choose_mode(Mode(asked), need(101, 10), CARD)


@pytest.mark.parametrize(
    ("weights_bytes", "chosen"),
    [((60, 40), None), ((60, 41), "model"), ((101, 10), "sequential")],
)
def test_group_offload_allows_component_larger_than_device(
    weights_bytes: tuple[int, ...], chosen: Offload | None
):
    assert choose_mode(Mode(), need(*weights_bytes, streams=True), CARD).offload == chosen


def test_excluded_components_of_sequential_offload_must_fit():
    asked = Mode("sequential")
    left = need(500, 10, never_offloaded_bytes=10)
    assert choose_mode(asked, left, CARD) == asked
    assert peak_bytes(asked, left, CARD) == 10
    with pytest.raises(TooLarge):
        choose_mode(asked, need(500, 101, never_offloaded_bytes=101), CARD)


def test_cpu_has_no_offload_and_refuses_too_large():
    cpu = Room(device_bytes=100, ram_bytes=0, total_bytes=120)
    assert choose_mode(Mode("model"), need(50, 50), cpu) == Mode()
    with pytest.raises(TooLarge):
        choose_mode(Mode(), need(60, 41), cpu)


def test_large_decode_uses_slicing_then_tiling():
    several = decode(20, 8, decoded=1, batch=4)
    assert choose_mode(Mode(), need(39, 1, decode=several), CARD) == Mode()
    assert choose_mode(Mode(), need(60, 30, decode=several), CARD) == Mode(vae_slicing=True)
    assert choose_mode(Mode(), need(80, 20, decode=several), CARD) == Mode(
        vae_slicing=True, vae_tiling=True
    )


def test_useless_modes_are_not_chosen():
    small = decode(30, 30)
    assert choose_mode(Mode(), need(80, 20, decode=small), CARD) == Mode("model")


def test_model_offload_is_chosen_if_denoising_does_not_fit():
    assert choose_mode(Mode(), need(60, 40, denoise_bytes=30), CARD) == Mode("model")


def test_estimate_alone_chooses_leanest_mode_instead_of_refusing():
    hopeless = need(60, 40, denoise_bytes=120, decode=decode(900, 200))
    assert choose_mode(Mode(), hopeless, CARD) == Mode("model", vae_tiling=True)
    assert choose_mode(Mode("model"), hopeless, CARD).offload == "model"


def test_cpu_run_needs_more_than_its_tensors():
    work = need(60, 0, denoise_bytes=40)
    cpu = Room(device_bytes=100, ram_bytes=0, total_bytes=120)
    assert peak_bytes(Mode(), work, CARD) == 100
    assert peak_bytes(Mode(), work, cpu) == 60 + CPU_FACTOR * 40


sizes = st.integers(0, 200)


@given(
    weights=st.tuples(sizes, sizes, sizes),
    denoising=st.none() | sizes,
    whole=sizes,
    tile=sizes,
    batch=st.integers(1, 4),
    ram=st.sampled_from([0, 1000]),
    asked=st.builds(
        Mode, st.sampled_from([None, "model", "sequential"]), st.booleans(), st.booleans()
    ),
)
def test_chosen_mode_obeys_document_and_fits_if_possible(
    weights: tuple[int, int, int],
    denoising: int | None,
    whole: int,
    tile: int,
    batch: int,
    ram: int,
    asked: Mode,
):
    room = Room(100, ram, 120)
    decoding = decode(whole, min(whole, tile), min(whole, tile) // 2, batch)
    step = need(*weights, denoise_bytes=denoising, decode=decoding)
    try:
        mode = choose_mode(asked, step, room)
    except TooLarge:
        return
    assert mode.vae_tiling >= asked.vae_tiling
    assert mode.vae_slicing >= asked.vae_slicing
    assert (mode.offload == asked.offload) or asked.offload is None or not room.is_accelerator
    leanest = Mode(mode.offload, True, True)
    if peak_bytes(leanest, step, room) <= room.total_bytes:
        assert peak_bytes(mode, step, room) <= room.total_bytes


# --- in words ------------------------------------------------------------------------------------


FLUX = need(
    int(23.8 * GB), GB // 10, int(9.8 * GB), denoise_bytes=GB // 2, decode=decode(2 * GB, GB // 3)
)
WEIGHTS = (
    "flux: 33.7 GB of weights (transformer 23.8 GB, text_encoder 9.8 GB, vae 100 MB),"
    " about 2.0 GB more while it runs"
)


def card(gigabytes: int) -> Room:
    return Room(int(0.9 * gigabytes * GB), 64 * GB, gigabytes * GB)


@pytest.mark.parametrize(
    ("asked", "room", "said"),
    [
        (Mode(), None, "."),
        (Mode(), card(80), "; fits in 80.0 GB."),
        (
            Mode(),
            card(32),
            "; does not fit in 28.8 GB at once: the transformer alone has 23.8 GB in bfloat16;"
            " model offload is used.",
        ),
        (
            Mode("sequential"),
            card(8),
            "; fits in 8.0 GB with sequential offload, as the document says.",
        ),
        (
            Mode("model"),
            card(32),
            "; fits in 32.0 GB with model offload, as the document says.",
        ),
        (
            Mode("model"),
            card(24),
            "; does not fit: Step 'draw' needs 23.8 GB of weights at once; 21.6 GB may be held."
            " Take a smaller model or dtype, or raise DW_DEVICE_BUDGET."
            " 'offload': 'sequential' in the document would do, slowly.",
        ),
    ],
)
def test_fit_line_shows_need_and_mode(asked: Mode, room: Room | None, said: str):
    assert sentence("flux", asked, FLUX, room) == WEIGHTS + said


def test_fit_line_reports_decode_that_does_not_fit():
    tight = need(9 * GB, GB, denoise_bytes=GB, decode=decode(3 * GB, GB))
    line = sentence("draw", Mode(), tight, Room(11 * GB, 64 * GB, 12 * GB))
    assert line.endswith(
        "about 1.0 GB more while it runs; does not fit in 12.0 GB at once: decoding needs about"
        " 3.0 GB beside the weights; VAE tiling is used."
    )


def test_fit_line_reports_unknown_needs():
    line = sentence("draw", Mode(), need(GB), card(12))
    assert (
        "how much more while it runs is not known for this kind of model; fits in 12.0 GB" in line
    )


def test_fit_line_warns_of_possible_out_of_memory():
    hopeless = need(GB, GB, denoise_bytes=9 * GB, decode=decode(GB, GB))
    line = sentence("draw", Mode(), hopeless, card(8))
    assert "may run out of memory: about 10.0 GB at once with model offload, of 8.0 GB" in line


def test_estimate_far_beyond_memory_is_refused():
    least = need(10, 10, denoise_bytes=10, decode=decode(10_000, 300))
    assert choose_mode(Mode(), replace(least, decode=decode(10_000, 100)), CARD).vae_tiling
    with pytest.raises(TooLarge, match="while it runs") as caught:
        choose_mode(Mode(), least, CARD)
    assert "smaller picture" in caught.value.hint


def test_image_larger_than_memory_is_refused_for_any_model():
    """The working memory of an unknown kind of model is unknown, but the size of its output is
    known."""
    with pytest.raises(TooLarge, match="while it runs"):
        choose_mode(Mode(), need(10, 10, drawn_bytes=1000), CARD)
    assert choose_mode(Mode(), need(10, 10, drawn_bytes=100), CARD) == Mode()
