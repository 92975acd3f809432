"""Users are told what changed a result that they would not expect."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.api.script_events import script_event
from app.planning.loading_arguments import FLOAT16_WARNING
from app.protocol import Noticed
from app.worker.device import Device
from app.worker.steps.notices import MAX_WARNINGS, plan_notices, size_notice
from app.worker.steps.step_output import CallOutput
from tests.doubles.accelerator import Accelerator
from tests.engines import Finished, notices, run, started_engine
from tests.standins import (
    build_flux,
    build_ltx,
    build_lumina2,
    build_qwen_image,
    build_sana,
    build_sd3,
    build_zimage,
)
from tests.worker.bench import SHAPES, Bench, Document, document, step

LONG = " ".join(["a red circle"] * 20)
"""More tokens than the bundled model's 32."""


def drawn(bench: Bench, **arguments: Any) -> list[str]:
    return notices(bench.run(document(step(**arguments))))


# --- prompts that are cut off --------------------------------------------------------------------


def test_end_of_long_prompt_that_is_not_read_is_quoted(bench: Bench):
    (sentence,) = drawn(bench, prompt=f"{LONG} and a Yellow star, at 5:30!")
    assert sentence.startswith("The prompt is too long for the model, which does not read: '")
    assert sentence.endswith("a red circle and a Yellow star, at 5:30!'.")


def test_prompt_within_the_limit_has_no_notice(bench: Bench):
    # 30 tokens between the begin and the end.
    assert drawn(bench, prompt=" ".join(["red"] * 30)) == []
    assert len(drawn(bench, prompt=" ".join(["red"] * 31))) == 1


def test_negative_prompt_and_each_prompt_of_a_list_are_checked(bench: Bench):
    (sentence,) = drawn(bench, negative_prompt=LONG)
    assert sentence.startswith("The negative prompt is too long")
    assert len(drawn(bench, prompt=["a red circle", LONG, f"{LONG} blue"])) == 2


def test_weighted_prompt_is_read_whole(bench: Bench):
    weighted = step(prompt=f"{LONG} (star:1.3)")
    weighted["pipeline"]["configuration"]["prompt_weighting"] = True
    assert notices(bench.run(document(weighted))) == []


def test_prompt_that_one_of_two_encoders_reads_whole_has_no_notice(bench: Bench, tmp_path: Path):
    build_flux(tmp_path / "flux")

    def flux(**arguments: Any) -> Document:
        made = step(model=tmp_path / "flux", width=16, height=16, **arguments)
        made["pipeline"]["configuration"]["component_type"] = "FluxPipeline"
        return document(made)

    words = " ".join(["circle"] * 40)
    assert notices(bench.run(flux(prompt=words))) == []
    (sentence,) = notices(bench.run(flux(prompt=words, max_sequence_length=16)))
    assert "does not read: '" in sentence


