"""Tasks with models: results, and models held like those of pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.protocol import (
    Event,
    Loading,
    PhaseChanged,
    RunCancelled,
    RunFailed,
    StepProgress,
    StepRemembered,
)
from tests.doubles.accelerator import Accelerator
from tests.engines import Finished
from tests.standins.language import build_seeing_writer, build_vision_model
from tests.standins.qwen import build_writer, build_zimage
from tests.standins.task_models import build_task_models
from tests.worker.bench import Bench, Document, document, pixels, same

SIZE = (48, 32)
LANGUAGE, VISION = "Qwen/Qwen2.5-1.5B-Instruct", "HuggingFaceTB/SmolVLM-256M-Instruct"
NOISE = {"stability_score_thresh": 0.0, "points_per_side": 4}
"""SAM's stand-in draws masks of noise."""

PICTURES: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("depth", {"width": 40, "height": 24}, (40, 24)),
    ("depth_estimator", {}, SIZE),
    ("midas", {"detect_resolution": 64, "image_resolution": 128}, (256, 128)),
    ("zoe", {"detect_resolution": 64, "image_resolution": 64}, (128, 64)),
    ("zoe_depth", {}, SIZE),
    ("segmentation", {}, SIZE),
    ("segment", {"prompt": "A cat", "threshold": 0.0}, SIZE),
    ("sam", {"detect_resolution": 64, "image_resolution": 64, **NOISE}, (128, 64)),
]
"""Image tasks with arguments and the size of their results."""


@pytest.fixture(scope="session")
def task_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny models under the tasks' default names. Read-only."""
    folder = tmp_path_factory.mktemp("task-models")
    build_task_models(folder)
    return folder


@pytest.fixture
def tasks(bench: Bench, task_models: Path) -> Bench:
    """A bench with these models, and an image `seen.png`."""
    bench.models = task_models
    Image.effect_noise(SIZE, 80).convert("RGB").save(bench.folder / "seen.png")
    return bench


def doing(command: str, name: str = "do", *, saved_as: str = "image/png", **arguments: Any):
    task = {"command": command, "arguments": arguments}
    return {"name": name, "task": task, "result": {"content_type": saved_as}}


def looking(command: str, name: str = "do", **arguments: Any) -> Document:
    return doing(command, name, image="seen.png", **arguments)


def telling(**arguments: Any) -> Document:
    return doing("text_generation", saved_as="text/plain",
                 **{"prompt": "a cat", "max_new_tokens": 6, **arguments})  # fmt: skip


def texts(finished: Finished) -> list[str]:
    assert finished.success
    return [result.text for result in finished.results]


def held(bench: Bench) -> list[str]:
    return sorted(entry.title.partition(" (")[0] for entry in bench.runner.residency.entries)


@pytest.mark.parametrize(("command", "arguments", "size"), PICTURES)
def test_task_model_is_loaded_once(
    tasks: Bench, command: str, arguments: dict[str, Any], size: tuple[int, int]
):
    wanted = document(looking(command, **arguments))
    cold, warm = tasks.run(wanted), tasks.run(wanted)
    with Image.open(cold.results[0].path) as picture:
        assert picture.size == size
        assert picture.mode == ("L" if command == "segment" else "RGB")
    assert np.ptp(pixels(cold)[0]) > 0
    assert any("model of" in t or "segmenter of" in t for t in cold.success.loaded)
    assert warm.success.loaded == ()
    assert same(cold, warm)


def test_segment_mask_can_be_inverted_and_is_black_if_empty(tasks: Bench):
    def mask(**arguments: Any) -> np.ndarray:
        (found,) = pixels(tasks.run(document(looking("segment", prompt="a cat", **arguments))))
        return found

    found = mask(threshold=0.0)
    assert set(np.unique(found)) == {0, 255}
    assert np.array_equal(mask(threshold=0.0, invert=True), 255 - found)
    assert not mask(threshold=1.0).any()


def test_depth_tensor_is_a_controlnet_hint(tasks: Bench):
    hint = looking("depth_estimator_tensor", "hint", dtype="torch.float16")
    del hint["result"]
    size = doing("gather_inputs", saved_as="application/json", size="previous_result:hint.shape")
    (found,) = texts(tasks.run(document(hint, size)))
    assert found == f'{{"size": [1, 3, {SIZE[1]}, {SIZE[0]}]}}'
    wrong = {**looking("depth_estimator_tensor"), "result": {"content_type": "image/png"}}
    assert "makes a tensor, which cannot be saved as image/png" in refused(tasks, wrong)


def refused(bench: Bench, *steps: Document) -> str:
    from app.errors import BadRequest

    with pytest.raises(BadRequest) as caught:
        bench.plan(document(*steps))
    return " ".join(f"{p.place}: {p.message} {p.hint}" for p in caught.value.problems)


