"""A LoRA that was made for a transformer is refused for a pipeline with a UNet, in planning."""

from __future__ import annotations

import pytest

from tests.plan_bench import Bench, drawing, safetensors, step

AT = "steps[0].pipeline.loras[0].model_name"


@pytest.mark.parametrize(
    ("tensor", "family"),
    [
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "FLUX"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "FLUX"),
        ("double_blocks.0.processor.proj_lora1.down.weight", "FLUX"),
        ("diffusion_model.blocks.0.cross_attn.q.lora_A.weight", "Wan"),
        ("lora_unet_joint_blocks_0_context_block_attn_qkv.lora_down.weight", "Stable Diffusion 3"),
    ],
)
@pytest.mark.parametrize(
    "pipeline", ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "AnimateDiffPipeline"]
)
def test_lora_of_a_transformer_is_refused_for_a_unet(
    bench: Bench, tensor: str, family: str, pipeline: str
):
    safetensors(bench.workflows / "theirs.safetensors", **{tensor: 4})
    drawn = step(
        configuration={"component_type": pipeline},
        loras=[{"model_name": "./theirs.safetensors"}],
    )
    assert bench.problems(drawing(steps=[drawn]))[AT] == (
        f"The LoRA 'theirs.safetensors' was made for {family} by its tensors; the {pipeline} has"
        " a UNet, which takes none of them. Take a LoRA that was made for this pipeline's models."
    )


@pytest.mark.parametrize(
    "tensor",
    ["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
     "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
     "lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "other.lora_A.weight"],
)  # fmt: skip
def test_other_lora_is_planned(bench: Bench, tensor: str):
    safetensors(bench.workflows / "theirs.safetensors", **{tensor: 4})
    drawn = step(loras=[{"model_name": "./theirs.safetensors"}])
    assert bench.plan(drawing(steps=[drawn])).steps
