"""Perturbed attention guidance changes a denoiser during a call only."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.protocol import Event, RunCancelled, StepProgress
from tests.standins import build_sd3
from tests.worker.bench import SHAPES, Bench, document, same, step


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3")
    build_sd3(folder)
    return folder


@pytest.mark.parametrize("kind", ["", "3", "Img2Img"])
def test_cancelled_run_leaves_no_perturbed_attention(bench: Bench, sd3: Path, kind: str):
    model = sd3 if kind == "3" else SHAPES
    first = step("first", model=model, kind=kind.removesuffix("Img2Img"))
    plain = document(first)
    guided = step(model=model, kind=f"{kind.removesuffix('Img2Img')}PAG{kind.removeprefix('3')}")
    if kind == "Img2Img":
        guided["pipeline"]["arguments"] |= {"image": "previous_result:first", "strength": 1.0}
    guided_document = document(first, guided) if kind == "Img2Img" else document(guided)
    before, drawn = bench.run(plain), bench.run(guided_document)
    assert same(before, bench.run(plain))

    def cancel_while_denoising(event: Event) -> None:
        if isinstance(event, StepProgress) and event.step == "draw":
            bench.cancel(event.run_id)

    bench.when = cancel_while_denoising
    assert isinstance(bench.run(guided_document).terminal, RunCancelled)
    bench.when = lambda _event: None
    assert same(before, bench.run(plain))
    assert same(drawn, bench.run(guided_document))