# --- texts ---------------------------------------------------------------------------------------


def test_text_generation_is_greedy_and_reports_tokens(tasks: Bench):
    first, second = tasks.run(document(telling()), seed=1), tasks.run(document(telling()), seed=2)
    # The published model samples by default; the task does not.
    assert texts(first) == texts(second) != [""]
    progress = [event for event in first.events if isinstance(event, StepProgress)]
    assert [(event.done, event.total) for event in progress] == [(n, 6) for n in range(1, 7)]


def test_sampled_text_depends_on_seed_only(tasks: Bench):
    drawn = document(telling(generate_kwargs={"do_sample": True, "temperature": 5.0}))
    before = torch.get_rng_state()
    first, again, other = (texts(tasks.run(drawn, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


def test_vision_model_is_shared_between_tasks(tasks: Bench):
    steps = [
        looking("image_to_text", "caption", saved_as="text/plain", max_new_tokens=4),
        {**telling(image="seen.png", prompt="previous_result:caption"), "name": "more"},
    ]
    finished = tasks.run(document(*steps))
    assert all(texts(finished))
    assert len(finished.success.loaded) == 3
    assert held(tasks) == [f"{part} of SmolVLM-256M-Instruct"
                           for part in ("image_processor", "model", "tokenizer")]  # fmt: skip


def test_image_to_text_depends_on_image(tasks: Bench):
    Image.new("RGB", SIZE, "red").save(tasks.folder / "other.png")
    one, other = (
        tasks.run(document(doing("image_to_text", image=name, saved_as="text/plain")))
        for name in ("seen.png", "other.png")
    )
    assert texts(one) != texts(other)


def test_text_generation_depends_on_prompt(tasks: Bench):
    told = [
        texts(tasks.run(document(telling(**more))))
        for more in ({}, {"system_prompt": "Be brief."}, {"prompt": "two dogs"})
    ]
    assert len({text for (text,) in told}) == 3


def test_vision_model_with_video_processor_needs_no_torchvision(tasks: Bench):
    build_seeing_writer(tasks.folder / "qwen-vl")
    step = looking("image_to_text", saved_as="text/plain", model_name="qwen-vl", max_new_tokens=4)
    first = tasks.run(document(step))
    Image.new("RGB", SIZE, "red").save(tasks.folder / "seen.png")
    assert texts(first) != texts(tasks.run(document(step)))


def test_cached_text_is_not_generated_again(tasks: Bench):
    gathered = {"name": "list", "task": {"command": "gather_inputs", "arguments": {}}}
    for number, again in ((1, False), (2, True)):
        gathered["task"]["arguments"] = {"text": "previous_result:do", "number": number}
        finished = tasks.run(document(telling(), gathered), fresh=False)
        remembered = [e.step for e in finished.events if isinstance(e, StepRemembered)]
        assert remembered == (["do"] if again else [])


def test_task_model_load_is_reported_in_bytes(tasks: Bench):
    finished = tasks.run(document(looking("depth")))
    told = [event for event in finished.events if isinstance(event, Loading)]
    assert [event.component for event in told] == ["model"] * 2 + ["image_processor"] * 2
    assert told[-1].loaded_bytes == told[-1].total_bytes > 100_000


# --- the table of what is held -------------------------------------------------------------------


def test_task_model_is_listed_counted_and_freed(tasks: Bench):
    tasks.run(document(looking("depth")))
    (model,) = [e for e in tasks.runner.residency.described() if e.weight_bytes]
    assert model.title == "model of dpt-hybrid-midas (float32)"
    assert model.used_by == ("test",)
    assert tasks.runner.residency.bytes_in("device") == model.weight_bytes
    tasks.free()
    assert held(tasks) == []
    assert (
        "model of dpt-hybrid-midas (float32)"
        in tasks.run(document(looking("depth"))).success.loaded
    )


def test_task_model_is_shared_with_pipeline_text_encoder(tasks: Bench):
    """A Qwen 3 writes the prompt and encodes it for Z-Image."""
    build_zimage(tasks.folder / "drawer")
    build_writer(tasks.folder / "qwen3")
    text_encoder = {
        "configuration": {"component_type": "transformers.Qwen3ForCausalLM"},
        "from_pretrained_arguments": {"model_name": "qwen3"},
    }
    drawing = {
        "name": "draw",
        "pipeline": {
            "configuration": {"component_type": "ZImagePipeline"},
            "from_pretrained_arguments": {"model_name": "drawer"},
            "text_encoder": text_encoder,
            "arguments": {
                "prompt": "previous_result:do", "num_inference_steps": 2, "width": 32, "height": 32,
            },
        },
    }  # fmt: skip
    finished = tasks.run(document(telling(model_name="qwen3"), drawing))
    loaded = [title for title in finished.success.loaded if " of qwen3 " in title]
    assert sorted(loaded) == ["model of qwen3 (float32)", "tokenizer of qwen3 (float32)"]
    assert not any(title.startswith("text_encoder") for title in finished.success.loaded)


def test_task_model_is_released_after_its_step(tasks: Bench):
    depth, again = looking("depth", "first"), looking("midas", "second")
    segmentation = looking("segmentation", "third")
    tasks.run(document(depth | {"release_models": True}, segmentation))
    assert held(tasks) == [f"{part} of upernet-convnext-small"
                           for part in ("image_processor", "model")]  # fmt: skip
    finished = tasks.run(document(depth | {"release_models": True}, again))
    assert [t for t in finished.success.loaded if t.startswith("model")] == [
        "model of dpt-hybrid-midas (float32)"
    ]
    tasks.run(document(depth, segmentation, again | {"release_models": True}))
    assert held(tasks) == []


def test_task_on_cpu_computes_in_ram(tmp_path: Path, tasks: Bench):
    device = Accelerator()
    other = Bench(tmp_path / "other", device)
    other.models, other.folder = tasks.models, tasks.folder
    finished = other.run(document(looking("depth", device="cpu")))
    assert finished.success.loaded[0] == "model of dpt-hybrid-midas (float32)"
    (model,) = [e for e in other.runner.residency.described() if e.weight_bytes]
    assert (model.place, device.moves) == ("ram", [])
    assert same(finished, tasks.run(document(looking("depth"))))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [*((command, arguments) for command, arguments, _ in PICTURES), ("image_to_text", {})],
)
def test_task_models_use_half_precision_on_accelerator(
    tmp_path: Path, tasks: Bench, command: str, arguments: dict[str, Any]
):
    device = Accelerator()
    other = Bench(tmp_path / "other", device)
    other.models, other.folder = tasks.models, tasks.folder
    saved_as = "text/plain" if command == "image_to_text" else "image/png"
    finished = other.run(document(looking(command, saved_as=saved_as, **arguments)))
    heavy = [entry for entry in other.runner.residency.described() if entry.weight_bytes]
    assert finished.results
    assert all(entry.title.endswith("(float16)") for entry in heavy)
    assert {place for _, place in device.moves} == {"device"}
    assert len(device.moves) == len(heavy)


# --- what goes wrong -----------------------------------------------------------------------------


def test_cancel_ends_task_during_its_call(tasks: Bench):
    def cancel(event: Event) -> None:
        if isinstance(event, StepProgress) and event.done == 3:
            tasks.cancel(event.run_id)

    expected = texts(tasks.run(document(telling())))
    tasks.when = cancel
    ended = tasks.run(document(telling(max_new_tokens=500)))
    assert isinstance(ended.terminal, RunCancelled)
    assert ended.terminal.phase == "computing"
    progress = [event for event in ended.events if isinstance(event, StepProgress)]
    assert progress[-1].done == 3
    tasks.when = lambda _event: None
    after = tasks.run(document(telling()))
    assert after.success.loaded == ()
    assert texts(after) == expected


def test_task_phases_are_loading_computing_saving(tasks: Bench):
    finished = tasks.run(document(looking("depth")))
    phases = [event.phase for event in finished.events if isinstance(event, PhaseChanged)]
    assert phases == ["loading", "computing", "saving"]


def test_task_model_without_safetensors_is_reported(tasks: Bench):
    build_vision_model(tasks.folder / "pickled")
    (tasks.folder / "pickled" / "model.safetensors").rename(
        tasks.folder / "pickled" / "pytorch_model.bin"
    )
    step = looking("image_to_text", saved_as="text/plain", model_name="pickled")
    ended = tasks.run(document(step)).terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.message.startswith("'pickled' has no safetensors weights")


def test_task_model_of_wrong_kind_is_reported(tasks: Bench):
    ended = tasks.run(document(looking("depth", model_name=LANGUAGE))).terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.message == (
        f"'{LANGUAGE}' is no model that transformers knows for this task"
        " (AutoModelForDepthEstimation)."
    )


def built_in(name: str, **arguments: Any) -> Document:
    return {
        "name": "ask",
        "workflow": {"path": f"builtin:{name}.json", "arguments": arguments},
        "result": {"content_type": "text/plain"},
    }


@pytest.mark.parametrize(
    "step",
    [
        built_in("augment_prompt", prompt="a cat", max_new_tokens=6),
        built_in("describe_image", image="variable:image", max_new_tokens=6),
        built_in("h3_context_ir", prompt="a storm", model_name=LANGUAGE, max_new_tokens=6),
    ],
    ids=lambda step: step["workflow"]["path"],
)
def test_prompt_workflows_return_text(tasks: Bench, step: Document):
    (text,) = texts(tasks.run(document(step, variables={"image": "seen.png"})))
    assert text
