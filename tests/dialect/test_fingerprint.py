"""Hashes that identify a workflow's files, a request, and a loaded component."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialect.fingerprint import (
    identify_file,
    tensor_bytes,
    weight_bytes,
    weight_files,
    workflow_hash,
)
from app.planning.request_keys import request_key
from tests.plan_bench import Bench, drawing, safetensors, step, sub

# --- the hash of a workflow ----------------------------------------------------------------------


def test_workflow_hash_covers_sub_workflows(bench: Bench):
    bench.write(drawing(), "child.json")
    document = drawing(steps=[sub("child.json")])
    before = bench.plan(document).workflow_hash
    assert bench.plan(document).workflow_hash == before
    bench.write(drawing(description="other"), "child.json")
    assert bench.plan(document).workflow_hash != before


def test_white_space_changes_hash_but_not_plan(bench: Bench):
    plain, spaced = bench.plan(drawing(), seed=1), None
    spaced = bench.plan(json.dumps(drawing(), indent=8), seed=1)
    assert spaced.workflow_hash != plain.workflow_hash
    assert spaced.steps == plain.steps
    assert request_key(spaced) == request_key(plain)


@given(st.lists(st.binary(max_size=5)), st.lists(st.binary(max_size=5)))
def test_equal_workflow_hashes_mean_equal_files(one: list[bytes], other: list[bytes]):
    assert (workflow_hash(one) == workflow_hash(other)) == (one == other)


# --- the key of a request ------------------------------------------------------------------------


def test_equal_requests_have_equal_keys(bench: Bench):
    assert request_key(bench.plan(drawing(), seed=1)) == request_key(bench.plan(drawing(), seed=1))
    explicit = bench.plan(drawing(), seed=1, prompt="a red circle", steps="20")
    assert request_key(explicit) == request_key(bench.plan(drawing(), seed=1))


def test_request_key_changes_with_seed_input_and_workflow(bench: Bench):
    keys = [
        request_key(bench.plan(drawing(), seed=1)),
        request_key(bench.plan(drawing(), seed=2)),
        request_key(bench.plan(drawing(), seed=1, prompt="a blue star")),
        request_key(bench.plan(drawing(), seed=1, steps=21)),
        request_key(bench.plan(drawing(id="other"), seed=1)),
        request_key(bench.plan(drawing(steps=[step(), step("again")]), seed=1)),
    ]
    assert len(set(keys)) == len(keys)


def test_request_key_changes_with_image_content(bench: Bench):
    document = drawing(
        variables={"image": None}, steps=[step(arguments={"ip_adapter_image": "variable:image"})]
    )
    file = bench.picture()
    before = request_key(bench.plan(document, seed=1, image=str(file)))
    os.utime(file, (1, 1))
    assert request_key(bench.plan(document, seed=1, image=str(file))) == before
    file.write_bytes(bench.picture("other.webp").read_bytes())
    assert request_key(bench.plan(document, seed=1, image=str(file))) != before


def test_request_key_changes_with_model_weights(bench: Bench):
    weights = bench.model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.parent.mkdir()
    safetensors(weights, a=4)
    before = request_key(bench.plan(drawing(), seed=1))
    assert request_key(bench.plan(drawing(), seed=1)) == before
    safetensors(weights, a=8)
    assert request_key(bench.plan(drawing(), seed=1)) != before


# --- files ---------------------------------------------------------------------------------------


def test_hub_file_is_identified_by_blob(tmp_path: Path):
    for number, cache in enumerate(("here", "there")):
        blob = tmp_path / cache / "blobs" / "0123abcd"
        blob.parent.mkdir(parents=True)
        blob.write_bytes(b"weights" * (number + 1))
        link = tmp_path / cache / "snapshots" / "a.safetensors"
        link.parent.mkdir()
        link.symlink_to(blob)
    here, there = (identify_file(tmp_path / c / "snapshots" / "a.safetensors")
                   for c in ("here", "there"))  # fmt: skip
    assert here == there
    assert here.content == "0123abcd"


# --- weights -------------------------------------------------------------------------------------


def test_weight_bytes_come_from_headers(component: Path):
    assert weight_bytes(component, None) == 16
    safetensors(component / "more.safetensors", c=100)
    assert weight_bytes(component, None) == 116


def test_variant_is_preferred_to_plain_files(component: Path):
    plain = component / "diffusion_pytorch_model.safetensors"
    assert weight_files(component, "fp16") == (plain,)
    shards = tuple(
        safetensors(component / f"diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors", a=n)
        for n in (1, 2)
    )
    assert weight_files(component, "fp16") == shards
    assert weight_files(component, None) == (plain,)


def test_plain_shards_are_not_a_variant(tmp_path: Path):
    shards = tuple(
        safetensors(tmp_path / f"model-0000{n}-of-00002.safetensors", a=n) for n in (1, 2)
    )
    assert weight_files(tmp_path, None) == shards


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, bytes(16)])
def test_other_file_kinds_are_refused_as_safetensors(tmp_path: Path, content: bytes):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"'a\.safetensors' is not a safetensors file"):
        tensor_bytes(file)
