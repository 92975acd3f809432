"""Accelerations that a device cannot run are refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import DType
from app.errors import LoadError
from app.protocol import Loading
from app.worker.loading.load import find_parts
from app.worker.tuning.acceleration import (
    KERNELS,
    Hardware,
    check_acceleration,
    uncompilable,
    unusable_backend,
)
from tests.engines import notices
from tests.standins.flux import build_flux
from tests.worker.bench import Bench, Document, document, step

CPU = Hardware("cpu", "CPU")
APPLE = Hardware("mps", "Apple GPU")
TURING = Hardware("cuda", "a T4", (7, 5))
AMPERE = Hardware("cuda", "an A100", (8, 0))
HOPPER = Hardware("cuda", "an H100", (9, 0))
NEEDS_NVIDIA = "it needs an NVIDIA GPU, and the device is "


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "flux"
    build_flux(folder)
    return folder


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("hardware", [CPU, APPLE], ids=["CPU", "Apple"])
def test_backend_for_nvidia_is_refused_on_other_devices(backend: str, hardware: Hardware):
    assert unusable_backend(backend, "bfloat16", hardware) == NEEDS_NVIDIA + hardware.name


@pytest.mark.parametrize(
    ("backend", "dtype", "hardware", "why"),
    [
        ("sage", "bfloat16", AMPERE, ""),
        ("sage", "float32", AMPERE, "it computes in float16 or bfloat16, not in float32"),
        ("flash", "float16", TURING, "it needs a GPU of compute capability 8.0, and a T4 has 7.5"),
        ("_flash_3", "float16", AMPERE, "capability 9.0, and an A100 has 8.0"),
        ("_flash_3", "float16", HOPPER, ""),
        ("xformers", "float32", TURING, ""),
        ("_native_flash", "float32", AMPERE, "float16 or bfloat16 on a GPU, not in float32"),
        ("_native_flash", "float32", CPU, ""),
        ("native", "float32", CPU, ""),
        ("flex", "float32", AMPERE, ""),
    ],
)
def test_backend_is_usable_where_its_kernel_is(
    backend: str, dtype: DType, hardware: Hardware, why: str
):
    found = unusable_backend(backend, dtype, hardware)
    assert found.endswith(why)
    assert bool(found) == bool(why)


def with_flux(flux: Path, **configuration: Any) -> Document:
    wanted = step(model=flux, width=16, height=16)
    wanted["pipeline"]["configuration"] = {"component_type": "FluxPipeline", **configuration}
    return document(wanted, id="flux")


@pytest.mark.parametrize("backend", ["_native_cudnn", "_flash_3", "_flash_varlen_3"])
@pytest.mark.parametrize("nested", [False, True])
def test_backend_that_cannot_run_is_refused_before_loading(
    backend: str, nested: bool, bench: Bench, flux: Path
):
    named = {"attention_backend": backend}
    wanted = with_flux(flux, **({"components": {"transformer": named}} if nested else named))
    finished = bench.run(wanted)
    assert finished.terminal.type == "run_failed"
    assert finished.terminal.error.message == (
        f"The attention backend '{backend}' cannot be used here: {NEEDS_NVIDIA}CPU."
    )
    assert not [event for event in finished.events if isinstance(event, Loading)]
    assert not bench.runner.residency.entries


def planned(bench: Bench, wanted: Document) -> PipelineStep:
    (found,) = bench.plan(wanted).steps
    assert isinstance(found, PipelineStep)
    return found


CASTING = {"storage_dtype": "float8_e4m3fn", "compute_dtype": "bfloat16"}


@pytest.mark.parametrize(("hardware", "refused"), [(APPLE, True), (CPU, False), (AMPERE, False)])
def test_fp8_casting_is_refused_where_the_device_has_no_fp8(
    hardware: Hardware, refused: bool, bench: Bench, flux: Path
):
    found = planned(bench, with_flux(flux, enable_layerwise_casting=CASTING))
    if not refused:
        check_acceleration(found, find_parts(found), hardware)
        return
    with pytest.raises(
        LoadError, match="cannot be stored as float8_e4m3fn: an Apple GPU"
    ) as raised:
        check_acceleration(found, find_parts(found), hardware)
    assert "enable_layerwise_casting" in raised.value.hint


def test_compilation_is_refused_on_an_apple_gpu(bench: Bench, flux: Path):
    compiled = {"components": {"transformer": {"compile": {"repeated_blocks": True}}}}
    found = planned(bench, with_flux(flux, **compiled))
    with pytest.raises(LoadError, match=r"transformer cannot be compiled here: torch\.compile"):
        check_acceleration(found, find_parts(found), APPLE)


def test_compilation_without_a_compiler_is_refused():
    from torch._inductor import config

    assert uncompilable(CPU) == ""
    # (pytest's monkeypatch would delete the setting afterwards.)
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert uncompilable(CPU).startswith("it needs a C++ compiler")
    assert uncompilable(CPU) == ""


@pytest.mark.parametrize("kind", ["first_block", "taylorseer", "faster"])
def test_cache_of_a_denoiser_without_one_is_refused_before_loading(kind: str, bench: Bench):
    wanted = step()
    wanted["pipeline"]["configuration"]["cache"] = {"type": kind}
    finished = bench.run(document(wanted))
    assert finished.terminal.type == "run_failed"
    assert finished.terminal.error.message == (
        "The denoiser of StableDiffusionPipeline has no cache."
    )
    assert not bench.runner.residency.entries


@pytest.mark.parametrize("backend", ["_native_math", "_native_flash", "_native_efficient"])
def test_backend_that_the_denoiser_does_not_use_is_told(backend: str, bench: Bench):
    wanted = step()
    wanted["pipeline"]["configuration"]["attention_backend"] = backend
    finished = bench.run(document(wanted))
    assert finished.success
    assert notices(finished) == [
        f"attention_backend '{backend}' has no effect: a UNet2DConditionModel computes its"
        " attention with torch's own."
    ]


def test_backend_that_the_denoiser_uses_has_no_notice(bench: Bench, flux: Path):
    finished = bench.run(with_flux(flux, attention_backend="_native_math"))
    assert finished.success
    assert not notices(finished)
