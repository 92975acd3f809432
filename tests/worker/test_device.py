"""The device: name, memory, and out-of-memory errors."""

from __future__ import annotations

import os

import psutil
import pytest
import torch

from app.worker.device import Device, is_out_of_memory, refused_amount
from tests.doubles.accelerator import Accelerator

MIB = 1024 * 1024


@pytest.fixture
def cpu() -> Device:
    return Device("cpu")


def test_device_cpu_has_its_name(cpu: Device):
    assert (str(cpu), cpu.name, cpu.is_accelerator) == ("cpu", "CPU", False)


def test_device_auto_prefers_accelerator():
    found = Device("auto")
    there_is_one = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert found.is_accelerator == there_is_one


def test_device_name_is_used_as_given():
    assert str(Device("cuda:1")) == "cuda:1"
    assert Device("cuda:1").is_accelerator


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_device_accelerator_name_matches_its_tensors(kind: str):
    """Otherwise tensors would be moved before every step."""
    assert Device(kind).torch_device == torch.device(kind, 0)


def test_device_memory_on_cpu_is_ram(cpu: Device):
    memory = cpu.memory()
    assert memory.device_bytes == memory.device_reserved_bytes == 0
    assert 0 < memory.device_free_bytes < memory.device_total_bytes
    assert memory.device_total_bytes <= psutil.virtual_memory().total


def test_resident_set_grows_with_process(cpu: Device):
    # Freed first, so that leftovers of other tests are not counted.
    cpu.tidy()
    cpu.release()
    before = cpu.memory().resident_bytes
    block = bytearray(os.urandom(MIB)) * 64
    after = cpu.memory().resident_bytes
    assert after - before >= 0.9 * len(block)


def test_release_frees_large_tensors(cpu: Device):
    # Many small blocks, which malloc keeps when they are freed.
    blocks = [torch.ones(16 * 1024) for _ in range(2000)]
    full = cpu.memory().resident_bytes
    held_bytes = sum(block.nbytes for block in blocks)
    blocks.clear()
    cpu.tidy()
    cpu.release()
    assert full - cpu.memory().resident_bytes >= 0.8 * held_bytes


def test_refused_allocation_is_out_of_memory():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**52)
    assert is_out_of_memory(refused.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB, max allowed: 20.40 GB)."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("unable to mmap 16 bytes from file <a>: Cannot allocate memory (12)"),
        RuntimeError("could not create a primitive"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_out_of_memory_messages_are_recognised(error: Exception):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("could not create a primitive descriptor for a convolution"),
        ValueError("the prompt is out of memory"),
        OSError("can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_out_of_memory(error: Exception):
    assert not is_out_of_memory(error)


def told_otherwise(error: Exception, *, said: bool) -> Exception:
    """Returns the error a library raises instead, with or without `raise … from`."""
    try:
        try:
            raise error
        except (RuntimeError, ValueError) as caught:
            instead = OSError("Unable to load weights from checkpoint file")
            raise instead from (caught if said else None)
    except OSError as other:
        return other


def test_error_caused_by_out_of_memory_is_out_of_memory():
    ran_out = RuntimeError("unable to mmap 16 bytes from file <a>: Cannot allocate memory (12)")
    assert is_out_of_memory(told_otherwise(ran_out, said=True))
    assert is_out_of_memory(told_otherwise(ran_out, said=False))
    assert not is_out_of_memory(told_otherwise(ValueError("not a checkpoint"), said=True))


@pytest.mark.parametrize(
    ("said", "amount"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 7 GiB", "20.00 GiB"),
        ("can't allocate memory: you tried to allocate 150994944 bytes. Error", "151 MB"),
        ("MPS backend out of memory. Tried to allocate 256 bytes on private pool.", "0 MB"),
        ("CUDA error: out of memory", ""),
    ],
)
def test_refused_amount_is_read_from_error(said: str, amount: str):
    assert refused_amount(RuntimeError(said)) == amount


@pytest.mark.parametrize(
    ("error", "beside_an_accelerator"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "device"),
        (RuntimeError("CUDA error: out of memory"), "device"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "ram"),
        (MemoryError(), "ram"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_out_of_memory_names_device_or_ram(
    cpu: Device, error: Exception, beside_an_accelerator: str
):
    assert cpu.exhausted_place(error) == "device"
    assert Accelerator().exhausted_place(error) == beside_an_accelerator
