"""Results do not depend on the memory alignment of weights, which file headers decide."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.dialect.fingerprint import HEADER_LENGTH_BYTES, tensor_places
from app.engine import Engine
from app.worker.main import added_to
from tests.engines import run, started_engine
from tests.standins import build_sd, build_sdxl
from tests.worker.bench import document, pixels, step

ALIGNMENTS_BYTES = (8, 16, 64)
BUILDERS = {"StableDiffusionPipeline": build_sd, "StableDiffusionXLPipeline": build_sdxl}
MATRIX_PRODUCTS = """
import torch

torch.manual_seed(0)
torch.set_num_threads(1)


def placed(tensor, offset_bytes):
    room = torch.empty(tensor.nbytes + 128, dtype=torch.uint8)
    begin = -room.data_ptr() % 64 + offset_bytes
    return room[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


for rows, inner, columns in ((1, 64, 64), (1, 320, 1280), (2, 63, 4), (2, 320, 1280), (7, 64, 64),
                             (8, 768, 4), (77, 64, 128)):
    left, right = torch.randn(rows, inner), torch.randn(columns, inner)
    expected = torch.nn.functional.linear(left, right)
    for offset_bytes in (4, 8, 16, 24, 40):
        for pair in ((placed(left, offset_bytes), right), (left, placed(right, offset_bytes))):
            if not torch.equal(torch.nn.functional.linear(*pair), expected):
                print(rows, inner, columns, offset_bytes)
"""


def align(path: Path, alignment_bytes: int) -> None:
    """Aligns the tensors of a safetensors file to this power of two, and to none larger."""
    data = path.read_bytes()
    begin = HEADER_LENGTH_BYTES + int.from_bytes(data[:HEADER_LENGTH_BYTES], "little")
    header = data[HEADER_LENGTH_BYTES:begin].rstrip(b" ")
    shortest = HEADER_LENGTH_BYTES + len(header)
    wanted = shortest + (alignment_bytes - shortest) % (2 * alignment_bytes)
    header = header.ljust(wanted - HEADER_LENGTH_BYTES)
    path.write_bytes(len(header).to_bytes(HEADER_LENGTH_BYTES, "little") + header + data[begin:])
    assert min(begin for begin, _ in tensor_places(path).values()) == wanted


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with started_engine(tmp_path / "outputs") as engine:
        yield engine


def test_picture_does_not_depend_on_alignment_of_weights(engine: Engine, tmp_path: Path):
    for name, build in BUILDERS.items():
        original = tmp_path / name
        build(original)
        drawn = []
        for alignment_bytes in ALIGNMENTS_BYTES:
            model = tmp_path / f"{name}-{alignment_bytes}"
            shutil.copytree(original, model)
            for path in model.rglob("*.safetensors"):
                align(path, alignment_bytes)
            drawing = step(model=model, width=64, height=64)
            drawing["pipeline"]["configuration"]["component_type"] = name
            path = tmp_path / f"{model.name}.json"
            path.write_text(json.dumps(document(drawing)))
            drawn.append(pixels(run(engine, path)))
        for others in drawn[1:]:
            np.testing.assert_array_equal(others, drawn[0])


def test_matrix_products_do_not_depend_on_alignment_in_the_workers_environment():
    environment = added_to({"OMP_NUM_THREADS": "1"})
    ran = subprocess.run(
        [sys.executable, "-c", MATRIX_PRODUCTS], env={"OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert ran.stdout == "", "rows, inner, columns, offset in bytes"
