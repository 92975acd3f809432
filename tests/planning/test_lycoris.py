"""LoHa, LoKr and DoRA files that could not be applied as a whole are refused while planning."""

from __future__ import annotations

import pytest

from tests.plan_bench import Bench, drawing, safetensors, step

AT = "steps[0].pipeline.loras[0].model_name"
UNET, TEXT = (
    "lora_unet_down_blocks_0_resnets_0_conv1",
    "lora_te_text_model_encoder_layers_0_mlp_fc1",
)
LOHA = [f"{UNET}.hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b")]


def problems(bench: Bench, *names: str, kind: str = "StableDiffusionPipeline") -> dict[str, str]:
    safetensors(bench.workflows / "x.safetensors", **dict.fromkeys(names, 4))
    lora = {"model_name": "./x.safetensors"}
    return bench.problems(
        drawing(steps=[step(loras=[lora], configuration={"component_type": kind})])
    )


@pytest.mark.parametrize(
    "names",
    [
        [*LOHA, f"{UNET}.alpha"],
        [*LOHA, f"{UNET}.hada_t1", f"{UNET}.hada_t2"],
        [f"{TEXT}.lokr_w1", f"{TEXT}.lokr_w2_a", f"{TEXT}.lokr_w2_b", f"{TEXT}.alpha"],
        [f"{TEXT}.lora_up.weight", f"{TEXT}.lora_down.weight", f"{TEXT}.dora_scale"],
        [*LOHA, f"{UNET}.dora_scale", f"{TEXT}.lora_up.weight", f"{TEXT}.lora_down.weight"],
    ],
)
def test_whole_file_is_planned(bench: Bench, names: list[str]):
    safetensors(bench.workflows / "x.safetensors", **dict.fromkeys(names, 4))
    assert bench.plan(drawing(steps=[step(loras=[{"model_name": "./x.safetensors"}])])).steps


def test_file_without_some_factors_is_refused(bench: Bench):
    assert problems(bench, *LOHA[:3], f"{UNET}.alpha") == {
        AT: (
            f"The LoHa file 'x.safetensors' is not complete: of '{UNET}' it has only alpha,"
            " hada_w1_a, hada_w1_b, hada_w2_a. Download it again."
        )
    }


@pytest.mark.parametrize("other", [f"{UNET}.diff_b", f"{TEXT}.w_norm", f"{UNET}.oft_blocks"])
def test_file_with_tensors_of_another_kind_is_refused(bench: Bench, other: str):
    assert problems(bench, *LOHA, other) == {
        AT: (
            "The LoHa file 'x.safetensors' also has tensors of another kind, which are not applied"
            f" here: '{other}'. Take a file without them."
        )
    }


def test_file_with_other_names_is_refused(bench: Bench):
    (message,) = problems(bench, "unet.conv_in.hada_w1_a").values()
    assert message.startswith(
        "The LoHa file 'x.safetensors' has other names than those of kohya-ss and LyCORIS:"
        " 'unet.conv_in.hada_w1_a'."
    )


@pytest.mark.parametrize(("kind", "factor"), [("LoHa", "hada_w1_a"), ("LoKr", "lokr_w1")])
def test_pipeline_without_unet_refuses_it(bench: Bench, kind: str, factor: str):
    found = problems(bench, f"{UNET}.{factor}", kind="FluxPipeline")
    assert found[AT] == (
        f"'x.safetensors' is a {kind} file, and this pipeline has no UNet. LoHa, LoKr, DoRA, LoCon"
        " of kohya-ss and LyCORIS are applied to Stable Diffusion 1, 2 and XL."
    )


def test_sequential_offload_refuses_it(bench: Bench):
    safetensors(bench.workflows / "x.safetensors", **dict.fromkeys(LOHA, 4))
    how = {"component_type": "StableDiffusionPipeline", "offload": "sequential"}
    lora = {"model_name": "./x.safetensors"}
    assert bench.problems(drawing(steps=[step(loras=[lora], configuration=how)])) == {
        AT: (
            "'x.safetensors' is a LoHa file, which cannot be applied with sequential offload. Use"
            " 'offload': 'model'."
        )
    }
