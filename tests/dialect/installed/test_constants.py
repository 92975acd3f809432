"""`constant:` reads values from the libraries' source without running it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from app.dialect.installed.constants import SourceModule, UnknownConstant, constant
from app.dialect.plan_values import LiteralValue
from tests.plan_bench import Bench, drawing, step

LTX2 = "diffusers.pipelines.ltx2.utils"
ARGUMENTS = "steps[0].pipeline.arguments"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"{LTX2}.STAGE_2_DISTILLED_SIGMA_VALUES", [0.909375, 0.725, 0.421875]),
        (f"{LTX2}.TEMPORAL_ROUND_DISTILLED_SIGMA_VALUES", [0.975, 0.909375, 0.725, 0.421875]),
        (f"{LTX2}.DEFAULT_IMAGE_CRF", 33),
        ("diffusers.utils.WEIGHTS_NAME", "diffusion_pytorch_model.bin"),
        ("diffusers.utils.constants.WEIGHTS_NAME", "diffusion_pytorch_model.bin"),
        ("diffusers.DDIMScheduler", None),
        ("diffusers.schedulers.scheduling_ddim.DDIMScheduler.order", 1),
    ],
)
def test_constant_is_read_from_source(name: str, value: Any):
    if value is None:
        with pytest.raises(UnknownConstant):
            constant(name)
    else:
        assert constant(name) == value


def test_constants_equal_those_of_library():
    names = ["DEFAULT_NEGATIVE_PROMPT", "DISTILLED_SIGMA_VALUES", "LTX2_5_IMAGE_CRF",
             "T2V_DEFAULT_SYSTEM_PROMPT", "TEMPORAL_ROUND_DISTILLED_SIGMA_VALUES"]  # fmt: skip
    library = importlib.import_module(LTX2)
    for name in names:
        value = getattr(library, name)
        assert constant(f"{LTX2}.{name}") == value


@pytest.mark.parametrize("field", ["user_prompt_prefix", "max_new_tokens", "generation_kwargs"])
@pytest.mark.parametrize("name", ["GEMMA3", "GEMMA4"])
def test_fields_of_an_object_of_the_library_are_read(name: str, field: str):
    whole = f"{LTX2}.{name}_PROMPT_ENHANCEMENT_CONFIG"
    home, _, bare = whole.rpartition(".")
    assert constant(f"{whole}.{field}") == getattr(
        getattr(importlib.import_module(home), bare), field
    )


SOURCE = """
import dataclasses
from dataclasses import dataclass, field

TOKENS = 5

class Base:
    kind: str = "base"
    plain = TOKENS * 2

@dataclass
class Inner:
    tokens: int = TOKENS
    names: list = field(default_factory=lambda: ["a", "b"])
    empty: dict = field(default_factory=dict)

@dataclasses.dataclass(frozen=True)
class Outer(Inner):
    prefix: str = "x"
    inner: Inner = Inner(tokens=7)
    scale: float = field(default=0.5)
    drawn: float = field(default_factory=random)
    needed: int = field(repr=False)

@dataclass
class Changed:
    tokens: int = 1
    def __post_init__(self):
        self.tokens += 1

class Plain:
    def __init__(self, tokens): ...

