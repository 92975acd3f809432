"""Damaged or malicious model files are reported by name, and nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.protocol import RunFailed
from tests.worker.bench import Bench, document, step

DEEP = b"[" * 100_000


def header(content: Any) -> bytes:
    """Returns a safetensors file with this header and a few numbers."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
HEADERS: dict[str, bytes] = {
    "empty file": b"",
    "three bytes": b"abc",
    "length beyond the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "length of 2^64-1": bytes([255] * 8) + b"{}",
    "no JSON": header(b"{nothing"),
    "no text": header(b"\xff\xfe\xfd"),
    "deep": header(DEEP),
    "list": header([1, 2]),
    "text": header("weights"),
    "number": header(7),
    "null": header(None),
    "entry is a list": header({"a": [0, 16]}),
    "entry without offsets": header({"a": {"dtype": "F32", "shape": [4]}}),
    "entry without dtype": header({"a": {"shape": [4], "data_offsets": [0, 16]}}),
    "entry without shape": header({"a": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "one offset": header({"a": ENTRY | {"data_offsets": [0]}}),
    "offsets of texts": header({"a": ENTRY | {"data_offsets": ["0", "16"]}}),
    "offsets backwards": header({"a": ENTRY | {"data_offsets": [16, 0]}}),
    "negative offset": header({"a": ENTRY | {"data_offsets": [-16, 0]}}),
    "offsets of fractions": header({"a": ENTRY | {"data_offsets": [0.0, 16.0]}}),
    "offset beyond the file": header({"a": ENTRY | {"data_offsets": [0, 1 << 62]}}),
    "unknown dtype": header({"a": ENTRY | {"dtype": "F7"}}),
    "dtype is a list": header({"a": ENTRY | {"dtype": ["F32"]}}),
    "shape is a number": header({"a": ENTRY | {"shape": 4}}),
    "shape of texts": header({"a": ENTRY | {"shape": ["4"]}}),
    "shape overflows": header({"a": ENTRY | {"shape": [1 << 62, 1 << 62]}}),
    "no tensors": header({}),
    "other tensors": header({"a": ENTRY}),
}
JSONS: dict[str, bytes] = {
    "empty file": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\xfd",
    "deep": DEEP,
    "list": b"[]",
    "pairs": b'[["_class_name", "StableDiffusionPipeline"]]',
    "text": b'"config"',
    "null": b"null",
}


def refused(bench: Bench, model: Path) -> str:
    """Returns the sentence with which a run of the model fails, which must be our own error."""
    ended = bench.run(document(step(model=model))).terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.kind in ("LoadError", "TooLarge"), ended.error
    assert "Error:" not in ended.error.message
    return ended.error.sentence()


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS.keys())
def test_invalid_weight_file_is_refused(bench: Bench, model: Path, content: bytes):
    (model / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    assert "unet" in refused(bench, model)


@pytest.mark.parametrize("content", JSONS.values(), ids=JSONS.keys())
@pytest.mark.parametrize(
    "name",
    ["unet/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json",
     "tokenizer/tokenizer_config.json", "model_index.json"],
)  # fmt: skip
def test_invalid_config_is_refused(bench: Bench, model: Path, name: str, content: bytes):
    (model / name).write_bytes(content)
    sentence = refused(bench, model)
    assert Path(name).name in sentence or f"The {Path(name).parent} of" in sentence


CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "channels of text": ("unet", {"block_out_channels": "many"}),
    "no channels": ("unet", {"block_out_channels": []}),
    "channels of texts": ("unet", {"block_out_channels": ["a", "b"]}),
    "huge channels": ("unet", {"block_out_channels": [10**30, 10**30]}),
    "negative channels": ("unet", {"block_out_channels": [-1, -1]}),
    "heads of zero": ("unet", {"attention_head_dim": 0}),
    "huge sample": ("unet", {"sample_size": 10**30}),
    "sample of text": ("unet", {"sample_size": "large"}),
    "sample of null": ("unet", {"sample_size": [None, None]}),
    "blocks are a number": ("unet", {"down_block_types": 3}),
    "layers are a text": ("unet", {"layers_per_block": "two"}),
    "vae channels of text": ("vae", {"block_out_channels": "many"}),
    "vae without channels": ("vae", {"block_out_channels": [], "latent_channels": 0}),
    "scaling of text": ("vae", {"scaling_factor": "half"}),
    "huge vocabulary": ("text_encoder", {"vocab_size": 10**15}),
    "huge positions": ("text_encoder", {"max_position_embeddings": 10**13}),
    "layers of text": ("text_encoder", {"num_hidden_layers": "two"}),
    "huge layers": ("text_encoder", {"num_hidden_layers": 10**9}),
    "class of another": ("unet", {"_class_name": ["a", "b"]}),
}


@pytest.mark.parametrize(("part", "changes"), CONFIGS.values(), ids=CONFIGS.keys())
def test_config_with_wrong_values_is_refused_or_ignored(
    bench: Bench, model: Path, part: str, changes: dict[str, Any]
):
    """Unused values are ignored; all others give a sentence, before memory runs out."""
    path = model / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    ended = bench.run(document(step(model=model))).terminal
    if isinstance(ended, RunFailed):
        assert ended.error.kind in ("LoadError", "TooLarge"), ended.error
        assert part in ended.error.sentence() or ended.error.kind == "TooLarge"


INDEXES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "component of one": lambda index: index | {"unet": ["diffusers"]},
    "component of three": lambda index: index | {"unet": ["diffusers", "a", "b"]},
    "component of numbers": lambda index: index | {"unet": [1, 2]},
    "component of lists": lambda index: index | {"unet": [["diffusers"], ["a"]]},
    "component of a text": lambda index: index | {"unet": "diffusers.UNet2DConditionModel"},
    "component of objects": lambda index: index | {"unet": [{}, {}]},
    "no component": lambda index: {k: v for k, v in index.items() if k != "unet"},
    "half null": lambda index: index | {"unet": [None, "UNet2DConditionModel"]},
    "a function": lambda index: index | {"unet": ["diffusers", "logging"]},
    "a foreign module": lambda index: index | {"unet": ["os", "system"]},
    "private": lambda index: index | {"unet": ["diffusers", "__builtins__"]},
}


@pytest.mark.parametrize("damage", INDEXES.values(), ids=INDEXES.keys())
def test_index_with_wrong_values_is_refused(
    bench: Bench, model: Path, damage: Callable[[dict[str, Any]], Any]
):
    path = model / "model_index.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    assert "unet" in refused(bench, model)


SHARDS: dict[str, bytes] = {
    **JSONS,
    "map is a list": b'{"weight_map": []}',
    "map of numbers": b'{"weight_map": {"a": 1}}',
    "map leads out": b'{"weight_map": {"a": "../../../etc/passwd"}}',
    "map of lists": b'{"weight_map": {"a": ["b"]}}',
}


@pytest.mark.parametrize("content", SHARDS.values(), ids=SHARDS.keys())
def test_invalid_shard_index_is_refused_or_ignored(bench: Bench, model: Path, content: bytes):
    (model / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_bytes(content)
    ended = bench.run(document(step(model=model))).terminal
    if isinstance(ended, RunFailed):
        assert ended.error.kind == "LoadError", ended.error
        assert "unet" in ended.error.sentence()
