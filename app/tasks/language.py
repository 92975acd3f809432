"""Text generation with language models and vision-language models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from app.errors import StepError
from app.tasks.task import UNKNOWN, Arguments, ImageInput, Loaded, Loads, Task

LANGUAGE_MODEL = "Qwen/Qwen2.5-1.5B-Instruct"
VISION_MODEL = "HuggingFaceTB/SmolVLM-256M-Instruct"
SEEING_REPETITION_PENALTY = 1.15
"""Small vision models repeat themselves without it."""
Tokens = Annotated[int, Field(ge=1, le=32_768)]
Share = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(gt=0, le=10)]


class Generation(Arguments):
    """Decoding options of transformers' GenerationConfig."""

    do_sample: bool | None = None
    temperature: Annotated[float, Field(gt=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Share | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    num_beams: Annotated[int, Field(ge=1, le=16)] | None = None
    length_penalty: float | None = None
    early_stopping: bool | None = None
    min_new_tokens: Tokens | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=100)] | None = None
    repetition_penalty: Penalty | None = None


NOT_DRAWING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0}
"""Neutral values of sampling options for greedy decoding; other options default to the model's."""


class TextGeneration(Arguments):
    prompt: str
    system_prompt: str | None = None
    image: ImageInput | None = None
    model_name: str | None = None
    """None: a small language model, or with an image a small vision model."""
    max_new_tokens: Tokens = 500
    repetition_penalty: Penalty | None = None
    generate_kwargs: Generation | None = None


class ImageToText(Arguments):
    image: ImageInput
    prompt: str = "Describe this image."
    system_prompt: str | None = None
    model_name: str = VISION_MODEL
    max_new_tokens: Tokens = 50


def text_generation(arguments: TextGeneration, loaded: Loaded) -> str:
    """Returns the model's text; greedy decoding unless `do_sample`."""
    settings = arguments.generate_kwargs or Generation()
    penalty = arguments.repetition_penalty
    if penalty is None and arguments.image is not None:
        penalty = SEEING_REPETITION_PENALTY
    if settings.repetition_penalty is None:
        settings = settings.model_copy(update={"repetition_penalty": penalty})
    inputs = (
        _vision_inputs(arguments, loaded)
        if arguments.image is not None
        else _text_inputs(arguments, loaded)
    )
    return _generated(inputs, arguments.max_new_tokens, settings, loaded)


def image_to_text(arguments: ImageToText, loaded: Loaded) -> str:
    """Returns the model's description of the image."""
    return _generated(
        _vision_inputs(arguments, loaded), arguments.max_new_tokens, Generation(), loaded
    )


def _text_inputs(arguments: TextGeneration, loaded: Loaded) -> Mapping[str, Any]:
    """Returns the prompt as tokens, with the model's chat template if it has one."""
    tokenizer = loaded.components["tokenizer"]
    messages = [{"role": "user", "content": arguments.prompt}]
    if arguments.system_prompt:
        messages.insert(0, {"role": "system", "content": arguments.system_prompt})
    if tokenizer.chat_template is None:
        text = "\n".join(message["content"] for message in messages)
        return dict(tokenizer(text, return_tensors="pt"))
    return dict(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    )


def _vision_inputs(arguments: TextGeneration | ImageToText, loaded: Loaded) -> Mapping[str, Any]:
    """Returns prompt and image as inputs from the model's own processor."""
    if "processor" not in loaded.kept:
        loaded.kept["processor"] = _processor(loaded)
    processor = loaded.kept["processor"]
    messages: list[dict[str, Any]] = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": arguments.prompt}],
        }
    ]
    if arguments.system_prompt:
        words = [{"type": "text", "text": arguments.system_prompt}]
        messages.insert(0, {"role": "system", "content": words})
    if processor.chat_template is None and processor.tokenizer.chat_template is None:
        raise StepError(
            "The model has no chat template, which is needed for pictures.",
            hint="Take one that was trained for conversation (…-Instruct).",
        )
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    image = arguments.image
    assert image is not None
    return dict(processor(text=[text], images=[image.convert("RGB")], return_tensors="pt"))


def _processor(loaded: Loaded) -> Any:
    """Returns the model's own processor over the held tokenizer and image processor.

    Transformers would load it with its video processor, which needs torchvision; no task passes a
    video.
    """
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    found = PROCESSOR_MAPPING.get(type(loaded.components["model"].config), None)
    if found is None:
        raise StepError("The model does not accept pictures.")

    class WithoutVideo(found):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument is not None:
                return super().check_argument_for_proper_class(argument_name, argument)
            return None

    settings, _ = found.get_processor_dict(loaded.folders["tokenizer"], local_files_only=True)
    # Copied, since the processor may add tokens.
    parts = {
        "tokenizer": copy.deepcopy(loaded.components["tokenizer"]),
        "image_processor": loaded.components["image_processor"],
    }
    names = found.get_attributes()
    if strange := [name for name in names if name not in (*parts, "video_processor")]:
        raise StepError(f"The model needs a {strange[0]}, which this task does not provide.")
    try:
        return WithoutVideo.from_args_and_dict([parts.get(name) for name in names], settings)
    except ImportError as error:
        raise StepError(f"The model's processor needs a package: {error}") from error


def _generated(
    inputs: Mapping[str, Any], max_new_tokens: int, settings: Generation, loaded: Loaded
) -> str:
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    model, tokenizer = loaded.components["model"], loaded.components["tokenizer"]
    given = {
        name: value.to(loaded.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    length = given["input_ids"].shape[1]
    config = copy.deepcopy(model.generation_config)
    chosen = {name: value for name, value in settings if value is not None}
    drawn = bool(chosen.get("do_sample"))
    config.update(
        **{**({} if drawn else NOT_DRAWING), "do_sample": drawn, **chosen},
        max_new_tokens=max_new_tokens,
        max_length=None,
    )
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.eos_token_id

    class _ProgressReporter(StoppingCriteria):  # type: ignore[misc]
        """Never stops; reports progress after every token."""

        def __call__(self, input_ids: Any, scores: Any, **_more: Any) -> Any:
            loaded.progress(input_ids.shape[1] - length, max_new_tokens)
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    tokens = model.generate(
        **given,
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([_ProgressReporter()]),
    )
    return str(tokenizer.decode(tokens[0, length:], skip_special_tokens=True))


def _draws(values: Mapping[str, Any]) -> bool:
    settings = values.get("generate_kwargs")
    return settings is UNKNOWN or bool(settings and settings.get("do_sample"))


def _language_model(model: Any) -> tuple[Loads, ...]:
    return (
        Loads("model", "transformers.AutoModelForCausalLM", model),
        Loads("tokenizer", "transformers.AutoTokenizer", model),
    )


def _vision_model(model: Any) -> tuple[Loads, ...]:
    return (
        Loads("model", "transformers.AutoModelForImageTextToText", model),
        Loads("tokenizer", "transformers.AutoTokenizer", model),
        Loads("image_processor", "transformers.AutoImageProcessor", model),
    )


def _loads(values: Mapping[str, Any]) -> tuple[Loads, ...]:
    model = values["model_name"]
    if values["image"] is None:
        return _language_model(LANGUAGE_MODEL if model is None else model)
    return _vision_model(VISION_MODEL if model is None else model)


TEXT_GENERATION = Task(TextGeneration, text_generation, gives="text", loads=_loads, draws=_draws)
IMAGE_TO_TEXT = Task(
    ImageToText, image_to_text, gives="text", loads=lambda v: _vision_model(v["model_name"])
)
