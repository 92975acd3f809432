"""Every optional argument of a pipeline's call that JSON can express, on stand-ins of its model.

All of them are given in one call; those that exclude each other, and those that fail with diffusers
alone too, in a call of their own.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from PIL import Image

from app.dialect.installed.signatures import Parameter, call_signature
from app.dialect.plan import PipelineStep
from app.models.resolve import component_specs
from app.models.specs import local_folder
from app.planning.calls import GIVEN_BY_RUNNER, json_kinds
from tests.corpus.bench import make_media
from tests.corpus.more import MORE
from tests.corpus.own import MASK, OWN, PICTURE, Document
from tests.standins import StandIns
from tests.worker.bench import Bench

# A worker ignores deprecations inside its libraries; pytest would not.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
VALUES: dict[str, Any] = {
    "aesthetic_score": 5.0, "attention_kwargs": {"scale": 0.5}, "audio_guidance_rescale": 0.5,
    "audio_guidance_scale": 2.0, "audio_modality_scale": 1.0, "audio_stg_scale": 0.0,
    "batch_size": 1, "cfg_normalization": True, "cfg_trunc_ratio": 0.5, "cfg_truncation": 0.5,
    "clean_caption": False, "clip_skip": 1, "complex_human_instruction": ["Draw it."],
    "control_guidance_end": 0.9, "control_guidance_start": 0.1,
    "controlnet_conditioning_scale": 0.5, "crops_coords_top_left": [8, 8],
    "cross_attention_kwargs": {"scale": 0.5}, "decode_chunk_size": 1, "decode_noise_scale": 0.02,
    "decode_timestep": 0.05, "denoising_end": 0.9, "denoising_start": 0.1, "ensemble_size": 1,
    "ensembling_kwargs": {}, "eta": 0.5, "fps": 8, "frame_rate": 24, "guess_mode": True,
    "guidance_rescale": 0.5, "guidance_scale": 3.0, "guidance_schedule": [4.0, 2.0],
    "joint_attention_kwargs": {"scale": 0.5}, "match_input_resolution": False,
    "max_guidance_scale": 2.0, "max_seconds": 20.0, "min_seconds": 1.0, "motion_speed": 1.0,
    "max_sequence_length": 64, "min_guidance_scale": 1.0,
    "modality_scale": 1.0, "motion_bucket_id": 100, "mu": 1.0, "negative_aesthetic_score": 2.0,
    "negative_crops_coords_top_left": [8, 8], "negative_original_size": [64, 64],
    "negative_prompt": "blurred", "negative_prompt_2": "blurred", "negative_prompt_3": "blurred",
    "negative_target_size": [64, 64], "noise_aug_strength": 0.1, "noise_scale": 0.1,
    "num_images_per_prompt": 2, "num_videos_per_prompt": 2, "original_size": [64, 64],
    "output_type": "{np}", "padding_mask_crop": 8, "pag_adaptive_scale": 0.1, "pag_scale": 2.0,
    "prior_guidance_scale": 2.0, "prior_num_inference_steps": 2, "prompt_2": "a hen",
    "prompt_3": "a hen", "resample_method_input": "bilinear", "resample_method_output": "bilinear",
    "sigmas": [1.0, 0.5], "skip_guidance_layers": [0], "skip_layer_guidance_scale": 2.0,
    "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.9, "std": 1.0,
    "strength": 0.9, "system_prompt": "You draw.", "target_size": [64, 64],
    "timesteps": [900, 400], "true_cfg_scale": 2.0, "use_dynamic_cfg": True,
    "use_resolution_binning": False,
}  # fmt: skip
"""A value of each argument, other than its default where one can be told apart."""
LEFT_OUT = {
    # Given by the documents, where the pipeline needs them.
    "control_image", "height", "image", "mask_image", "max_area", "num_frames",
    "num_inference_steps", "processing_resolution", "prompt", "width", "_auto_resize",
    # Only earlier steps, or other parts of a step, make them.
    "ip_adapter_image", "negative_ip_adapter_image", "latents", "masked_image_latents",
    # Of a model's own language model, in which a stand-in has nothing to say.
    "caption_upsample_temperature", "enable_prompt_enhancement", "prompt_enhancement_kwargs",
    "prompt_enhancement_seed", "prompt_max_new_tokens", "prompt_upsampling",
    "prompt_upsampling_temperature", "use_pe",
    # Numbers of layers of the real models; texts that frame a prompt for them.
    "prompt_template", "spatio_temporal_guidance_blocks", "stg_scale", "text_encoder_out_layers",
    # Of models with two denoisers, or of a result that is no picture.
    "guidance_scale_2", "output_latent", "output_uncertainty", "return_dict", "return_index",
    "use_cross_timestep",
}  # fmt: skip
ALONE = {"timesteps", "sigmas", "guidance_schedule", "padding_mask_crop"}
"""Arguments in whose place others are given."""
INSTEAD_OF = {
    "timesteps": ("num_inference_steps",),
    "sigmas": ("num_inference_steps",),
    "guidance_schedule": ("guidance_scale",),
}
"""What a document leaves out for them."""
FAIL = {
    ("SanaPipeline", "timesteps"): "its scheduler's flow sigmas have no own timesteps",
    ("MochiPipeline", "timesteps"): "it gives its scheduler sigmas of its own beside them",
    ("LTXPipeline", "timesteps"): "it gives its scheduler sigmas of its own beside them",
    ("LTXImageToVideoPipeline", "timesteps"): "it gives its scheduler sigmas beside them",
    ("LTX2Pipeline", "timesteps"): "it gives its scheduler sigmas of its own beside them",
    ("WanImageToVideoPipeline", "num_videos_per_prompt"): "it repeats no condition",
    ("HunyuanVideo15Pipeline", "num_videos_per_prompt"): "it repeats no condition",
    ("CogVideoXImageToVideoPipeline", "max_sequence_length"): "its positions are learnt for one",
    ("StableDiffusionXLInpaintPipeline", "sigmas"): "their number is cut by the strength",
    ("KolorsImg2ImgPipeline", "sigmas"): "their number is cut by the strength",
}
"""Arguments that fail with diffusers alone too, by document, and why."""
SCHEDULER = "does not support custom"
"""What diffusers says of timesteps and sigmas that a scheduler does not take."""
OTHERS = {
    "QwenImageEditPlusPipeline",  # It sees its images in a million pixels.
    "FluxPriorReduxPipeline-FluxPipeline",  # Embeddings stand for its prompts.
}
"""Documents that are not called here, beside those of modular pipelines, whose blocks take what
they name."""
DOCUMENTS: tuple[Document, ...] = tuple(
    document
    for document in (*(own.document for own in OWN), *MORE)
    if document["id"] not in OTHERS and "Modular" not in document["id"]
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, stand_ins: StandIns) -> Bench:
    folder = tmp_path_factory.mktemp("arguments")
    make_media(folder)
    bench = Bench(folder)
    bench.models = stand_ins.folder
    return bench


def optional_arguments(class_name: str) -> dict[str, Parameter]:
    """Returns the arguments of this pipeline's call that a document may leave out."""
    signature = call_signature(class_name)
    assert signature is not None, class_name
    found = {}
    for each in signature.parameters:
        kinds = json_kinds(each.annotation)
        is_given = each.name in GIVEN_BY_RUNNER or "callback" in each.name
        is_tensor = "embeds" in each.name or (kinds is not None and not kinds - {"None"})
        if not (is_given or is_tensor or each.required):
            found[each.name] = each
    return found


