"""The memo key covers everything that diffusers' `encode_prompt` methods read."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import diffusers
import pytest

from app.worker.memo import CALL_STATE, WEIGHTS_UNREAD

Methods = dict[str, ast.FunctionDef]


@pytest.fixture(scope="module")
def encoding() -> dict[str, Methods]:
    """Returns the methods of every installed pipeline that has an `encode_prompt`."""
    sources = (
        file.read_text(encoding="utf-8")
        for file in (Path(inspect.getfile(diffusers)).parent / "pipelines").rglob("*.py")
    )
    trees = (ast.parse(source) for source in sources if "def encode_prompt" in source)
    found = {
        node.name: {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    return {name: methods for name, methods in found.items() if "encode_prompt" in methods}


def own(method: ast.FunctionDef, how: type[ast.expr_context]) -> set[str]:
    """Returns attributes of `self` that the method reads (`ast.Load`) or assigns (`ast.Store`)."""
    attributes = (node for node in ast.walk(method) if isinstance(node, ast.Attribute))
    return {
        node.attr
        for node in attributes
        if isinstance(node.ctx, how) and ast.unparse(node.value) == "self"
    }


def read_by(method: str, methods: Methods) -> set[str]:
    """Returns attributes of `self` that this method and those it calls read, and their names."""
    seen, following = set[str](), {method}
    while following:
        seen |= following
        read = set().union(*(own(methods[name], ast.Load) for name in following & {*methods}))
        following = read - seen
    return seen


def test_encode_prompt_reads_only_pipeline_attributes_in_the_key(
    encoding: dict[str, Methods],
):
    """Fails for a diffusers version whose pipelines read more, which would give wrong hits."""
    beside_the_key = {}
    for name, methods in encoding.items():
        given = {argument.arg for argument in methods["__init__"].args.args}
        calls = (method for method in methods.values() if method.name != "__init__")
        left_by_calls = set().union(*(own(method, ast.Store) for method in calls)) - given
        known = set().union(*(read_by(state, methods) for state in CALL_STATE))
        read = read_by("encode_prompt", methods)
        if more := read & {*left_by_calls, "scheduler"} - known:
            beside_the_key[name] = more
    assert len(encoding) > 200
    assert beside_the_key == {}


def test_encode_prompt_reads_only_dtype_and_config_of_denoiser(
    encoding: dict[str, Methods],
):
    components = {f"self.{component}" for component in WEIGHTS_UNREAD}
    more = {
        f"{name}: {ast.unparse(node)}"
        for name, methods in encoding.items()
        for called in read_by("encode_prompt", methods) & {*methods}
        for node in ast.walk(methods[called])
        if isinstance(node, ast.Attribute)
        and node.attr not in ("dtype", "config")
        and ast.unparse(node.value) in components
    }
    assert more == set()
