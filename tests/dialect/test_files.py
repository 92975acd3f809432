"""The format of a file of weights, by its content."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.dialect.files import format_of


@pytest.mark.parametrize("length", [0x80, 0x9E80, 0x04034B50])
def test_safetensors_header_length_may_look_like_a_pickle(tmp_path: Path, length: int):
    """One file of 32 has such a length: safetensors aligns headers to 8 bytes."""
    file = tmp_path / "a.safetensors"
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", length) + b"{")
        opened.truncate(length + 8)
    assert format_of(file) == "safetensors"


def test_formats_are_told_apart(tmp_path: Path):
    file = tmp_path / "a"
    save_file({"a": torch.zeros(4)}, file)
    assert format_of(file) == "safetensors"
    for new in (True, False):
        torch.save({"a": torch.zeros(4)}, file, _use_new_zipfile_serialization=new)
        assert format_of(file) == "pickle"
    file.write_bytes(b"GGUF" + bytes(20))
    assert format_of(file) == "GGUF"
    file.write_bytes(b"<html>")
    assert format_of(file) is None
