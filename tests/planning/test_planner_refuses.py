"""All mistakes of a document are reported with their places before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.dialect.document import OTHER_CALLS
from app.dialect.installed.names import NOT_HERE
from app.dialect.plan_values import DTypeValue, LiteralValue, ObjectValue, Value
from app.errors import InvalidInputs, InvalidWorkflow, UnknownWorkflow
from app.planning.planner import make_plan
from tests.plan_bench import MODEL, Bench, drawing, safetensors, step, told

PIPELINE = "steps[0].pipeline"
CLASS = f"{PIPELINE}.configuration.component_type"
LOADING = f"{PIPELINE}.from_pretrained_arguments"
ARGUMENTS = f"{PIPELINE}.arguments"


def with_arguments(**arguments: Any) -> dict[str, Any]:
    return drawing(steps=[step(arguments=arguments)])


def with_loading(**loading: Any) -> dict[str, Any]:
    return drawing(steps=[step(from_pretrained_arguments={"model_name": MODEL, **loading})])


def test_all_mistakes_are_reported(bench: Bench):
    wrong = step(
        from_pretrained_arguments={"model_name": "../models/tini", "torch_dtype": "int8"},
        arguments={"num_inference_steps": 0, "width": 100, "guidance_scale": "high"},
    )
    other = step("other", configuration={"component_type": "StableDifusionPipeline"})
    other["pipeline"]["arguments"] = {"prompt": "variable:promt", "image": "previous_result:drow"}
    error = bench.refused(drawing(steps=[wrong, other]))
    assert isinstance(error, InvalidWorkflow)
    assert told(error) == {
        f"{LOADING}.model_name": "There is no model folder '../models/tini'. Did you mean 'tiny'?",
        f"{LOADING}.torch_dtype": "'int8' is not a dtype to load weights in. "
        "Use one of torch.float32, torch.float16, torch.bfloat16.",
        f"{ARGUMENTS}.num_inference_steps": "0 is outside 1 to 1000.",
        f"{ARGUMENTS}.width": "100 is not a multiple of 8, which "
        "StableDiffusionPipeline needs. The nearest is 104.",
        f"{ARGUMENTS}.guidance_scale": "A number is needed, not 'high'.",
        "steps[1].pipeline.configuration.component_type": "'StableDifusionPipeline' is not a "
        "diffusers pipeline class. Did you mean 'StableDiffusionPipeline'?",
        "steps[1].pipeline.arguments.prompt": "There is no variable 'promt'. "
        "Did you mean 'prompt'?",
        "steps[1].pipeline.arguments.image": "There is no earlier step 'drow'. "
        "Did you mean 'draw'?",
    }


@pytest.mark.parametrize(
    ("pipeline", "typo", "right"),
    [
        ("StableDiffusionPipeline", "promt", "prompt"),
        ("StableDiffusionXLPipeline", "guidance_scal", "guidance_scale"),
        ("FluxPipeline", "num_inference_step", "num_inference_steps"),
        ("WanPipeline", "num_frame", "num_frames"),
    ],
)
def test_typo_in_argument_is_refused_with_nearest(
    bench: Bench, pipeline: str, typo: str, right: str
):
    document = drawing(
        steps=[step(configuration={"component_type": pipeline}, arguments={typo: 1})]
    )
    assert bench.problems(document) == {
        f"{ARGUMENTS}.{typo}": f"{pipeline} takes no '{typo}'. Did you mean '{right}'?"
    }


def test_arguments_of_diffusion_pipeline_are_checked(bench: Bench):
    document = drawing(
        steps=[
            step(configuration={"component_type": "DiffusionPipeline"}, arguments={"width": "wide"})
        ]
    )
    assert bench.problems(document) == {
        f"{ARGUMENTS}.width": "A whole number is needed, not 'wide'."
    }


def test_model_with_broken_index_is_refused(bench: Bench):
    (bench.model / "model_index.json").write_text('{"_class_name":')
    document = drawing(steps=[step(configuration={"component_type": "DiffusionPipeline"})])
    assert list(bench.problems(document)) == [f"{LOADING}.model_name"]


def test_missing_required_argument_is_reported(bench: Bench):
    configuration = {"component_type": "MarigoldDepthPipeline"}
    document = drawing(steps=[step(configuration=configuration, arguments={})])
    assert bench.problems(document) == {ARGUMENTS: "'image' is missing."}


@pytest.mark.parametrize("name", ["generator", "callback_on_step_end"])
def test_arguments_set_by_workbench_are_refused(bench: Bench, name: str):
    assert bench.problems(with_arguments(**{name: None})) == {
        f"{ARGUMENTS}.{name}": f"'{name}' is set by the workbench. Leave it out."
    }


def test_class_of_wrong_kind_is_refused(bench: Bench):
    document = drawing(steps=[step(configuration={"component_type": "AutoencoderKL"})])
    assert bench.problems(document) == {
        CLASS: "'AutoencoderKL' is a model; a pipeline class is needed here."
    }


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "subprocess.Popen", "torch.load"])
def test_only_classes_of_the_two_libraries_may_be_named(bench: Bench, name: str):
    document = drawing(steps=[step(configuration={"component_type": name})])
    assert bench.problems(document) == {
        CLASS: f"'{name}' is not a diffusers or transformers class."
    }


@pytest.mark.parametrize("name", NOT_HERE)
def test_pipeline_of_other_software_is_refused_with_alternative(bench: Bench, name: str):
    document = drawing(steps=[step(configuration={"component_type": name})])
    assert bench.problems(document) == {
        CLASS: f"'{name}' cannot be a pipeline here. {NOT_HERE[name]}"
    }


@pytest.mark.parametrize("key", OTHER_CALLS)
def test_other_call_styles_are_refused_with_reason(bench: Bench, key: str):
    configuration = {"component_type": "StableDiffusionPipeline", key: True}
    assert bench.problems(drawing(steps=[step(configuration=configuration)])) == {
        f"{PIPELINE}.configuration.{key}": f"'{key}': {OTHER_CALLS[key]}."
    }
    bench.plan(drawing(steps=[step(configuration={**configuration, key: False})]))


def test_step_has_exactly_one_action(bench: Bench):
    both = step("both") | {"workflow": {"path": "other.json"}}
    kinds = "'pipeline', 'pipeline_reference', 'task' and 'workflow'"
    sentence = f"A step has exactly one of {kinds}."
    assert bench.problems(drawing(steps=[{"name": "none"}, both])) == {
        "steps[0]": sentence,
        "steps[1]": sentence,
    }


def test_unknown_key_in_closed_block_is_refused_with_nearest(bench: Bench):
    configuration = {"component_type": "StableDiffusionPipeline", "ofload": "model"}
    document = drawing(steps=[step(configuration=configuration)])
    assert bench.problems(document) == {
        f"{PIPELINE}.configuration.ofload": "'ofload' is not a known key. Did you mean 'offload'?"
    }


@pytest.mark.parametrize(
    ("loading", "sentence"),
    [
        ({"custom_pipeline": "x/y"}, "'x/y' would run code of its own here, and nobody has allowed "
         "that. To trust it, start the workbench with --trust-remote-code x/y."),
        ({"use_safetensors": False}, "Only safetensors weights are loaded. Leave the key out."),
        ({"subfolder": "../x"}, "'../x' is not a plain name."),
        ({"revision": "/etc"}, "'/etc' is not a plain name."),
    ],
)  # fmt: skip
def test_unsupported_loading_argument_is_refused(
    bench: Bench, loading: dict[str, Any], sentence: str
):
    (key,) = loading
    assert bench.problems(with_loading(**loading)) == {f"{LOADING}.{key}": sentence}


def test_folder_without_model_is_refused(bench: Bench):
    assert bench.problems(with_loading(model_name="../media")) == {
        f"{LOADING}.model_name": "'../media' is not a diffusers model: it has no model_index.json."
    }


@pytest.mark.parametrize("name", ["", None, 3])
def test_missing_model_name_is_refused(bench: Bench, name: object):
    assert bench.problems(with_loading(model_name=name)) == {
        f"{LOADING}.model_name": "The name of a model is needed: a folder or 'owner/name'."
    }


@pytest.mark.parametrize(
    ("key", "place"),
    [("model_name", f"{LOADING}.model_name"), ("image", f"{ARGUMENTS}.ip_adapter_image"),
     ("path", "steps[0].workflow.path")],
)  # fmt: skip
@pytest.mark.parametrize("text", ["a\0b", "x" * 300, "x/" * 3000], ids=["nul", "long", "deep"])
def test_impossible_file_name_is_refused_with_place(bench: Bench, key: str, place: str, text: str):
    documents = {
        "model_name": with_loading(model_name=text),
        "image": with_arguments(ip_adapter_image=f"{text}.png"),
        "path": drawing(steps=[{"name": "draw", "workflow": {"path": f"{text}.json"}}]),
    }
    assert list(bench.problems(documents[key])) == [place]


@pytest.mark.parametrize("name", ["../x.safetensors", "x.py", "/x.safetensors", "x"])
def test_lora_weight_name_is_plain_and_safetensors(bench: Bench, name: str):
    document = drawing(steps=[step(loras=[{"model_name": MODEL, "weight_name": name}])])
    assert bench.problems(document) == {
        f"{PIPELINE}.loras[0].weight_name": "A plain name ending in .safetensors is needed."
    }


def test_pickle_lora_means_safetensors_file_beside_it(bench: Bench):
    document = drawing(steps=[step(loras=[{"model_name": MODEL, "weight_name": "x.bin"}])])
    (bench.model / "y.safetensors").touch()
    assert bench.problems(document) == {
        f"{PIPELINE}.loras[0].weight_name": f"'{MODEL}' has no x.safetensors."
        " Did you mean 'y.safetensors'?"
    }
    safetensors(bench.model / "x.safetensors", a=10)
    [planned] = bench.plan(document).steps
    assert planned.loras[0].weight_name == "x.safetensors"


def test_missing_lora_weights_suggest_nearest(bench: Bench):
    (bench.model / "fox-style.safetensors").write_bytes(b"")
    lora = {"model_name": MODEL, "weight_name": "fox-stile.safetensors"}
    assert bench.problems(drawing(steps=[step(loras=[lora])])) == {
        f"{PIPELINE}.loras[0].weight_name": f"'{MODEL}' has no fox-stile.safetensors."
        " Did you mean 'fox-style.safetensors'?"
    }


@pytest.mark.parametrize("name", ["../up", "a/b", "/abs", ".hidden"])
def test_result_name_cannot_leave_run_folder(bench: Bench, name: str):
    document = drawing()
    document["steps"][0]["result"]["file_base_name"] = name
    assert list(bench.problems(document)) == ["steps[0].result.file_base_name"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../models/tiny/model_index.json"])
def test_document_image_outside_folder_is_refused(bench: Bench, path: str):
    assert bench.problems(with_arguments(ip_adapter_image=path)) == {
        f"{ARGUMENTS}.ip_adapter_image": f"The picture '{path}' lies outside the folders it "
        "may come from."
    }


def test_missing_document_image_suggests_nearest(bench: Bench):
    bench.picture("lighthouse.png", bench.workflows)
    assert bench.problems(with_arguments(ip_adapter_image="ligthouse.png")) == {
        f"{ARGUMENTS}.ip_adapter_image": "There is no picture 'ligthouse.png'. "
        "Did you mean 'lighthouse.png'?"
    }


def test_duplicate_step_name_is_refused(bench: Bench):
    assert bench.problems(drawing(steps=[step(), step()])) == {
        "steps[1].name": "Two steps are called 'draw'. Give each step its own name."
    }


def test_step_cannot_use_own_or_later_result(bench: Bench):
    document = drawing(
        steps=[
            step("first", arguments={"ip_adapter_image": "previous_result:second"}),
            step("second", arguments={"ip_adapter_image": "previous_result:second"}),
        ]
    )
    assert list(bench.problems(document)) == [
        "steps[0].pipeline.arguments.ip_adapter_image",
        "steps[1].pipeline.arguments.ip_adapter_image",
    ]


def test_missing_workflow_file_suggests_nearest(bench: Bench):
    bench.write(drawing(), "flow.json")
    with pytest.raises(UnknownWorkflow, match=r"Did you mean 'flow'\?"):
        make_plan(bench.workflows / "flew.json", {}, paths=bench.paths)
    with pytest.raises(UnknownWorkflow):
        make_plan(Path("/etc/passwd"), {}, paths=bench.paths)


@pytest.mark.parametrize("depth", [300, 600, 100_000])
@pytest.mark.parametrize("key", ["steps", "variables"])
def test_endlessly_nested_document_is_refused(bench: Bench, key: str, depth: int):
    nested = "[" * depth + "]" * depth
    error = bench.refused(f'{{"id": "x", "steps": [], "{key}": {{"a": {nested}}}}}')
    assert isinstance(error, InvalidWorkflow)


def test_lone_surrogate_is_refused(bench: Bench):
    # JSON can write it; no file and no pipe can carry it.
    error = bench.refused(with_arguments(prompt="\ud800"))
    assert isinstance(error, InvalidWorkflow)


def test_follow_up_problems_are_not_reported(bench: Bench):
    document = with_arguments(ip_adapter_image={"location": "variable:imgae"}, width="variable:w")
    assert bench.problems(document) == {
        f"{ARGUMENTS}.ip_adapter_image.location": "There is no variable 'imgae'.",
        f"{ARGUMENTS}.width": "There is no variable 'w'.",
    }


def test_variable_may_be_default_of_another(bench: Bench):
    document = drawing(
        variables={"again": "variable:prompt", "prompt": "a fox", "steps": 20},
        steps=[step(arguments={"prompt": "variable:again"})],
    )
    for inputs, prompt in (({}, "a fox"), ({"prompt": "a hen"}, "a hen"), ({"again": "x"}, "x")):
        plan = bench.plan(document, **inputs)
        assert plan.steps[0].arguments["prompt"] == LiteralValue(value=prompt)


def test_circular_variable_is_refused(bench: Bench):
    document = drawing(variables={"prompt": "variable:b", "b": "variable:prompt", "steps": 1})
    assert bench.problems(document) == {
        f"{ARGUMENTS}.prompt": "The default of variable 'prompt' leads back to itself."
    }


def test_variables_are_allowed_in_seed_result_and_offload(bench: Bench):
    variables = {"prompt": "a fox", "steps": 2, "start": 7, "fps": 12, "offload": "model"}
    drawn = step()
    drawn["seed"] = "variable:start"
    drawn["result"]["fps"] = "variable:fps"
    drawn["pipeline"]["configuration"]["offload"] = "variable:offload"
    document = drawing(variables=variables, seed="variable:start", steps=[drawn])
    (planned,) = bench.plan(document, seed=None).steps
    assert (planned.seed, planned.offload) == (7, "model")
    assert planned.result is not None
    assert planned.result.fps == 12
    error = bench.refused(document, fps=500, offload="modle")
    assert told(error) == {
        "inputs.fps": "500 is outside 1 to 240.",
        "inputs.offload": "'modle' is not one of: model, sequential. Did you mean 'model'?",
    }
    document["variables"] |= {"start": None, "offload": None}
    error = bench.refused(document, start="x", offload="modle")
    assert isinstance(error, InvalidInputs)
    assert told(error) == {
        "inputs.start": "A whole number is needed, not 'x'.",
        "inputs.offload": "'modle' is not one of 'model' or 'sequential'. Did you mean 'model'?",
    }


@pytest.mark.parametrize(
    ("default", "typed", "value"),
    [
        ("{nf4}", "fp4", LiteralValue(value="fp4")),
        ("{nf4}", "{fp4}", LiteralValue(value="fp4")),
        ("{nf4}", "{nf4}", LiteralValue(value="nf4")),
        ("torch.float32", "torch.bfloat16", DTypeValue(dtype="bfloat16")),
    ],
)
def test_typed_type_name_is_escaped_like_default(
    bench: Bench, default: str, typed: str, value: Value
):
    document = drawing(
        variables={"some_dtype": default},
        steps=[step(arguments={"cross_attention_kwargs": {"x_dtype": "variable:some_dtype"}})],
    )
    (planned,) = bench.plan(document, some_dtype=typed).steps
    found = planned.arguments["cross_attention_kwargs"]
    if isinstance(found, ObjectValue):
        assert found.entries["x_dtype"] == value
    else:
        assert found == LiteralValue(value={"x_dtype": value.value})


def test_empty_scheduler_and_negative_shift_are_refused(bench: Bench):
    empty = bench.problems(drawing(steps=[step(scheduler={})]))
    assert list(empty.values()) == ["A scheduler needs a 'configuration' or a 'shift'."]
    below = bench.problems(drawing(steps=[step(audio_scheduler={"shift": -1})]))
    assert list(below) == ["steps[0].pipeline.audio_scheduler.shift"]


def test_adapter_names_are_unique_and_without_dots(bench: Bench):
    loras = [{"model_name": "owner/lora", "adapter_name": name} for name in ("a", "a", "b.c")]
    assert bench.problems(drawing(steps=[step(loras=loras)])) == {
        f"{PIPELINE}.loras[1].adapter_name": "Two adapters are called 'a'. Each has its own name.",
        f"{PIPELINE}.loras[2].adapter_name": (
            "'b.c' has a dot, which an adapter's name cannot have."
        ),
    }


def test_fetch_arguments_of_adapter_have_no_effect(bench: Bench):
    lora = {"model_name": "owner/lora", "token": "x", "local_files_only": True, "hotswap": False}
    (planned,) = bench.plan(drawing(steps=[step(loras=[lora])])).steps
    assert planned.loras[0].source.model == "owner/lora"


def test_lora_accepts_keys_of_diffusers_and_scale_as_text(bench: Bench):
    lora = {"model_name": "owner/lora", "scale": "0.5", "revision": "v2", "use_safetensors": True}
    (planned,) = bench.plan(drawing(steps=[step(loras=[lora])])).steps
    (found,) = planned.loras
    assert (found.scale, found.source.revision) == (0.5, "v2")
    problems = bench.problems(drawing(steps=[step(loras=[{**lora, "wieght_name": "a"}])]))
    assert problems["steps[0].pipeline.loras[0].wieght_name"].endswith(
        "Did you mean 'weight_name'?"
    )
    pickled = bench.problems(drawing(steps=[step(loras=[{**lora, "use_safetensors": False}])]))
    assert list(pickled) == ["steps[0].pipeline.loras[0].use_safetensors"]


def test_undeclared_variable_is_reported_once(bench: Bench):
    arguments = {"prompt": "variable:promt", "negative_prompt": "variable:promt"}
    assert bench.problems(drawing(steps=[step(arguments=arguments)])) == {
        f"{ARGUMENTS}.prompt": "There is no variable 'promt'. It is named in 1 more place(s). "
        "Did you mean 'prompt'?"
    }


def test_missing_variables_block_is_one_problem(bench: Bench):
    document = drawing()
    declared = document.pop("variables")
    assert bench.problems(document) == {
        f"{ARGUMENTS}.prompt": (
            "There is no variable 'prompt', 'steps': the document declares none."
        )
    }
    assert bench.problems({"variable": declared, **document}) == {
        "variable": "There is no variable 'prompt', 'steps': the document declares none."
        " 'variable' should be 'variables'."
    }


def test_reference_to_later_step_is_reported_as_such(bench: Bench):
    first, second = step("first"), step("second")
    first["pipeline"]["arguments"]["ip_adapter_image"] = "previous_result:second"
    second["pipeline"]["arguments"]["ip_adapter_image"] = "previous_result:second"
    where = "pipeline.arguments.ip_adapter_image"
    assert bench.problems(drawing(steps=[first, second])) == {
        f"steps[0].{where}": "There is no earlier step 'second'. Step 'second' comes later.",
        f"steps[1].{where}": "There is no earlier step 'second'. It cannot use its own results.",
    }


def test_model_url_is_refused(bench: Bench):
    page = "https://huggingface.co/owner/name/tree/main"
    assert bench.problems(with_loading(model_name=page)) == {
        f"{LOADING}.model_name": "The name of a model is needed: a folder or 'owner/name', "
        "not an address. Write 'owner/name'."
    }


def test_mistyped_model_key_is_one_problem(bench: Bench):
    wrong = step(from_pretrained_arguments={"model": MODEL})
    assert bench.problems(drawing(steps=[wrong])) == {
        f"{LOADING}.model": ("'model' is not a known loading argument. Did you mean 'model_name'?")
    }


def test_known_key_is_not_suggested_for_itself(bench: Bench):
    configuration = {"component_type": "StableDiffusionPipeline", "vae": {"scale": 1}}
    (warning,) = bench.plan(drawing(steps=[step(configuration=configuration)])).warnings
    assert warning.endswith("The key 'scale' is not known here and is ignored.")


def test_ambiguous_typo_means_missing_key(bench: Bench):
    wrong = step(configuration={"component": "StableDiffusionPipeline"})
    assert bench.problems(drawing(steps=[wrong])) == {
        f"{PIPELINE}.configuration.component": (
            "'component' is not a known key. Did you mean 'component_type'?"
        )
    }


@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        ("StableDiffusion3Pipeline", None),
        ("ZImagePipeline", "ZImagePipeline takes no IP-adapter. "),
        ("FluxPipeline", None),
        ("StableDiffusionXLPipeline", None),
    ],
)
def test_ip_adapter_of_unsupported_pipeline_is_refused(
    bench: Bench, pipeline: str, told: str | None
):
    drawn = step(
        configuration={"component_type": pipeline},
        from_pretrained_arguments={"model_name": "owner/name"},
        ip_adapter={"model_name": "owner/eye", "weight_name": "eye.safetensors"},
    )
    bench.picture("seen.png", bench.workflows)
    drawn["pipeline"]["arguments"] |= {"ip_adapter_image": "seen.png"}
    document = drawing(steps=[drawn])
    if told is None:
        bench.plan(document)
    else:
        assert bench.problems(document)[f"{PIPELINE}.ip_adapter"].startswith(told)


def test_word_of_argument_name_suggests_argument(bench: Bench):
    problems = bench.problems(drawing(steps=[step(arguments={"prompt": "a", "steps": 9})]))
    assert problems[f"{ARGUMENTS}.steps"].endswith("Did you mean 'num_inference_steps'?")
