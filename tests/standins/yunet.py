"""A stand-in for YuNet that OpenCV loads: it takes a white block of 8x8 pixels for a nose.

OpenCV decodes three grids, of cells of 8, 16 and 32 pixels; here only the first finds anything. The
ONNX file is written by hand, by the field numbers of onnx.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path

CELL = 8
FACE_PX = 80
"""Width and height of each box."""
POINTS = ((-2.0, -2.0), (2.0, -2.0), (0.5, 0.5), (-1.5, 2.5), (1.5, 2.5))
"""Eyes, nose and mouth from the cell's corner, in cells."""
SIDE = 640
"""Width and height of the images by the file; OpenCV sets others."""
FLOAT, INT64 = 1, 7
"""Types of tensors."""
INTS = 7
"""Type of an attribute."""


def build_face_detector(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nodes: list[bytes] = []
    weights: list[bytes] = []
    ends: list[bytes] = []
    box = [0.5, 0.5, math.log(FACE_PX / CELL), math.log(FACE_PX / CELL)]
    points = [number for point in POINTS for number in point]
    for cell in (8, 16, 32):
        # Above a mean of 250, the score rises to 1 at 255. OpenCV takes the root of both factors.
        gain = 0.2 / (3 * cell * cell) if cell == CELL else 0.0
        outputs = {
            "cls": ([gain], [-50.0 if cell == CELL else 0.0]),
            "obj": ([0.0], [1.0]),
            "bbox": ([0.0] * 4, box),
            "kps": ([0.0] * 10, points),
        }
        for kind, (gains, biases) in outputs.items():
            name = f"{kind}_{cell}"
            ends.append(_value(name, [1, (SIDE // cell) ** 2, len(gains)]))
            kernel = [gain for gain in gains for _ in range(3 * cell * cell)]
            weights.append(_floats(f"{name}_w", [len(gains), 3, cell, cell], kernel))
            weights.append(_floats(f"{name}_b", [len(gains)], biases))
            sides = {"kernel_shape": [cell, cell], "strides": [cell, cell]}
            nodes.append(_node("Conv", ["input", f"{name}_w", f"{name}_b"], f"{name}_c", **sides))
            nodes.append(_node("Transpose", [f"{name}_c"], f"{name}_t", perm=[0, 2, 3, 1]))
            weights.append(_tensor(f"{name}_s", [3], INT64, struct.pack("<3q", 1, -1, len(gains))))
            nodes.append(_node("Reshape", [f"{name}_t", f"{name}_s"], name))
    graph = b"".join(
        [
            *(_bytes(1, node) for node in nodes),
            _bytes(2, b"yunet"),
            *(_bytes(5, weight) for weight in weights),
            _bytes(11, _value("input", [1, 3, SIDE, SIDE])),
            *(_bytes(12, end) for end in ends),
        ]
    )
    opset = _bytes(1, b"") + _number(2, 11)
    file.write_bytes(_number(1, 6) + _bytes(7, graph) + _bytes(8, opset))


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _tensor(name: str, shape: Iterable[int], kind: int, raw: bytes) -> bytes:
    dims = b"".join(_number(1, side) for side in shape)
    return dims + _number(2, kind) + _bytes(8, name.encode()) + _bytes(9, raw)


def _floats(name: str, shape: list[int], values: list[float]) -> bytes:
    return _tensor(name, shape, FLOAT, struct.pack(f"<{len(values)}f", *values))


def _node(kind: str, inputs: list[str], output: str, **attributes: list[int]) -> bytes:
    given = b"".join(_bytes(1, name.encode()) for name in inputs)
    named = b"".join(
        _bytes(
            5,
            _bytes(1, name.encode())
            + b"".join(_number(8, value) for value in values)
            + _number(20, INTS),
        )
        for name, values in attributes.items()
    )
    ends = _bytes(2, output.encode()) + _bytes(3, output.encode()) + _bytes(4, kind.encode())
    return given + ends + named


def _value(name: str, shape: list[int]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, side)) for side in shape)
    tensor = _number(1, FLOAT) + _bytes(2, dims)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))
