"""What a document and its inputs cannot do: each hole of the software that defines the dialect.

There a document was arbitrary code, and typed text was part of it. The numbers are those of the
dialect's security model; single features are tested beside their code too.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.dialect.plan_values import LiteralValue
from app.errors import BadRequest
from app.planning.planner import make_plan
from app.protocol import RunFailed
from app.settings import PathSettings, UrlSettings
from tests.plan_bench import MODEL, Bench, drawing, step
from tests.worker.bench import Bench as Worker
from tests.worker.bench import document

CODE = "antigravity"
"""A Python module that nobody imports: importing it opens a web browser."""
SECRET = "hf_a_secret_of_the_operator"


@pytest.fixture(autouse=True)
def nothing_was_imported_or_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Asserts after each test that no code of the document's choice ran."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    yield
    assert CODE not in sys.modules
    assert not (tmp_path / "called").exists()


def shell(tmp_path: Path) -> str:
    """A command that leaves a trace."""
    return f"touch {tmp_path / 'called'}"


# --- 1: component_type may be any callable -------------------------------------------------------


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "builtins.exec", f"{CODE}.fly"])
@pytest.mark.parametrize("place", ["pipeline", "component", "scheduler"])
def test_1_class_must_be_of_two_libraries(bench: Bench, tmp_path: Path, name: str, place: str):
    named = {"component_type": name}
    loading = {"model_name": MODEL, "command": shell(tmp_path), "args": shell(tmp_path)}
    blocks = {
        "pipeline": {"configuration": named, "from_pretrained_arguments": loading},
        "component": {"vae": {"configuration": named, "from_pretrained_arguments": loading}},
        "scheduler": {"scheduler": {"configuration": {"scheduler_type": name},
                                    "from_config_args": {"command": shell(tmp_path)}}},
    }  # fmt: skip
    problems = bench.problems(drawing(steps=[step(**blocks[place])]))
    assert any("is not a diffusers or transformers class" in told for told in problems.values())


# --- 2: from_arguments constructs any class, and class-valued arguments are called ---------------


@pytest.mark.parametrize("where", ["argument", "variable"])
def test_2_object_must_be_of_allowed_class(bench: Bench, tmp_path: Path, where: str):
    made = {"object_type": "subprocess.Popen",
            "from_arguments": {"args": shell(tmp_path), "shell": True}}  # fmt: skip
    document = drawing(
        variables={"made": made, "prompt": "a fox", "steps": 1},
        steps=[step(arguments={"prompt": made if where == "argument" else "variable:made"})],
    )
    assert list(bench.problems(document))


@pytest.mark.parametrize(
    "configuration",
    [
        {"unet": {"attn_processor_type": "os.getcwd"}},
        {"pre_load_modules": [CODE]},
    ],
)
def test_2_settings_call_nothing(bench: Bench, configuration: dict[str, Any]):
    named = {"component_type": "StableDiffusionPipeline", **configuration}
    assert list(bench.problems(drawing(steps=[step(configuration=named)])))


@pytest.mark.parametrize("name", ["os.system", f"{CODE}.Config", "torchao.utils.run"])
@pytest.mark.parametrize("place", ["config_type", "quant_type"])
def test_2_quantiser_must_be_known(bench: Bench, name: str, place: str):
    block = {"configuration": {"config_type": "TorchAoConfig"}, "arguments": {}}
    (block["configuration"] if place == "config_type" else block["arguments"])[place] = name
    loading = {"model_name": MODEL, "subfolder": "unet"}
    unet = {"configuration": {"component_type": "UNet2DConditionModel"},
            "from_pretrained_arguments": loading, "quantization_config": block}  # fmt: skip
    assert list(bench.problems(drawing(steps=[step(unet=unet)])))


# --- 3: any *_type or *_dtype imports a module ---------------------------------------------------


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_3_dtype_imports_nothing(bench: Bench, key: str):
    document = drawing(
        steps=[step(from_pretrained_arguments={"model_name": MODEL, key: f"{CODE}.fly"})]
    )
    assert list(bench.problems(document)) == [f"steps[0].pipeline.from_pretrained_arguments.{key}"]


@pytest.mark.parametrize("key", ["output_type", "x_dtype", "some_type"])
def test_3_type_argument_imports_nothing(bench: Bench, key: str):
    nested = step(arguments={"prompt": "a fox", "cross_attention_kwargs": {key: f"{CODE}.fly"}})
    assert list(bench.problems(drawing(steps=[nested])))


# --- 4: downloaded code is run -------------------------------------------------------------------


@pytest.mark.parametrize(
    "loading", [{"trust_remote_code": True}, {"custom_pipeline": "someone/pipeline"}]
)
def test_4_repository_code_runs_only_if_trusted(bench: Bench, loading: dict[str, Any]):
    document = drawing(
        steps=[step(from_pretrained_arguments={"model_name": "owner/model", **loading})]
    )
    assert any("custom_pipeline" in place or "trust_remote_code" in place
               for place in bench.problems(document))  # fmt: skip


# --- 5: what a person types is resolved like the document ----------------------------------------


@pytest.mark.parametrize(
    "text",
    ["constant:os.environ", "variable:steps", "previous_result:draw", "{nf4}", f"{CODE}.fly",
     "asset:x", "/etc/passwd", "a; rm -rf $(x) | `y` && z > \\"],
)  # fmt: skip
def test_5_typed_text_is_literal(bench: Bench, text: str):
    plan = bench.plan(drawing(), prompt=text)
    assert plan.steps[0].arguments["prompt"] == LiteralValue(value=text)
    assert SECRET not in plan.model_dump_json()


@pytest.mark.parametrize(
    "typed",
    [
        {"media_type": "image", "location": "/etc/passwd"},
        {"from_arguments": {"args": "x"}, "object_type": "subprocess.Popen"},
        {"a": ["constant:os.environ", "previous_result:draw"]},
    ],
)
def test_5_typed_object_is_literal(bench: Bench, typed: dict[str, Any]):
    document = drawing(
        variables={"given": {}},
        steps=[step(arguments={"cross_attention_kwargs": "variable:given"})],
    )
    (planned,) = bench.plan(document, given=typed).steps
    assert planned.arguments["cross_attention_kwargs"] == LiteralValue(value=typed)


@pytest.mark.parametrize(
    "path", ["/etc/hostname.png", "../workflows/own.png", "~/a.png", "own.png"]
)
def test_5_typed_image_must_be_an_upload(bench: Bench, path: str):
    bench.picture("own.png", bench.workflows)
    document = drawing(
        variables={"image": None}, steps=[step(arguments={"ip_adapter_image": "variable:image"})]
    )
    assert list(bench.problems(document, image=path)) == ["inputs.image"]


# --- 6: results written outside their folder -----------------------------------------------------


@pytest.mark.parametrize("name", ["../../up", "/tmp/abs", "a/../../b", "..", "a\\..\\b", "nul\0l"])
def test_6_results_stay_in_run_folder(tmp_path: Path, name: str):
    worker = Worker(tmp_path)
    text = {"name": name, "task": {"command": "gather_inputs", "inputs": ["a text"]},
            "result": {"content_type": "text/plain"}}  # fmt: skip
    finished = worker.run(document(text, id=name))
    (result,) = finished.results
    folder = tmp_path / "outputs" / finished.run_id
    assert Path(result.path).resolve().parent == folder
    written = {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"}
    assert written == {Path(result.path)}


@pytest.mark.parametrize("name", ["../../up", "/tmp/abs", "a/b", ".hidden"])
def test_6_result_name_has_no_folders(bench: Bench, name: str):
    named = drawing()
    named["steps"][0]["result"]["file_base_name"] = name
    assert list(bench.problems(named)) == ["steps[0].result.file_base_name"]


# --- 7: requests to addresses inside -------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/a.png", "http://localhost/a.png", "http://169.254.169.254/latest/a.png",
     "http://10.0.0.1/a.png", "http://[::1]/a.png", "http://user:secret@example.org/a.png",
     "file:///etc/passwd", "ftp://example.org/a.png"],
)  # fmt: skip
def test_7_only_public_addresses_are_requested(bench: Bench, url: str):
    document = drawing(steps=[step(arguments={"ip_adapter_image": url})])
    assert list(bench.problems(document)) == ["steps[0].pipeline.arguments.ip_adapter_image"]


def test_7_urls_are_not_requested_unless_allowed(bench: Bench):
    paths = bench.paths.model_copy(update={"urls": UrlSettings(media_urls=False)})
    file = bench.write(drawing(steps=[step(arguments={"ip_adapter_image": "http://a.org/a.png"})]))
    with pytest.raises(BadRequest):
        make_plan(file, {}, paths=paths)


# --- 8: the access token is sent to any address --------------------------------------------------


def test_8_remote_text_encoder_receives_nothing(bench: Bench):
    remote = {"url": "http://203.0.113.1/encode"}
    plan = bench.plan(drawing(steps=[step(remote_text_encoder=remote)]))
    assert "203.0.113.1" not in plan.steps[0].model_dump_json()
    assert any("remote_text_encoder" in warning for warning in plan.warnings)


# --- 9: files from anywhere ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/etc/passwd", "../media/upload.png", "~/a.png", "~root/a.png"])
def test_9_document_image_must_be_in_its_folder(bench: Bench, path: str):
    document = drawing(steps=[step(arguments={"ip_adapter_image": path})])
    assert list(bench.problems(document))


def test_9_link_cannot_leave_folder(bench: Bench, tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (bench.workflows / "link.png").symlink_to(tmp_path / "outside.png")
    document = drawing(steps=[step(arguments={"ip_adapter_image": "link.png"})])
    assert list(bench.problems(document)) == ["steps[0].pipeline.arguments.ip_adapter_image"]


def test_9_parent_path_cannot_leave_folder(bench: Bench):
    bench.picture("a..b.png", bench.workflows)
    assert bench.plan(drawing(steps=[step(arguments={"ip_adapter_image": "a..b.png"})])).steps


@pytest.mark.parametrize("pattern", ["/etc/*", "../**/*.png", "~/*"])
def test_9_pattern_cannot_leave_folder(bench: Bench, pattern: str):
    task = {"command": "gather_images", "arguments": {"glob": pattern}}
    problems = bench.problems(drawing(steps=[{"name": "gather", "task": task}]))
    assert list(problems) == ["steps[0].task.arguments.glob"]


@pytest.mark.parametrize("path", ["../outside.json", "/etc/passwd.json", "builtin:../x.json"])
def test_9_sub_workflow_must_be_in_parent_folder(bench: Bench, path: str):
    (bench.workflows.parent / "outside.json").write_text(json.dumps(drawing()))
    document = drawing(steps=[{"name": "sub", "workflow": {"path": path}}])
    assert list(bench.problems(document)) == ["steps[0].workflow.path"]


# --- 10: no limits -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [{"width": 100_000}, {"height": 2**40}, {"num_inference_steps": 10**9},
     {"num_images_per_prompt": 10**6}],
)  # fmt: skip
def test_10_sizes_steps_and_images_have_limits(bench: Bench, arguments: dict[str, Any]):
    (name,) = arguments
    assert list(bench.problems(drawing(steps=[step(arguments=arguments)]))) == [
        f"steps[0].pipeline.arguments.{name}"
    ]


def test_10_iterations_and_the_document_itself_have_limits(bench: Bench):
    # Each in tests/planning/test_bounds.py; this is the shortest way to run for ever.
    text = {"command": "gather_inputs", "inputs": ["x"] * 200}
    both = {"prompt": "previous_result:a", "negative_prompt": "previous_result:b"}
    steps = [{"name": name, "task": text} for name in "ab"]
    problems = bench.problems(drawing(steps=[*steps, step(arguments=both)]))
    assert "would run 40000 times" in problems["steps[2]"]


# --- 11: tracebacks and paths are told -----------------------------------------------------------


def test_11_error_is_sentence_with_traceback_in_log(tmp_path: Path):
    worker = Worker(tmp_path)
    broken = {"name": "cut", "task": {"command": "get_frame",
              "arguments": {"video": "previous_result:a", "frame_index": 99}}}  # fmt: skip
    texts = {"name": "a", "task": {"command": "gather_inputs", "inputs": ["no video"]}}
    failed = worker.run(document(texts, broken)).terminal
    assert isinstance(failed, RunFailed)
    told = failed.error.sentence()
    assert "Traceback" not in told
    assert os.path.dirname(__file__) not in told  # noqa: PTH120
    assert SECRET not in failed.error.model_dump_json()


# --- 12: weights that are pickles ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["evil.bin", "evil.ckpt", "evil.pt", "../evil.safetensors"])
def test_12_adapter_weights_must_be_safetensors(bench: Bench, name: str):
    (bench.model / "evil.bin").write_bytes(b"cos\nsystem\n(S'touch called'\ntR.")
    lora = {"model_name": MODEL, "weight_name": name}
    assert list(bench.problems(drawing(steps=[step(loras=[lora])])))


def test_12_pickles_are_never_requested(bench: Bench):
    loading = {"model_name": MODEL, "use_safetensors": False}
    assert list(bench.problems(drawing(steps=[step(from_pretrained_arguments=loading)])))


def test_12_defaults_allow_no_pickle_and_trust_nobody():
    assert (PathSettings().allow_pickles, PathSettings().trust_remote_code) == (False, ())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
