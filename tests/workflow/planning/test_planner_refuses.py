"""Every mistake of a document is told at once, with its place, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidInputs, InvalidWorkflow, UnknownWorkflow
from app.workflow.document import OTHER_CALLS
from app.workflow.installed.names import NOT_HERE
from app.workflow.plan_values import DTypeValue, LiteralValue, ObjectValue, Value
from app.workflow.planning.planner import make_plan
from tests.workflow.bench import MODEL, Bench, drawing, step, told

PIPELINE = "steps[0].pipeline"
CLASS = f"{PIPELINE}.configuration.component_type"
LOADING = f"{PIPELINE}.from_pretrained_arguments"
ARGUMENTS = f"{PIPELINE}.arguments"


def with_arguments(**arguments: Any) -> dict[str, Any]:
    return drawing(steps=[step(arguments=arguments)])


def with_loading(**loading: Any) -> dict[str, Any]:
    return drawing(steps=[step(from_pretrained_arguments={"model_name": MODEL, **loading})])


def test_all_mistakes_of_a_document_are_told_at_once(bench: Bench):
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
def test_a_typo_in_an_argument_name_is_refused_with_the_nearest_name(
    bench: Bench, pipeline: str, typo: str, right: str
):
    document = drawing(
        steps=[step(configuration={"component_type": pipeline}, arguments={typo: 1})]
    )
    assert bench.problems(document) == {
        f"{ARGUMENTS}.{typo}": f"{pipeline} takes no '{typo}'. Did you mean '{right}'?"
    }


def test_an_argument_the_model_itself_decides_on_is_checked_too(bench: Bench):
    document = drawing(
        steps=[
            step(configuration={"component_type": "DiffusionPipeline"}, arguments={"width": "wide"})
        ]
    )
    assert bench.problems(document) == {
        f"{ARGUMENTS}.width": "A whole number is needed, not 'wide'."
    }


def test_a_model_whose_index_is_broken_is_refused_with_its_place(bench: Bench):
    (bench.model / "model_index.json").write_text('{"_class_name":')
    document = drawing(steps=[step(configuration={"component_type": "DiffusionPipeline"})])
    assert list(bench.problems(document)) == [f"{LOADING}.model_name"]


def test_a_required_argument_that_is_absent_is_named(bench: Bench):
    configuration = {"component_type": "MarigoldDepthPipeline"}
    document = drawing(steps=[step(configuration=configuration, arguments={})])
    assert bench.problems(document) == {ARGUMENTS: "'image' is missing."}


@pytest.mark.parametrize("name", ["generator", "callback_on_step_end"])
def test_what_the_workbench_gives_itself_cannot_be_given(bench: Bench, name: str):
    assert bench.problems(with_arguments(**{name: None})) == {
        f"{ARGUMENTS}.{name}": f"'{name}' is set by the workbench. Leave it out."
    }


def test_a_class_of_another_kind_is_refused(bench: Bench):
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
def test_a_pipeline_of_other_software_says_what_to_use_instead(bench: Bench, name: str):
    document = drawing(steps=[step(configuration={"component_type": name})])
    assert bench.problems(document) == {
        CLASS: f"'{name}' cannot be a pipeline here. {NOT_HERE[name]}"
    }


@pytest.mark.parametrize("key", OTHER_CALLS)
def test_a_pipeline_is_called_as_one_and_else_is_told_why_not(bench: Bench, key: str):
    configuration = {"component_type": "StableDiffusionPipeline", key: True}
    assert bench.problems(drawing(steps=[step(configuration=configuration)])) == {
        f"{PIPELINE}.configuration.{key}": f"'{key}': {OTHER_CALLS[key]}."
    }
    bench.plan(drawing(steps=[step(configuration={**configuration, key: False})]))


def test_a_step_has_exactly_one_action(bench: Bench):
    both = step("both") | {"workflow": {"path": "other.json"}}
    kinds = "'pipeline', 'pipeline_reference', 'task' and 'workflow'"
    sentence = f"A step has exactly one of {kinds}."
    assert bench.problems(drawing(steps=[{"name": "none"}, both])) == {
        "steps[0]": sentence,
        "steps[1]": sentence,
    }


def test_an_unknown_key_of_a_closed_set_is_refused_with_the_nearest_known_one(bench: Bench):
    configuration = {"component_type": "StableDiffusionPipeline", "ofload": "model"}
    document = drawing(steps=[step(configuration=configuration)])
    assert bench.problems(document) == {
        f"{PIPELINE}.configuration.ofload": "'ofload' is not a known key. Did you mean 'offload'?"
    }


@pytest.mark.parametrize(
    ("loading", "sentence"),
    [
        ({"custom_pipeline": "x/y"}, "'x/y' would run code of its own here, and nobody has allowed "
         "that. Whoever trusts it starts the workbench with --trust-remote-code x/y."),
        ({"use_safetensors": False}, "Only safetensors weights are loaded. Leave the key out."),
        ({"torch_dtpe": "float16"},
         "'torch_dtpe' is not a known loading argument. Did you mean 'torch_dtype'?"),
        ({"subfolder": "../x"}, "'../x' is not a plain name."),
        ({"revision": "/etc"}, "'/etc' is not a plain name."),
    ],
)  # fmt: skip
def test_a_loading_argument_that_cannot_be_honoured_is_refused(
    bench: Bench, loading: dict[str, Any], sentence: str
):
    (key,) = loading
    assert bench.problems(with_loading(**loading)) == {f"{LOADING}.{key}": sentence}


def test_a_folder_that_is_no_model_is_refused(bench: Bench):
    assert bench.problems(with_loading(model_name="../media")) == {
        f"{LOADING}.model_name": "'../media' is not a diffusers model: it has no model_index.json."
    }


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_step_needs_the_name_of_a_model(bench: Bench, name: object):
    assert bench.problems(with_loading(model_name=name)) == {
        f"{LOADING}.model_name": "The name of a model is needed: a folder or 'owner/name'."
    }


@pytest.mark.parametrize(
    ("key", "place"),
    [("model_name", f"{LOADING}.model_name"), ("image", f"{ARGUMENTS}.ip_adapter_image"),
     ("path", "steps[0].workflow.path")],
)  # fmt: skip
@pytest.mark.parametrize("text", ["a\0b", "x" * 300, "x/" * 3000], ids=["nul", "long", "deep"])
def test_a_name_that_no_file_can_have_is_refused_with_its_place(
    bench: Bench, key: str, place: str, text: str
):
    documents = {
        "model_name": with_loading(model_name=text),
        "image": with_arguments(ip_adapter_image=f"{text}.png"),
        "path": drawing(steps=[{"name": "draw", "workflow": {"path": f"{text}.json"}}]),
    }
    assert list(bench.problems(documents[key])) == [place]


@pytest.mark.parametrize("name", ["../x.safetensors", "x.py", "/x.safetensors", "x"])
def test_lora_weights_have_a_plain_name_and_are_safetensors(bench: Bench, name: str):
    document = drawing(steps=[step(loras=[{"model_name": MODEL, "weight_name": name}])])
    assert bench.problems(document) == {
        f"{PIPELINE}.loras[0].weight_name": "A plain name ending in .safetensors is needed."
    }


def test_a_lora_that_may_hold_code_stands_for_the_safetensors_file_beside_it(bench: Bench):
    document = drawing(steps=[step(loras=[{"model_name": MODEL, "weight_name": "x.bin"}])])
    (bench.model / "y.safetensors").touch()
    assert bench.problems(document) == {
        f"{PIPELINE}.loras[0].weight_name": f"'{MODEL}' has no x.safetensors."
        " Did you mean 'y.safetensors'?"
    }
    (bench.model / "x.safetensors").touch()
    [planned] = bench.plan(document).steps
    assert planned.loras[0].weight_name == "x.safetensors"


def test_lora_weights_that_are_not_there_name_the_nearest_file(bench: Bench):
    (bench.model / "fox-style.safetensors").write_bytes(b"")
    lora = {"model_name": MODEL, "weight_name": "fox-stile.safetensors"}
    assert bench.problems(drawing(steps=[step(loras=[lora])])) == {
        f"{PIPELINE}.loras[0].weight_name": f"'{MODEL}' has no fox-stile.safetensors."
        " Did you mean 'fox-style.safetensors'?"
    }


@pytest.mark.parametrize("name", ["../up", "a/b", "/abs", ".hidden"])
def test_a_results_name_cannot_leave_the_runs_folder(bench: Bench, name: str):
    document = drawing()
    document["steps"][0]["result"]["file_base_name"] = name
    assert list(bench.problems(document)) == ["steps[0].result.file_base_name"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../models/tiny/model_index.json"])
def test_a_documents_picture_outside_its_folder_is_refused(bench: Bench, path: str):
    assert bench.problems(with_arguments(ip_adapter_image=path)) == {
        f"{ARGUMENTS}.ip_adapter_image": f"The picture '{path}' lies outside the folders it "
        "may come from."
    }


def test_a_missing_picture_of_the_document_names_the_nearest_file(bench: Bench):
    bench.picture("lighthouse.png", bench.workflows)
    assert bench.problems(with_arguments(ip_adapter_image="ligthouse.png")) == {
        f"{ARGUMENTS}.ip_adapter_image": "There is no picture 'ligthouse.png'. "
        "Did you mean 'lighthouse.png'?"
    }


def test_two_steps_of_one_name_are_refused(bench: Bench):
    assert bench.problems(drawing(steps=[step(), step()])) == {
        "steps[1].name": "Two steps are called 'draw'. Give each step its own name."
    }


def test_a_step_cannot_use_its_own_or_a_later_result(bench: Bench):
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


def test_a_file_that_is_not_there_names_the_nearest_workflow(bench: Bench):
    bench.write(drawing(), "flow.json")
    with pytest.raises(UnknownWorkflow, match=r"Did you mean 'flow'\?"):
        make_plan(bench.workflows / "flew.json", {}, paths=bench.paths)
    with pytest.raises(UnknownWorkflow):
        make_plan(Path("/etc/passwd"), {}, paths=bench.paths)


@pytest.mark.parametrize("depth", [300, 600, 100_000])
@pytest.mark.parametrize("key", ["steps", "variables"])
def test_a_document_nested_without_end_is_refused(bench: Bench, key: str, depth: int):
    nested = "[" * depth + "]" * depth
    error = bench.refused(f'{{"id": "x", "steps": [], "{key}": {{"a": {nested}}}}}')
    assert isinstance(error, InvalidWorkflow)


def test_half_a_character_is_refused(bench: Bench):
    # JSON can write it; no file and no pipe can carry it.
    error = bench.refused(with_arguments(prompt="\ud800"))
    assert isinstance(error, InvalidWorkflow)


def test_what_only_follows_from_another_mistake_is_not_told(bench: Bench):
    document = with_arguments(ip_adapter_image={"location": "variable:imgae"}, width="variable:w")
    assert bench.problems(document) == {
        f"{ARGUMENTS}.ip_adapter_image.location": "There is no variable 'imgae'.",
        f"{ARGUMENTS}.width": "There is no variable 'w'.",
    }


def test_a_variable_may_be_another_ones_default(bench: Bench):
    document = drawing(
        variables={"again": "variable:prompt", "prompt": "a fox", "steps": 20},
        steps=[step(arguments={"prompt": "variable:again"})],
    )
    for inputs, prompt in (({}, "a fox"), ({"prompt": "a hen"}, "a hen"), ({"again": "x"}, "x")):
        plan = bench.plan(document, **inputs)
        assert plan.steps[0].arguments["prompt"] == LiteralValue(value=prompt)


def test_a_variable_whose_default_leads_back_to_itself_is_refused(bench: Bench):
    document = drawing(variables={"prompt": "variable:b", "b": "variable:prompt", "steps": 1})
    assert bench.problems(document) == {
        f"{ARGUMENTS}.prompt": "The default of variable 'prompt' leads back to itself."
    }


def test_variables_stand_in_seed_result_and_offload(bench: Bench):
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
def test_a_typed_type_name_is_escaped_where_its_default_is(
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


def test_a_scheduler_that_changes_nothing_and_a_shift_below_zero_are_refused(bench: Bench):
    empty = bench.problems(drawing(steps=[step(scheduler={})]))
    assert list(empty.values()) == ["A scheduler needs a 'configuration' or a 'shift'."]
    below = bench.problems(drawing(steps=[step(audio_scheduler={"shift": -1})]))
    assert list(below) == ["steps[0].pipeline.audio_scheduler.shift"]


def test_adapters_have_names_of_their_own_that_a_module_can_have(bench: Bench):
    loras = [{"model_name": "owner/lora", "adapter_name": name} for name in ("a", "a", "b.c")]
    assert bench.problems(drawing(steps=[step(loras=loras)])) == {
        f"{PIPELINE}.loras[1].adapter_name": "Two adapters are called 'a'. Each has its own name.",
        f"{PIPELINE}.loras[2].adapter_name": (
            "'b.c' has a dot in it, which the name of an adapter cannot."
        ),
    }


def test_how_an_adapter_is_fetched_elsewhere_decides_nothing(bench: Bench):
    lora = {"model_name": "owner/lora", "token": "x", "local_files_only": True, "hotswap": False}
    (planned,) = bench.plan(drawing(steps=[step(loras=[lora])])).steps
    assert planned.loras[0].source.model == "owner/lora"


def test_a_loras_keys_are_those_of_diffusers_and_its_scale_may_be_a_text(bench: Bench):
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


def test_a_variable_that_is_not_declared_is_told_once_however_often_it_stands(bench: Bench):
    arguments = {"prompt": "variable:promt", "negative_prompt": "variable:promt"}
    assert bench.problems(drawing(steps=[step(arguments=arguments)])) == {
        f"{ARGUMENTS}.prompt": "There is no variable 'promt'. It is named in 1 more place(s). "
        "Did you mean 'prompt'?"
    }


def test_a_block_of_variables_that_is_missing_or_mistyped_is_one_mistake(bench: Bench):
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


def test_a_result_that_is_not_made_yet_is_told_as_that(bench: Bench):
    first, second = step("first"), step("second")
    first["pipeline"]["arguments"]["ip_adapter_image"] = "previous_result:second"
    second["pipeline"]["arguments"]["ip_adapter_image"] = "previous_result:second"
    where = "pipeline.arguments.ip_adapter_image"
    assert bench.problems(drawing(steps=[first, second])) == {
        f"steps[0].{where}": "There is no earlier step 'second'. Step 'second' comes later.",
        f"steps[1].{where}": "There is no earlier step 'second'. It cannot use its own results.",
    }


def test_a_model_is_named_and_not_addressed(bench: Bench):
    page = "https://huggingface.co/owner/name/tree/main"
    assert bench.problems(with_loading(model_name=page)) == {
        f"{LOADING}.model_name": "The name of a model is needed: a folder or 'owner/name', "
        "not an address. Write 'owner/name'."
    }


def test_a_mistyped_key_of_a_model_is_the_only_mistake(bench: Bench):
    wrong = step(from_pretrained_arguments={"model": MODEL})
    assert bench.problems(drawing(steps=[wrong])) == {
        f"{LOADING}.model": ("'model' is not a known loading argument. Did you mean 'model_name'?")
    }


def test_a_key_is_never_said_to_be_meant_by_itself(bench: Bench):
    configuration = {"component_type": "StableDiffusionPipeline", "vae": {"scale": 1}}
    (warning,) = bench.plan(drawing(steps=[step(configuration=configuration)])).warnings
    assert warning.endswith("The key 'scale' is not known here and is ignored.")


def test_a_key_near_two_others_is_the_one_that_is_missing(bench: Bench):
    wrong = step(configuration={"component": "StableDiffusionPipeline"})
    assert bench.problems(drawing(steps=[wrong])) == {
        f"{PIPELINE}.configuration.component": (
            "'component' is not a known key. Did you mean 'component_type'?"
        )
    }


@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        ("StableDiffusion3Pipeline", "IP-adapters of Stable Diffusion 3 are not loaded here. "),
        ("ZImagePipeline", "ZImagePipeline takes no IP-adapter. "),
        ("FluxPipeline", None),
        ("StableDiffusionXLPipeline", None),
    ],
)
def test_a_pipeline_that_cannot_look_at_a_picture_is_told_before_anything_loads(
    bench: Bench, pipeline: str, told: str | None
):
    drawn = step(
        configuration={"component_type": pipeline},
        from_pretrained_arguments={"model_name": "owner/name"},
        ip_adapter={"model_name": "owner/eye", "weight_name": "eye.safetensors"},
    )
    drawn["pipeline"]["arguments"] |= {"ip_adapter_image_embeds": []}
    document = drawing(steps=[drawn])
    if told is None:
        bench.plan(document)
    else:
        assert bench.problems(document)[f"{PIPELINE}.ip_adapter"].startswith(told)


def test_a_word_of_an_arguments_name_leads_to_it(bench: Bench):
    problems = bench.problems(drawing(steps=[step(arguments={"prompt": "a", "steps": 9})]))
    assert problems[f"{ARGUMENTS}.steps"].endswith("Did you mean 'num_inference_steps'?")
