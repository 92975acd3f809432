"""A GGUF file of a stand-in's transformer, as the published ones are quantised."""

from __future__ import annotations

from pathlib import Path

import gguf
from gguf.quants import quantize
from safetensors.numpy import load_file

BLOCK = 32
"""Weights that share a scale in Q8_0 and Q4_0."""


def build_gguf(transformer: Path, file: Path, kind: str = "Q8_0") -> None:
    """Write the weights in this component's folder, matrices in blocks, all else as float32.

    The tensors are named as in diffusers; the published files' own names come with sizes that no
    stand-in has.
    """
    quantised = gguf.GGMLQuantizationType[kind]
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(file, "flux")
    for name, tensor in load_file(transformer / "diffusion_pytorch_model.safetensors").items():
        if tensor.ndim == 2 and tensor.shape[1] % BLOCK == 0:
            writer.add_tensor(name, quantize(tensor, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