BUILT: dict[str, tuple[Callable[..., None], str]] = {
    "Sana": (build_sana, "SanaPipeline"),
    "Lumina 2": (build_lumina2, "Lumina2Pipeline"),
    "Z-Image": (build_zimage, "ZImagePipeline"),
    "Qwen-Image": (build_qwen_image, "QwenImagePipeline"),
    "SD 3": (build_sd3, "StableDiffusion3Pipeline"),
    "LTX": (build_ltx, "LTXPipeline"),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", BUILT)
def test_prompt_that_a_language_model_does_not_read_whole_is_told(bench: Bench, family: str):
    build, kind = BUILT[family]
    build(bench.folder / "model")

    def drawn_by(prompt: str) -> Finished:
        frames = {"num_frames": 9} if family == "LTX" else {}
        made = step(
            model=bench.folder / "model",
            saved_as="video/mp4" if frames else "image/png",
            prompt=prompt,
            width=32,
            height=32,
            max_sequence_length=128,
            **frames,
        )
        made["pipeline"]["configuration"]["component_type"] = kind
        return bench.run(document(made))

    assert notices(drawn_by("a red circle")) == []
    (sentence,) = notices(drawn_by("red circle " * 100 + "and a Yellow star"))
    assert sentence.startswith("The prompt is too long for the model, which does not read: '")
    assert "red circle" in sentence


def test_notice_is_in_log_and_record_and_repeated_for_a_cached_result(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    first = bench.run(document(step(prompt=LONG)))
    again = bench.run(document(step(prompt=LONG)), fresh=False)
    assert again.success.made_at is not None
    for finished in (first, again):
        (result,) = finished.results
        assert json.loads(Path(result.sidecar).read_text())["notices"] == notices(finished)
    assert notices(first) == notices(again) != []
    assert caplog.text.count(notices(first)[0]) == 2
    (event,) = [event for event in first.events if isinstance(event, Noticed)]
    assert script_event(event) == {"event": "notice", "step": "draw", "message": event.sentence}


def test_answer_from_earlier_files_repeats_the_notice(tmp_path: Path):
    with started_engine(tmp_path) as engine:
        flow = Path(__file__).parents[2] / "workflows" / "text-to-image.json"
        asked = [
            run(engine, flow, {"prompt": LONG, "steps": 1}, seed=7, fresh=False) for _ in range(2)
        ]
    assert asked[1].success.made_at is not None
    assert notices(asked[0]) == notices(asked[1]) != []


# --- warnings about the workflow -----------------------------------------------------------------

WARNED: dict[str, tuple[Document, str]] = {
    "an idle key": (
        {"blocks": {"scheduler": {
            "configuration": {"scheduler_type": "DDIMScheduler", "use_karras_sigmas": True}
        }}},
        "The key 'use_karras_sigmas' is not known",
    ),
    "attention in slices": (
        {"kind": ""}, "Attention in slices takes more memory here than without",
    ),
    "a placement": ({"kind": ""}, "decide nothing about where components lie"),
}  # fmt: skip
SET: dict[str, Document] = {
    "an idle key": {},
    "attention in slices": {"enable_attention_slicing": True},
    "a placement": {"device": "cuda"},
}


@pytest.mark.parametrize("device", [None, Accelerator()], ids=["CPU", "accelerator"])
@pytest.mark.parametrize("case", WARNED)
def test_warning_about_the_workflow_is_told_on_every_device(
    case: str, device: Device | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    options, told = WARNED[case]
    made = step(**options)
    made["pipeline"]["configuration"] |= SET[case]
    bench = Bench(tmp_path, device)
    finished = bench.run(document(made))
    (sentence,) = notices(finished)
    assert told in sentence
    assert caplog.messages.count(sentence) == 1
    (result,) = finished.results
    assert json.loads(Path(result.sidecar).read_text())["notices"] == [sentence]
    again = bench.run(document(made), fresh=False)
    assert again.success.made_at is not None
    assert notices(again) == [sentence]


@pytest.mark.parametrize(("accelerator", "told"), [(False, True), (True, False)])
def test_float16_is_warned_of_on_a_cpu_alone(accelerator: bool, told: bool):
    found = [*plan_notices((FLOAT16_WARNING, "another"), accelerator=accelerator)]
    assert found == ([FLOAT16_WARNING, "another"] if told else ["another"])


@pytest.mark.parametrize("accelerator", [False, True])
def test_very_many_warnings_are_counted(accelerator: bool):
    found = [*plan_notices([f"w{n}" for n in range(MAX_WARNINGS + 3)], accelerator=accelerator)]
    assert found[:-1] == [f"w{n}" for n in range(MAX_WARNINGS)]
    assert found[-1].startswith("There are 3 more warnings")


# --- syntax of other programs --------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag", ["<lora:my style:0.8>", "<lora:x>", "<lyco:a-b:1:0.5>", "<LoRA:x:1>", "< lora : x:1>"]
)
def test_lora_in_a_prompt_is_said_to_be_words(bench: Bench, tag: str):
    assert drawn(bench, prompt=f"red {tag}") == [
        f"'{tag}' in the prompt is read as words: a LoRA is loaded by the document's 'loras'."
    ]


@pytest.mark.parametrize("word", ["embedding:easynegative", "Embedding:style/ink-2.pt"])
def test_embedding_in_a_prompt_is_said_to_be_words(bench: Bench, word: str):
    (sentence,) = drawn(bench, negative_prompt=f"red, {word}, blue")
    assert sentence.startswith(f"'{word}' in the negative prompt is read as words: an embedding is")


@pytest.mark.parametrize("weighted", ["(red:1.3)", "(a red circle:0.5)", "(red: 2)"])
def test_weight_in_a_prompt_is_said_to_be_words(bench: Bench, weighted: str):
    assert drawn(bench, prompt=f"a {weighted} star") == [
        f"'{weighted}' in the prompt is read as words: weights need 'prompt_weighting' in the"
        " pipeline's configuration."
    ]


@pytest.mark.parametrize(
    "prompt",
    ["a <3 b", "lora: a circle", "(red)", "at 10:30 (red)", "a:1.3", "embedding: a circle"],
)
def test_ordinary_text_has_no_notice(bench: Bench, prompt: str):
    assert drawn(bench, prompt=prompt) == []


# --- sizes ---------------------------------------------------------------------------------------


def varied(bench: Bench, size: tuple[int, int], **arguments: Any) -> list[str]:
    path = bench.folder / "given.png"
    Image.new("RGB", size, "red").save(path)
    return drawn(bench, kind="Img2Img", strength=0.6, image=str(path), **arguments)


def test_rounded_size_is_told(bench: Bench):
    (sentence,) = varied(bench, (101, 67))
    assert sentence.startswith("The picture of 101 x 67 pixels was drawn with 96 x 64: ")
    (sentence,) = varied(bench, (64, 71))
    assert sentence.startswith("The picture of 64 x 71 pixels was drawn with 64 x 64: ")
    assert varied(bench, (96, 64)) == []


def test_squeezed_picture_is_told():
    """Pipelines that draw in the size of their model (FLUX's image to image)."""
    drawn_square = [CallOutput({"images": [Image.new("RGB", (128, 128))]})]
    wide = Image.new("RGB", (256, 128))
    assert size_notice({"image": wide}, drawn_square) == (
        "The picture of 256 x 128 pixels was drawn with 128 x 128, which squeezes it: set 'width'"
        " and 'height' to keep its shape."
    )
    assert size_notice({"image": wide, "width": 128, "height": 128}, drawn_square) == ""


# --- variants ------------------------------------------------------------------------------------


def test_missing_variant_is_told_for_each_component_without_it(bench: Bench, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(SHAPES, model)
    (unet,) = (model / "unet").glob("*.safetensors")
    shutil.copyfile(unet, unet.with_name("diffusion_pytorch_model.fp16.safetensors"))

    def asking(variant: str | None) -> list[str]:
        made = document(step(model=model, loading={"variant": variant} if variant else {}))
        return notices(bench.run(made))

    assert asking("fp16") == [
        f"The {name} of 'model' has no files of the variant 'fp16': its usual ones are used."
        for name in ("vae", "text_encoder")
    ]
    assert len(asking("bf16")) == 3
    assert asking(None) == []
