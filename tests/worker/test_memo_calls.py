"""Keys, exceptions and results of memoised `encode_prompt` calls."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from app.settings import MIB
from app.worker.device import Device
from app.worker.loading.load import find_parts
from app.worker.loading.parts import Parts
from app.worker.memo import FOLDER, TRIM_EVERY, PromptMemo
from tests.worker.bench import Bench, document, step
from tests.worker.encoding import counting


class Call(NamedTuple):
    """A pipeline, and what is needed to memoise its prompts."""

    pipeline: Any
    step: Any
    parts: Parts

    def remembered_by(self, memo: PromptMemo) -> contextlib.AbstractContextManager[None]:
        return memo.memoising(self.pipeline, self.step, self.parts, Device("cpu"))


@pytest.fixture
def call(bench: Bench) -> Call:
    planned = bench.plan(document(step())).steps[0]
    return Call(bench.assembled(document(step())), planned, find_parts(planned))


@pytest.fixture
def memo(tmp_path: Path) -> PromptMemo:
    return PromptMemo(256 * MIB, tmp_path / FOLDER, 256 * MIB)


SIMPLE = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}


def test_memo_result_is_a_private_copy(call: Call, memo: PromptMemo):
    right = call.pipeline.encode_prompt("a red circle", **SIMPLE)[0].clone()
    with call.remembered_by(memo), counting() as calls:
        for _ in range(3):
            embeddings = call.pipeline.encode_prompt("a red circle", **SIMPLE)[0]
            assert torch.equal(embeddings, right)
            embeddings.zero_()
    assert len(calls) == 1


def test_memo_key_ignores_how_arguments_are_passed(call: Call, memo: PromptMemo):
    with call.remembered_by(memo), counting() as calls:
        call.pipeline.encode_prompt("a red circle", torch.device("cpu"), 1, False)
        call.pipeline.encode_prompt(
            prompt="a red circle",
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=None,
        )
    assert len(calls) == 1


def test_memo_restores_encode_prompt_after_errors(call: Call, memo: PromptMemo):
    with call.remembered_by(memo):
        assert "encode_prompt" in vars(call.pipeline)
    assert "encode_prompt" not in vars(call.pipeline)
    with pytest.raises(ZeroDivisionError), call.remembered_by(memo):
        raise ZeroDivisionError
    assert "encode_prompt" not in vars(call.pipeline)


# --- what is passed through, and what comes back as it was ---------------------------------------


class Describer(DiffusionPipeline):
    """A pipeline whose `encode_prompt` has a realistic signature and counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_to_config()
        self.calls = 0

    def encode_prompt(self, prompt: Any, image: Any = None, returned: str = "nested") -> Any:
        self.calls += 1
        numbers = torch.full((2, 3), float(len(str(prompt))))
        match returned:
            case "nested":
                return [
                    numbers.to(torch.bfloat16),
                    None,
                    ([numbers.T, numbers > 3], torch.tensor(self.calls)),
                    [],
                ]
            case "bare":
                return numbers
            case "view":
                return numbers.expand(2, 2, 3)
        return {"text": numbers}


@pytest.fixture
def describer(call: Call) -> Call:
    return Call(Describer(), call.step, Parts(Describer, Path(), (), {}))


def test_memo_forgets_unwritten_keys_of_evicted_embeddings(describer: Call, tmp_path: Path):
    """As when runs follow each other without an idle moment to write."""
    memo = PromptMemo(1000, tmp_path / FOLDER, MIB)
    memory_bytes = []
    with describer.remembered_by(memo):
        tracemalloc.start()
        try:
            for number in range(1, 5 * TRIM_EVERY):
                memo.begin()
                describer.pipeline.encode_prompt(f"a fox, number {number}")
                if number in (TRIM_EVERY // 2, 5 * TRIM_EVERY - 1):
                    memory_bytes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    half_full, last = memory_bytes
    assert last - half_full < 300 * TRIM_EVERY


def picture(colour: str, size: tuple[int, int] = (4, 2), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1),
        [picture("red"), [torch.zeros(1)]],
        {"mask": torch.zeros(1)},
        torch.Generator(),
        np.zeros(1),
        object(),
    ],
    ids=["tensor", "tensor in lists", "tensor in a mapping", "generator", "array", "object"],
)
def test_memo_passes_calls_with_unknown_arguments_through(
    describer: Call, memo: PromptMemo, image: Any
):
    with describer.remembered_by(memo):
        for _ in range(2):
            describer.pipeline.encode_prompt("a red circle", image)
    assert describer.pipeline.calls == 2


def test_memo_key_uses_image_content(describer: Call, memo: PromptMemo):
    different = [
        None,
        picture("red"),
        picture("blue"),
        picture("red", (2, 4)),
        picture("red", mode="RGBA"),
        [picture("red")],
        picture("red", mode="P"),
    ]
    with describer.remembered_by(memo):
        for image in different:
            describer.pipeline.encode_prompt("a red circle", image)
            describer.pipeline.encode_prompt("a red circle", image and _copied(image))
    assert describer.pipeline.calls == len(different)


def _copied(image: Any) -> Any:
    return [each.copy() for each in image] if isinstance(image, list) else image.copy()


def test_memo_key_separates_equal_values_of_different_types(describer: Call, memo: PromptMemo):
    different = [1, 1.0, True, "1", [1], (1,), {"1": 1}, {1: 1}, None, "None"]
    with describer.remembered_by(memo):
        for value in different * 2:
            describer.pipeline.encode_prompt(value)
    assert describer.pipeline.calls == len(different)


def test_memo_does_not_store_other_result_kinds(describer: Call, memo: PromptMemo):
    with describer.remembered_by(memo):
        for _ in range(2):
            result = describer.pipeline.encode_prompt("a red circle", returned="mapping")
            assert list(result) == ["text"]
    assert describer.pipeline.calls == 2


@pytest.mark.parametrize("returned", ["nested", "bare", "view"])
def test_embeddings_round_trip_exactly_in_memory_and_on_disk(
    describer: Call, memo: PromptMemo, tmp_path: Path, returned: str
):
    right = Describer().encode_prompt("a red circle", returned=returned)
    restarted = PromptMemo(256 * MIB, tmp_path / FOLDER, 256 * MIB)
    for each in (memo, memo, restarted):
        with describer.remembered_by(each), torch.inference_mode():
            equal(describer.pipeline.encode_prompt("a red circle", returned=returned), right)
        each.flush()
    assert describer.pipeline.calls == 1


def equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif one is not None:
        for each, its in zip(one, other, strict=True):
            equal(each, its)


def test_memo_ignores_pipeline_without_encode_prompt(call: Call, memo: PromptMemo):
    bare = Call(DiffusionPipeline(), call.step, Parts(DiffusionPipeline, Path(), (), {}))
    with bare.remembered_by(memo):
        assert not hasattr(bare.pipeline, "encode_prompt")
