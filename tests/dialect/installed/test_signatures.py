"""Names and signatures from the installed libraries' source, cached."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.dialect.installed.signatures import FORMAT, call_signature, public_classes
from app.settings import PROJECT

IMPORTED = """
import inspect, json, diffusers
call = inspect.signature(diffusers.StableDiffusionPipeline.__call__)
print(json.dumps([
    [parameter.name, parameter.default is parameter.empty]
    for parameter in call.parameters.values()
    if parameter.kind is not parameter.VAR_KEYWORD
]))
"""
READ = """
import json, sys
from app.dialect.installed.signatures import call_signature, public_classes
signature = call_signature("StableDiffusionPipeline")
assert public_classes("diffusers")["AutoencoderKL"].kind == "model"
print(json.dumps([parameter.name for parameter in signature.parameters]))
"""


def answer(code: str, **environment: str) -> Any:
    """Returns this program's last line of output, as JSON, from its own process."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_parsed_signature_equals_that_of_class():
    signature = call_signature("StableDiffusionPipeline")
    assert signature is not None
    read = [[known.name, known.required] for known in signature.parameters]
    assert [["self", True], *read] == answer(IMPORTED)


def test_parameter_has_annotation_and_default():
    signature = call_signature("FluxPipeline")
    assert signature is not None
    known = {parameter.name: parameter for parameter in signature.parameters}
    assert (known["num_inference_steps"].annotation, known["num_inference_steps"].default) == (
        "int",
        "28",
    )
    assert "prompt" in signature.docstring


def test_class_without_call_has_no_signature():
    assert call_signature("AutoencoderKL") is None
    assert call_signature("NoSuchPipeline") is None


def test_every_kind_of_class_is_found():
    kinds = {place.kind for package in ("diffusers", "transformers")
             for place in public_classes(package).values()}  # fmt: skip
    assert kinds == {
        "pipeline", "modular pipeline", "set of blocks", "model", "scheduler", "tokenizer",
        "processor",
    }  # fmt: skip


def test_private_and_internal_classes_are_not_in_the_list():
    classes = public_classes("diffusers")
    assert not [name for name in classes if name.startswith("_")]
    assert "BasicTransformerBlock" not in classes


def test_parsed_source_is_cached_for_next_process(tmp_path: Path):
    first = answer(READ, XDG_CACHE_HOME=str(tmp_path))
    stored = sorted(path.name for path in remembered(tmp_path).iterdir())
    assert stored == ["call-StableDiffusionPipeline.json", "classes.json"]
    assert answer(READ, XDG_CACHE_HOME=str(tmp_path)) == first


def remembered(cache: Path) -> Path:
    version = importlib.metadata.version("diffusers")
    return cache / "diffusers-workbench" / f"diffusers-{version}-{FORMAT}"


def test_unwritable_cache_is_ignored(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert "prompt" in answer(READ, XDG_CACHE_HOME=str(tmp_path / "file"))


@pytest.mark.parametrize("content", ["", "{", '{"prompt": 1}', "[]"], ids=str.__repr__)
def test_damaged_cache_is_replaced(tmp_path: Path, content: str):
    folder = remembered(tmp_path)
    folder.mkdir(parents=True)
    for name in ("classes", "call-StableDiffusionPipeline"):
        (folder / f"{name}.json").write_text(content)
    assert "prompt" in answer(READ, XDG_CACHE_HOME=str(tmp_path))


def test_cache_of_other_installation_is_valid(tmp_path: Path):
    # The cache is the user's; the libraries may be installed in many places, and removed from some.
    answer(READ, XDG_CACHE_HOME=str(tmp_path))
    folder = remembered(tmp_path)
    spec = importlib.util.find_spec("diffusers")
    assert spec is not None
    assert spec.origin is not None
    root = str(Path(spec.origin).parent)
    index = folder / "classes.json"
    index.write_text(index.read_text().replace(root, "/removed"))
    (folder / "call-StableDiffusionPipeline.json").unlink()
    assert "prompt" in answer(READ, XDG_CACHE_HOME=str(tmp_path))