MADE = Outer(1, prefix="y", inner=Inner(names=["c"]))
DEFAULT = Outer()
CHANGED, PLAIN = Changed(), 1
OTHER = Changed(tokens=2)
OBJECT = Plain(tokens=3)
SAME = MADE.inner
SUM = MADE.tokens + DEFAULT.inner.tokens
"""


@pytest.fixture
def module(tmp_path: Path) -> SourceModule:
    (tmp_path / "constants.py").write_text(SOURCE)
    return SourceModule(tmp_path / "constants.py")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MADE.tokens", 1), ("MADE.prefix", "y"), ("MADE.scale", 0.5), ("MADE.empty", {}),
        ("MADE.names", ["a", "b"]), ("MADE.inner.names", ["c"]), ("MADE.inner.tokens", 5),
        ("DEFAULT.tokens", 5), ("DEFAULT.inner.tokens", 7), ("DEFAULT.inner.empty", {}),
        ("SAME.names", ["c"]), ("SUM", 8), ("Outer.prefix", "x"), ("Outer.inner.tokens", 7),
        ("Base.kind", "base"), ("Base.plain", 10),
    ],
)  # fmt: skip
def test_fields_of_objects_are_read_from_source(module: SourceModule, name: str, value: Any):
    assert module.value_at(name.split(".")) == value


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("MADE", "its value is worked out only when the module runs."),
        ("SAME", "its value is worked out only when the module runs."),
        ("MADE.token", "Outer has none of this name. Did you mean 'tokens'?"),
        ("MADE.inner.nam", "Inner has none of this name. Did you mean 'names'?"),
        ("MADE.needed", "its value is worked out only when the module runs."),
        ("DEFAULT.drawn", "its value is worked out only when the module runs."),
        ("OTHER.tokens", "its value is worked out only when the module runs."),
        ("OBJECT.tokens", "its value is worked out only when the module runs."),
        ("TOKENS.real", "its value is worked out only when the module runs."),
        ("Outer", "it can be called, and is no value."),
        ("Outer.needed", "its value is worked out only when the module runs."),
    ],
)
def test_other_attributes_of_objects_are_refused(module: SourceModule, name: str, why: str):
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        module.value_at(name.split("."))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("os.environ", "only those of diffusers and transformers can be taken."),
        ("torch.float16", "only those of diffusers and transformers can be taken."),
        ("subprocess.Popen", "only those of diffusers and transformers can be taken."),
        ("diffusers.utils.import_utils.os.environ", "its module has none of this name."),
        ("diffusers.nowhere.deep.inside.NAME", "there is no module 'diffusers.nowhere'."),
        ("diffusers.utils.import_utils.USE_TF", "its value is worked out only when"),
        ("diffusers.utils.import_utils.os", "its module has none of this name."),
        (f"{LTX2}.trim_canvas", "it can be called, and is no value."),
        (f"{LTX2}.DISTILLED_SIGMA_VALUE", "Did you mean 'DISTILLED_SIGMA_VALUES'?"),
        (LTX2, "that is a module."),
        (f"{LTX2}.GEMMA3_PROMPT_ENHANCEMENT_CONFIG", "its value is worked out only when"),
        ("diffusers.../../etc.passwd", "that is no name with dots in it."),
        ("diffusers.__init__.x", "its module has none of this name."),
        ("", "that is no name with dots in it."),
        ("a" * 201, "that is no name with dots in it."),
        ("NO_SUCH_NAME", "its module has none of this name."),
    ],
)
def test_other_names_are_refused(name: str, why: str):
    with pytest.raises(UnknownConstant) as caught:
        constant(name)
    assert str(caught.value).startswith("There is no constant '")
    assert why in str(caught.value)


def test_constants_are_allowed_anywhere(bench: Bench):
    document = drawing(
        variables={"words": f"constant:{LTX2}.DEFAULT_NEGATIVE_PROMPT", "prompt": "a", "steps": 2},
        steps=[
            step(
                arguments={
                    "prompt": "variable:words",
                    "sigmas": f"constant:{LTX2}.STAGE_2_DISTILLED_SIGMA_VALUES",
                }
            )
        ],
    )
    plan = bench.plan(document)
    given = plan.steps[0].arguments
    assert given["prompt"].value.startswith("blurry, out of focus")
    assert given["sigmas"] == LiteralValue(value=[0.909375, 0.725, 0.421875])
    assert plan.inputs["words"] == given["prompt"].value
    assert plan.document == document
    typed = bench.plan(document, words="constant:os.environ").steps[0].arguments["prompt"]
    assert typed == LiteralValue(value="constant:os.environ")


@pytest.mark.parametrize("space", [" ", "  ", "\t"])
def test_spaces_around_a_constants_name_do_not_matter(bench: Bench, space: str):
    def negative(words: str) -> Any:
        variables = {"words": words, "prompt": "a fox", "steps": 2}
        return bench.plan(drawing(variables=variables)).inputs["words"]

    name = f"{LTX2}.DEFAULT_NEGATIVE_PROMPT"
    assert negative(f"constant:{space}{name}{space}") == negative(f"constant:{name}")


def test_unresolvable_constant_is_one_problem(bench: Bench):
    arguments = {"prompt": "variable:words", "num_inference_steps": "constant:os.environ"}
    document = drawing(variables={"words": "constant:os.getcwd"}, steps=[step(arguments=arguments)])
    why = "only those of diffusers and transformers can be taken."
    assert bench.problems(document) == {
        "variables.words": f"There is no constant 'os.getcwd': {why}",
        f"{ARGUMENTS}.num_inference_steps": f"There is no constant 'os.environ': {why}",
    }