def pipeline_class(bench: Bench, document: Document) -> str:
    """Returns the class of the document's last pipeline, also of an automatic one."""
    steps: Any = bench.plan(document).steps
    assert isinstance(steps[-1], PipelineStep)
    return component_specs(steps[-1], local_folder).class_name


def given(document: Document, **arguments: Any) -> Document:
    """Returns the document with these arguments in its last step's call."""
    changed = copy.deepcopy(document)
    call = changed["steps"][-1]["pipeline"]["arguments"]
    for name in arguments:
        for other in INSTEAD_OF.get(name, ()):
            call.pop(other, None)
    call |= arguments
    return changed


def said_by_diffusers(bench: Bench, document: Document) -> str:
    """Returns the error of a pipeline's call without the workbench; the document has one step."""
    pipeline = bench.assembled(document)
    files = {PICTURE, MASK}
    call = {}
    for name, value in document["steps"][0]["pipeline"]["arguments"].items():
        if value in [*files]:
            with Image.open(bench.folder / value) as opened:
                call[name] = opened.convert("RGB")
        elif isinstance(value, str):
            call[name] = value.removeprefix("{").removesuffix("}")
        else:
            call[name] = value
    with pytest.raises(Exception) as caught:  # noqa: PT011  (of any kind)
        pipeline(**call)
    return str(caught.value)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["id"])
def test_every_argument_runs_or_fails_as_in_diffusers(
    bench: Bench, stand_ins: StandIns, document: Document
):
    stand_ins.add_named(document)
    name, known = document["id"], optional_arguments(pipeline_class(bench, document))
    base = document["steps"][-1]["pipeline"]["arguments"]
    assert not known.keys() - VALUES.keys() - LEFT_OUT, "give a value, or leave it out for a reason"
    values = {each: VALUES[each] for each in known if each in VALUES and each not in base}
    together = {
        each: value
        for each, value in values.items()
        if each not in ALONE and (name, each) not in FAIL
    }
    assert bench.run(given(document, **together)).success
    for each in values.keys() - together.keys():
        wanted = given(document, **{each: values[each]})
        ended = bench.run(wanted).terminal
        if ended.type == "run_succeeded":
            assert (name, each) not in FAIL
            continue
        assert ended.type == "run_failed"
        if SCHEDULER in ended.error.message and each in ("timesteps", "sigmas"):
            continue
        assert (name, each) in FAIL, ended.error.message
        assert said_by_diffusers(bench, wanted) in ended.error.message.replace("..", ".")


def test_values_and_failures_are_of_arguments_that_exist(bench: Bench, stand_ins: StandIns):
    known = {}
    for document in DOCUMENTS:
        stand_ins.add_named(document)
        known[document["id"]] = optional_arguments(pipeline_class(bench, document))
    named = set().union(*(each.keys() for each in known.values()))
    assert VALUES.keys() - named == set()
    assert LEFT_OUT - named == set()
    assert {(name, each) for name, each in FAIL if each not in known.get(name, {})} == set()
