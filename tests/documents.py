"""Hypothesis strategies of documents from the dialect's schema, some of them damaged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from app.dialect.schema import COMPONENTS, VARIABLE, workflow_schema
from app.tasks import TASKS

SCHEMA = workflow_schema()
STEPS = st.sampled_from(["a", "b", "a.b", "c"])
CLASSES = st.sampled_from(
    [*["StableDiffusionPipeline"] * 30, "FluxPipeline", "WanPipeline", "DiffusionPipeline",
     "AutoencoderKL",
     "StableDiffusionImg2ImgPipeline", "ModularPipeline", "diffusers.EulerDiscreteScheduler",
     "transformers.pipeline", "transformers.T5EncoderModel", "sdnq.SDNQConfig", "variable:v",
     "BitsAndBytesConfig", "torchao.quantization.Int8WeightOnlyConfig",
     "os.system", "subprocess.Popen", "builtins.eval", "antigravity.fly", "app.shell.cli.main", "",
     "a.b.c"]
)  # fmt: skip
REFERENCES = st.sampled_from(
    ["variable:v", "variable:w", "variable:v", "variable:w", "variable:none",
     "variable:self", "previous_result:a",
     "previous_result:a.images", "previous_result:a.b.x", "previous_result:", "constant:os.environ",
     "constant:diffusers.pipelines.ltx2.utils.DEFAULT_NEGATIVE_PROMPT", "constant:antigravity.x",
     "{latent}", "torch.float16", "antigravity.fly"]
)  # fmt: skip
PLACES = st.sampled_from(
    ["a.png", "none.png", "../media/a.png", "/etc/passwd", "~/a.png", "../../../etc/hostname",
     "a\0b",
     "http://127.0.0.1:9/a.png", "http://169.254.169.254/latest", "file:///etc/passwd",
     "child.json",
     "builtin:test.json", "flow.json", "x" * 5000, "..", ".", "*.png", "**/*", "/*"]
)  # fmt: skip
MODELS = st.sampled_from(
    [*["../models/tiny"] * 20, "owner/name", "/etc", "../..", "tiny", "x\0", "~root"]
)
NUMBERS = st.sampled_from([0, 1, -1, 8, 20, 63, 512, 10**6, 2**64, 0.5, -0.0, 1e308])
TEXTS = st.text(max_size=6)
WORDS = st.sampled_from(["a", "vae", "unet", "text_encoder", "fp16", "é"])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | REFERENCES | PLACES
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["location", "media_type", "from_file", "from_arguments", "from_previous_result",
             "image", "config_type", "x_dtype", "output_type", "video", "mask_image", "a.b", "args",
             "shell"]
        ),
        inner,
        max_size=3,
    ),
    max_leaves=5,
)  # fmt: skip
ARGUMENTS = st.dictionaries(
    st.sampled_from(
        ["prompt", "negative_prompt", "image", "width", "height", "num_inference_steps", "strength",
         "num_images_per_prompt", "num_frames", "generator", "latents", "promt", "glob", "urls",
         "command", "output_type", "ip_adapter_image", "callback_on_step_end", "__class__"]
    ),
    VALUES,
    max_size=4,
)  # fmt: skip
KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "name": STEPS,
    "reference_name": STEPS,
    "component_type": CLASSES,
    "scheduler_type": CLASSES,
    "config_type": CLASSES,
    "attn_processor_type": CLASSES,
    "command": st.sampled_from([*["gather_inputs"] * 20, *TASKS, "os.system", "face_detector"]),
    "shared_components": st.sampled_from([[], [], ["vae"]]),
    "reused_components": st.sampled_from([[], [], ["vae"]]),
    "path": PLACES,
    "model_name": MODELS,
    "arguments": ARGUMENTS,
    "inputs": st.lists(ARGUMENTS, min_size=1, max_size=3),
    "pre_load_modules": st.lists(CLASSES, max_size=2),
    "from_pretrained_arguments": st.fixed_dictionaries(
        {"model_name": MODELS},
        optional={
            "torch_dtype": REFERENCES | CLASSES, "trust_remote_code": st.booleans(),
            "custom_pipeline": PLACES, "subfolder": PLACES, "variant": TEXTS, "revision": PLACES,
            "from_single_file": PLACES, "use_safetensors": st.booleans(), "scheduler": st.none(),
        },
    ),
    "variables": st.fixed_dictionaries(
        {"v": VALUES, "w": SCALARS, "self": st.just("variable:self")},
        optional={"image": PLACES, "x_dtype": CLASSES, "my_video": PLACES},
    ),
    "file_base_name": PLACES,
    "url": PLACES,
    "weight_name": st.sampled_from(["a.safetensors", "a.bin", "../a.safetensors", "x.ckpt"]),
}  # fmt: skip
"""Values of keys with a meaning, by name."""


def of_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Returns a strategy of values that fit this part of the dialect's schema."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return st.deferred(lambda: _defined(name))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    if "anyOf" in schema and "properties" not in schema:
        # A variable of none of these types would only give the same problem again and again.
        options = [option for option in schema["anyOf"] if option != VARIABLE]
        return st.one_of([of_schema(option) for option in options])
    simple: dict[str | None, Callable[[], st.SearchStrategy[Any]]] = {
        "integer": lambda: st.sampled_from([1, 7, 24]),
        "number": lambda: st.sampled_from([0.5, 1, 24.0]),
        "boolean": st.booleans,
        "null": st.none,
        "string": lambda: WORDS,
        "array": lambda: st.lists(of_schema(schema.get("items", {})), max_size=2),
        "object": lambda: _object(schema),
    }
    return simple.get(schema.get("type"), lambda: VALUES)()


_strategies: dict[str, st.SearchStrategy[Any]] = {}


def _defined(name: str) -> st.SearchStrategy[Any]:
    if name not in _strategies:
        _strategies[name] = of_schema(SCHEMA["$defs"][name])
    return _strategies[name]


def _object(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    properties = schema.get("properties", {})
    needed = set(schema.get("required", ()))
    drawn = {key: KNOWN[key] if key in KNOWN else of_schema(value)
             for key, value in properties.items()
             if key not in COMPONENTS or key in ("vae", "transformer")}  # fmt: skip
    required = {key: value for key, value in drawn.items() if key in needed}
    optional = {key: value for key, value in drawn.items() if key not in needed}
    if "oneOf" not in schema:
        return st.fixed_dictionaries(required, optional=optional)
    # Exactly one of some keys.
    choices = [option["required"][0] for option in schema["oneOf"]]
    optional = {key: value for key, value in optional.items() if key not in choices}
    return st.one_of([
        st.fixed_dictionaries(
            {**required, choice: drawn[choice].filter(lambda value: value is not None)},
            optional=optional,
        )
        for choice in choices
    ])  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, documents: st.SearchStrategy[Any]) -> Any:
    """Draws a document in which up to three things were replaced, removed or added."""
    # The strategies' own values must not be damaged.
    document = copy.deepcopy(draw(documents))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 3]))):
        holder = document
        while True:
            inner = [each for each in (holder.values() if isinstance(holder, dict) else holder)
                     if isinstance(each, dict | list) and each]  # fmt: skip
            if not inner or draw(st.integers(0, 3)) == 0:
                break
            holder = draw(st.sampled_from(inner))
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            continue
        key = draw(st.sampled_from(keys))
        match draw(st.integers(0, 2)):
            case 0:
                holder[key] = draw(VALUES)
            case 1:
                del holder[key]
            case _ if isinstance(holder, dict):
                holder[draw(TEXTS)] = draw(VALUES)
            case _:
                holder.append(holder[key])
    return document


# Hypothesis takes longer to inspect a strategy than to draw from it: these are made once.
FITTING = _object(SCHEMA)
ASKED = st.dictionaries(st.sampled_from(["v", "w"]), _defined("InputBlock"), max_size=1)


@st.composite
def sound(draw: st.DrawFn) -> Any:
    """Draws a document of the schema, whose steps have unique names."""
    document = draw(FITTING)
    document["steps"] = document["steps"] or [draw(_defined("StepDocument"))]
    for step, name in zip(document["steps"], ("a", "b", "a.b", "c"), strict=False):
        step["name"] = name
    return {**document, "inputs": draw(ASKED)}


def documents() -> st.SearchStrategy[Any]:
    """Returns a strategy of whole documents: some are valid, most are not."""
    return damaged(sound())
