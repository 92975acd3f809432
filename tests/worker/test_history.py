"""A run's result does not depend on earlier runs.

After random histories of runs, cancels, failures, drops and Free, a workflow draws the same as in a
fresh process, to the last bit.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.dialect.fingerprint import tensor_shapes
from app.protocol import DropComponents, Event
from tests.standins.inversion import build_inversion
from tests.standins.ip_adapter import build_ip_adapter
from tests.standins.lycoris import Writer, save_lycoris
from tests.worker.bench import SHAPES, Bench, Document, document, pixels, step

OUTLINE = {"loras": [{"model_name": f"{SHAPES}/outline", "scale": 0.7}]}
LORA = OUTLINE["loras"][0]
TWO = {"loras": [{**LORA, "adapter_name": "one"}, {**LORA, "adapter_name": "two", "scale": -0.3}]}
INK = {"textual_inversions": [{"model_name": "./ink.safetensors", "token": "circle-ink"}]}
BY_BLOCK = {"unet": {"down": 0.3, "mid": 2}}
LOHA = {"model_name": "./loha.safetensors"}
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
INKED = "a red circle-ink star"
FIRST = {"image": "previous_result:first"}
FACE = {"model_name": "./face", "weight_name": "eye.safetensors"}
SEEN = {"ip_adapter_image": "previous_result:first"}
DRAW: dict[str, Document] = {
    "plain": document(step()),
    "lora": document(step(blocks=OUTLINE)),
    "weak lora": document(step(blocks={"loras": [{**LORA, "scale": 0.2}]})),
    "two loras": document(step(blocks=TWO)),
    "inversion": document(step(blocks=INK, prompt=INKED)),
    "its word without it": document(step(prompt=INKED)),
    "inversion, weighted, with a lora": document(
        step(
            blocks={
                **INK,
                **OUTLINE,
                "configuration": {
                    "component_type": "StableDiffusionPipeline",
                    "prompt_weighting": True,
                },
            },
            prompt="a (red circle-ink:1.4) star",
        )
    ),
    "loha": document(step(blocks={"loras": [{**LOHA, "scale": 0.6}]})),
    "lora and loha, by blocks": document(
        step(blocks={"loras": [{**LORA, "scale": BY_BLOCK}, {**LOHA, "scale": 2}]})
    ),
    "long prompt that changes": document(
        step(
            blocks={"configuration": {
                "component_type": "StableDiffusionPipeline", "prompt_weighting": True,
            }},
            prompt="a [red|blue] star above " + "a big circle " * 20,
        )
    ),
    "adapter for faces": document(
        step("first"), step("seeing", blocks={"ip_adapter": FACE}, **SEEN)
    ),
    "two ip-adapters, lora, loha and inversion": document(
        step("first"),
        step(
            "seeing",
            blocks={
                "ip_adapter": [FACE, {**FACE, "scale": 0.4}],
                "loras": [{**LORA, "scale": BY_BLOCK}, LOHA],
                **INK,
            },
            prompt=INKED,
            ip_adapter_image=["previous_result:first", "previous_result:first"],
        ),
    ),
    "lora then plain": document(step("first", blocks=OUTLINE), step("second")),
    "other scheduler": document(
        step(
            blocks={
                "scheduler": {
                    "configuration": {"scheduler_type": "DPMSolverMultistepScheduler"},
                }
            }
        )
    ),
    "variation": document(step("first"), step("again", kind="Img2Img", strength=0.9, **FIRST)),
    "tiled, larger": document(
        step(
            "first",
            width=192,
            blocks={"configuration": {
                "component_type": "StableDiffusionPipeline",
                "vae": {"enable_tiling": True, "enable_slicing": True},
            }},
            num_images_per_prompt=2,
        )
    ),
    "half the bytes": document(step(loading={"torch_dtype": "torch.bfloat16"})),
}  # fmt: skip
FAIL: dict[str, Document] = {
    # Fails when the LoRA is applied, after the first one is loaded.
    "not its lora": document(
        step(blocks={"loras": [*OUTLINE["loras"], {"model_name": f"{SHAPES}/vae"}]})
    ),
    # Fails in the pipeline's call, with the word in its prompt.
    "inversion with own timesteps": document(
        step("first", blocks=INK, prompt=INKED),
        step("again", kind="Img2Img", timesteps=[900, 500], blocks=INK, **FIRST),
    ),
    # Fails in the pipeline's call, after the prompt was encoded: its scheduler takes no timesteps.
    "own timesteps": document(
        step("first", blocks=OUTLINE),
        step("again", kind="Img2Img", timesteps=[900, 500], blocks=OUTLINE, **FIRST),
    ),
}


class Act(NamedTuple):
    """One action: a run, possibly cut off at one of its events, or freeing memory."""

    what: str
    cancel_at: int | None = None


RUNS = st.builds(Act, st.sampled_from([*DRAW, *FAIL]), st.none() | st.integers(1, 24))
HISTORIES = st.lists(RUNS | st.sampled_from([Act("free"), Act("drop one")]), max_size=5)


def add_adapters(folder: Path) -> None:
    """Writes the adapters that the workflows in this folder name."""
    (weights,) = (Path(SHAPES) / "unet").glob("*.safetensors")
    _, shape = tensor_shapes(weights)[f"{LAYER}.weight"]
    module = f"lora_unet_{LAYER.replace('.', '_')}"
    save_lycoris(folder / "loha.safetensors", {module: Writer().loha(shape)})
    build_ip_adapter(Path(SHAPES), folder / "face", "eye.safetensors", face=True)
    build_inversion(folder / "ink.safetensors", "emb_params", vectors=2, width=96)


def drawn(name: str, folder: Path) -> list[np.ndarray]:
    """Returns what this process draws for the workflow."""
    add_adapters(folder)
    return pixels(Bench(folder).run(DRAW[name]))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[np.ndarray]]:
    """Returns what each workflow draws in a fresh process."""
    context = multiprocessing.get_context("forkserver")
    # Forks of a process that has only imported torch: as fresh as a new one.
    context.set_forkserver_preload(["tests.worker.bench"])
    folder = tmp_path_factory.mktemp("fresh")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes:
        folders = [folder / str(number) for number in range(len(DRAW))]
        return dict(zip(DRAW, processes.map(drawn, DRAW, folders), strict=True))


@pytest.fixture(scope="module")
def new_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Bench]:
    def made() -> Bench:
        folder = tmp_path_factory.mktemp("history")
        add_adapters(folder)
        return Bench(folder)

    return made


def perform(bench: Bench, act: Act) -> None:
    """Does this; a cancel is sent at one of the run's events, a failure is intended."""
    if act.what == "free":
        bench.free()
    elif act.what == "drop one":
        keys = tuple(entry.key for entry in bench.runner.residency.entries[:1])
        bench.runner.drop(DropComponents(keys=keys, reason="the history says so"))
    else:
        events = itertools.count(1)

        def cancel_in_time(event: Event) -> None:
            if (run_id := getattr(event, "run_id", "")) and next(events) == act.cancel_at:
                bench.cancel(run_id)

        bench.when = cancel_in_time
        ended = bench.run({**DRAW, **FAIL}[act.what]).terminal
        bench.when = lambda _event: None
        assert ended.type == "run_cancelled" or (ended.type == "run_failed") == (act.what in FAIL)
    assert all(entry.leases == 0 for entry in bench.runner.residency.entries)


# diffusers' solver passes tensors to NumPy in a deprecated way.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@settings(
    max_examples=20,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=HISTORIES, last=st.sampled_from([*DRAW]))
def test_workflow_result_does_not_depend_on_earlier_runs(
    expected: dict[str, list[np.ndarray]],
    new_bench: Callable[[], Bench],
    history: list[Act],
    last: str,
):
    bench = new_bench()
    for act in history:
        perform(bench, act)
    for name in (last, last):
        for picture, wanted in zip(pixels(bench.run(DRAW[name])), expected[name], strict=True):
            assert np.array_equal(picture, wanted)
