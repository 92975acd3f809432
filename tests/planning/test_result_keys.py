"""Result keys of steps, and which steps run when results are cached."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
from pydantic import Field

from app.dialect.plan import PipelineStep, ResultSpec, Step, TaskStep
from app.dialect.plan_settings import (
    ComponentChanges,
    LayerwiseCasting,
    SchedulerChange,
    Tuning,
)
from app.dialect.plan_sources import (
    ComponentBlock,
    IpAdapterSource,
    LoraSource,
    ModelSource,
    ModularSettings,
    TextualInversionSource,
)
from app.dialect.plan_values import (
    FileValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    ResultValue,
    Value,
)
from app.dialect.setting_blocks import MagCache, TeaCacheBlock
from app.planning.result_keys import (
    DESCRIBED,
    NOT_DECISIVE,
    RESOLVED_IN,
    result_key,
    steps_to_run,
)

EARLIER = {"before": "k1", "other": "k2", "random": None}


def step(name: str = "draw", *refers_to: str, saves: bool = True, **changes: Any) -> PipelineStep:
    arguments: dict[str, Value] = {"prompt": LiteralValue(value="a red circle")}
    arguments |= {f"image{n}": ResultValue(step=other) for n, other in enumerate(refers_to)}
    fields: dict[str, Any] = {
        "name": name,
        "place": "steps[0]",
        "pipeline_class": "diffusers.StableDiffusionPipeline",
        "source": ModelSource(model="a"),
        "arguments": arguments,
        "seed": 7,
        "result": ResultSpec(content_type="image/png") if saves else None,
    }
    return PipelineStep(**{**fields, **changes})


def key(
    of: Step,
    loaded: str = "a",
    machine: str = "cpu",
    earlier: Mapping[str, str | None] = EARLIER,
) -> str | None:
    return result_key(of, loaded=loaded, machine=machine, earlier=earlier)


def given(value: Value) -> PipelineStep:
    return step(arguments={"image": value})


# --- what decides --------------------------------------------------------------------------------


def test_name_and_result_block_do_not_change_key():
    renamed = step("sketch", place="steps[4]", result=ResultSpec(content_type="image/webp"))
    assert key(step()) == key(renamed)


OTHER_VALUES: dict[str, Any] = {
    "pipeline_class": "diffusers.FluxPipeline",
    "dtype": "float16",
    "modular": ModularSettings(workflow="text2image"),
    "absent": ("vae",),
    "scheduler": SchedulerChange(),
    "audio_scheduler": SchedulerChange(shift=3.0),
    "sdnq_matmul": ("transformer",),
    "offload": "model",
    "vae_tiling": True,
    "vae_slicing": True,
    "cache": MagCache(type="mag", calibrate=True),
    "teacache": TeaCacheBlock(rel_l1_thresh=0.5),
    "prompt_weighting": True,
    "attention_backend": "native",
    "dtypes": {"vae": "float16"},
    "casting": LayerwiseCasting(storage_dtype="float8_e4m3fn", compute_dtype="float16"),
    "changes": {"vae": ComponentChanges(channels_last=True)},
    "tunings": {"vae": Tuning(forward_chunking=True)},
    "attention_slicing": True,
    "streams": True,
    "never_offloaded": ("vae",),
    "generator": False,
}
"""Fields of a pipeline step that enter its key unchanged."""


def test_every_decisive_field_of_pipeline_step_changes_key():
    fields = set(PipelineStep.model_fields) - NOT_DECISIVE - DESCRIBED - {"kind", *RESOLVED_IN}
    assert set(OTHER_VALUES) == fields
    keys = [key(step(**{name: value})) for name, value in OTHER_VALUES.items()]
    assert len({key(step()), *keys}) == len(keys) + 1


def test_new_field_is_part_of_key():
    class Grown(PipelineStep):
        new: str = "a"

    plain = step().model_dump()
    assert key(Grown(**plain)) != key(Grown(**plain, new="b"))


class GrownLora(LoraSource):
    new: str = "a"


class GrownInversion(TextualInversionSource):
    new: str = "a"


class GrownAdapter(IpAdapterSource):
    new: str = "a"


class GrownBlock(ComponentBlock):
    new: str = "a"


class GrownInside(PipelineStep):
    """A step whose adapters and components have a new field."""

    components: dict[str, GrownBlock] = Field(default_factory=dict)
    loras: tuple[GrownLora, ...] = ()
    textual_inversions: tuple[GrownInversion, ...] = ()
    ip_adapters: tuple[GrownAdapter, ...] = ()


SOURCE = ModelSource(model="b")
NESTED: dict[str, Callable[..., Any]] = {
    "loras": lambda **changes: (GrownLora(source=SOURCE, adapter_name="a", **changes),),
    "textual_inversions": lambda **changes: (GrownInversion(source=SOURCE, **changes),),
    "ip_adapters": lambda **changes: (
        GrownAdapter(source=SOURCE, weight_name="a.safetensors", image_encoder="b", **changes),
    ),
    "components": lambda **changes: {
        "vae": GrownBlock(class_name="diffusers.AutoencoderKL", source=SOURCE, **changes)
    },
}


@pytest.mark.parametrize("name", RESOLVED_IN)
def test_a_field_that_an_adapter_or_a_component_gets_is_part_of_the_key(name: str):
    plain = step().model_dump()
    one, other = (GrownInside(**{**plain, name: NESTED[name](new=new)}) for new in ("a", "b"))
    assert key(one) != key(other)


@pytest.mark.parametrize("name", ["loras", "ip_adapters"])
def test_an_adapters_scale_is_part_of_the_key(name: str):
    made = NESTED[name]
    assert key(step(**{name: made()})) != key(step(**{name: made(scale=0.5)}))


def test_an_inversions_word_is_part_of_the_key():
    made = NESTED["textual_inversions"]
    keys = [key(step(textual_inversions=made(token=word))) for word in (None, "a", "b")]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"command": "resize_rescale"},
        {"random": True},
        {"on_cpu": True},
        {"calls": ({"scale": LiteralValue(value=2)},)},
        {"calls": ({}, {})},
    ],
    ids=str,
)
def test_every_decisive_field_of_task_changes_key(changed: dict[str, Any]):
    task: dict[str, Any] = {
        "name": "cut", "place": "steps[0]", "command": "gather", "calls": ({},), "seed": 7,
    }  # fmt: skip
    assert key(TaskStep(**task)) != key(TaskStep(**{**task, **changed}))
    left_out = NOT_DECISIVE | DESCRIBED | {"kind", "command", "random", "on_cpu", "components"}
    assert set(TaskStep.model_fields) <= left_out


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 8},
        {"arguments": {"prompt": LiteralValue(value="a red circle ")}},
        {"arguments": {"prompt": LiteralValue(value=["a red circle"])}},
        {"scheduler": SchedulerChange(shift=3.0)},
    ],
    ids=str,
)
def test_key_changes_with_everything_that_changes_result(changed: dict[str, Any]):
    assert key(step()) != key(step(**changed))


def test_key_changes_with_weights_and_machine():
    assert len({key(step()), key(step(), loaded="b"), key(step(), machine="cuda:0")}) == 3


def test_image_is_identified_by_content():
    one, moved, other = (
        FileValue(kind="image", path=path, sha256=sha256)
        for path, sha256 in (("/a.png", "1"), ("/b.png", "1"), ("/a.png", "2"))
    )
    for wrap in (
        lambda value: value,
        lambda value: ListValue(items=(value,)),
        lambda value: ObjectValue(entries={"image": value}),
    ):
        assert key(given(wrap(one))) == key(given(wrap(moved)))
        assert key(given(wrap(one))) != key(given(wrap(other)))


def test_reference_is_identified_by_step_key_and_property():
    references = [
        ResultValue(step="before"),
        ResultValue(step="other"),
        ResultValue(step="before", property="width"),
        ResultValue(step="before", handed_at="steps[1].workflow.arguments.image"),
    ]
    assert len({key(given(reference)) for reference in references}) == 4
    renamed = {"sketch": EARLIER["before"]}
    assert key(given(references[0])) == key(given(ResultValue(step="sketch")), earlier=renamed)


def test_order_of_references_changes_key():
    one, other = ResultValue(step="before"), ResultValue(step="other")
    in_order = step(arguments={"image": one, "mask_image": other})
    assert key(in_order) != key(step(arguments={"mask_image": other, "image": one}))


# --- what has no key -----------------------------------------------------------------------------


def test_step_with_random_seed_has_no_key():
    assert key(step(seed_drawn=True)) is None


def test_step_without_generator_has_no_key():
    assert key(step(generator=False)) is None


def test_step_that_depends_on_keyless_step_has_no_key():
    random = ResultValue(step="random")
    assert key(given(ListValue(items=(ObjectValue(entries={"image": random}),)))) is None


# --- which steps run -----------------------------------------------------------------------------

CHAIN = [step("a"), step("b", "a"), step("c", "b")]
HIDDEN = [step("a", saves=False), step("b", "a", saves=False), step("c", "b")]


@pytest.mark.parametrize(
    ("steps", "known", "running"),
    [
        (CHAIN, "", "abc"),
        (CHAIN, "ab", "c"),
        (CHAIN, "abc", ""),
        (CHAIN, "bc", "a"),
        (HIDDEN, "c", ""),
        (HIDDEN, "b", "c"),
        (HIDDEN, "a", "bc"),
        (HIDDEN, "", "abc"),
    ],
)
def test_step_runs_when_saved_or_needed(
    steps: list[PipelineStep], known: Collection[str], running: str
):
    assert steps_to_run(steps, known) == set(running)


def test_step_without_files_and_references_runs():
    assert steps_to_run([step("a", saves=False), step("b")], "b") == {"a"}
