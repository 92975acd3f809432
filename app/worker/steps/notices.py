"""Notices about a call: what changes the result and that its user would not expect."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from app.dialect.fingerprint import WEIGHTS
from app.dialect.plan import PipelineStep
from app.dialect.prompt_schedule import first_change
from app.dialect.weighting import has_marks, plain, read_weights
from app.errors import shortened
from app.planning.loading_arguments import FLOAT16_WARNING
from app.worker.loading.parts import Parts
from app.worker.steps.step_output import artifacts_of
from app.worker.tuning.prompt_changes import can_change
from app.worker.tuning.weighting import reading_of

LORA_TAG = re.compile(r"<\s*(?:lora|lyco|hypernet)\s*:[^<>]+>", re.IGNORECASE)
"""The syntax by which other programs load a LoRA from a prompt."""
EMBEDDING = re.compile(r"\bembedding:[\w.\\/-]+", re.IGNORECASE)
"""ComfyUI's syntax for a word of a textual inversion."""
WEIGHTED = re.compile(r"\([^()]+:\s*\d+(?:\.\d+)?\)")
"""The syntax by which other programs weight words."""
MAX_SHOWN = 200
MAX_WARNINGS = 20
MARKS = 2
"""Tokens before and after a text."""
LONGEST_LIMIT = 100_000
"""Tokenizers without a limit have a huge number instead of it."""
ROUNDED_PX = 64
"""A smaller difference of sizes is that of a rounding."""
SQUEEZED = 0.05
"""A larger relative difference of aspect ratios is no rounding."""


def plan_notices(warnings: Sequence[str], *, accelerator: bool) -> Iterator[str]:
    """Yields the plan's warnings that hold on this kind of device, the first of very many."""
    held = [each for each in warnings if not (accelerator and each == FLOAT16_WARNING)]
    yield from held[:MAX_WARNINGS]
    if (more := len(held) - MAX_WARNINGS) > 0:
        yield f"There are {more} more warnings about the workflow; `validate` shows them."


def prompt_notices(
    pipeline: Any, step: PipelineStep, arguments: Mapping[str, Any]
) -> Iterator[str]:
    """Yields what the pipeline will not read of its prompts, in sentences."""
    for name, value in arguments.items():
        if "prompt" not in name:
            continue
        for text in [value] if isinstance(value, str) else value if _is_texts(value) else []:
            shown_name = name.replace("_", " ")
            if tag := LORA_TAG.search(text):
                yield (
                    f"'{shortened(tag[0])}' in the {shown_name} is read as words: a LoRA is loaded"
                    " by the document's 'loras'."
                )
            if not step.textual_inversions and (tag := EMBEDDING.search(text)):
                yield (
                    f"'{shortened(tag[0])}' in the {shown_name} is read as words: an embedding is"
                    " loaded by the document's 'textual_inversions', and named by its word alone."
                )
            yield from _syntax_notices(pipeline, step, shown_name, text)
            if cut := _cut_off(pipeline, step, arguments, name, text):
                yield f"The {shown_name} is too long for the model, which does not read: '{cut}'."


def _syntax_notices(pipeline: Any, step: PipelineStep, shown_name: str, text: str) -> Iterator[str]:
    """Yields which marks of a prompt the pipeline takes for words."""
    weighted = found[0] if (found := WEIGHTED.search(text)) else ""
    changing = first_change(text)
    words = f" in the {shown_name} is read as words: "
    kind = type(pipeline).__name__
    if not step.prompt_weighting:
        needed = " 'prompt_weighting' in the pipeline's configuration."
        if weighted:
            yield f"'{shortened(weighted)}'{words}weights need{needed}"
        if changing and can_change(pipeline):
            yield f"'{shortened(changing)}'{words}changes between steps need{needed}"
    elif reading_of(pipeline) == "literal":
        if has_marks(text):
            yield f"The {shown_name} is taken as it stands: a {kind} reads no weights."
    elif changing and not can_change(pipeline):
        yield (
            f"'{shortened(changing)}'{words}the prompts of a {kind} cannot change between steps."
        )


def unused_words(words: Iterable[str], arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence for each word of a textual inversion that is in no prompt of the call."""
    prompts = [value for name, value in arguments.items() if "prompt" in name]
    listed = [[each] if isinstance(each, str) else each for each in prompts if each is not None]
    # Embeddings of prompts may be given instead of texts.
    texts = "\n".join(text for each in listed if _is_texts(each) for text in each).lower()
    for word in words:
        if word.lower() not in texts:
            yield f"No prompt has the word '{shortened(word)}': its embedding has no effect."


def variant_notices(parts: Parts) -> Iterator[str]:
    """Yields a sentence for each component without files of the variant that is asked for."""
    for part in parts.parts:
        weights = [file.name for file in part.files if file.name.endswith(WEIGHTS)]
        if part.variant and weights and not any(f".{part.variant}." in name for name in weights):
            yield (
                f"The {part.name} of '{part.source.short_name}' has no files of the variant"
                f" '{part.variant}': its usual ones are used."
            )


def size_notice(arguments: Mapping[str, Any], made: Sequence[Any]) -> str:
    """Returns a sentence where an image was drawn in another shape than the given one; else ""."""
    given = arguments.get("image")
    first = next(iter(given), None) if isinstance(given, list | tuple) else given
    drawn = next((each for each in _images(made)), None)
    if not isinstance(first, Image.Image) or drawn is None:
        return ""
    if first.size == drawn.size or {"width", "height"} & arguments.keys():
        return ""
    (width, height), (new_width, new_height) = first.size, drawn.size
    sizes = f"The picture of {width} x {height} pixels was drawn with {new_width} x {new_height}"
    if max(abs(width - new_width), abs(height - new_height)) < ROUNDED_PX:
        return f"{sizes}: the model draws only multiples of some pixels."
    if is_of_other_shape(drawn.size, first.size):
        return f"{sizes}, which squeezes it: set 'width' and 'height' to keep its shape."
    return ""


def is_of_other_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Returns True where these sizes have other aspect ratios, beyond a rounding."""
    ratio = (size[0] / size[1]) / (other[0] / other[1])
    return not 1 / (1 + SQUEEZED) <= ratio <= 1 + SQUEEZED


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _images(made: Sequence[Any]) -> Iterator[Image.Image]:
    artifacts = (artifact for each in made for artifact in artifacts_of(each))
    yield from (each for each in artifacts if isinstance(each, Image.Image))


def _readers(name: str, arguments: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> list[Any]:
    """Returns the tokenizers that read this argument: `prompt_2` belongs to the second, and
    `prompt` to all that have no argument of their own."""
    _, _, number = name.rpartition("_")
    if number.isdigit():
        return [tokenizers[key] for key in [f"tokenizer_{number}"] if key in tokenizers]
    own = {
        f"tokenizer_{number}"
        for number in range(2, 5)
        if arguments.get(f"{name}_{number}") is not None
    }
    return [tokenizer for key, tokenizer in tokenizers.items() if key not in own]


def _cut_off(
    pipeline: Any, step: PipelineStep, arguments: Mapping[str, Any], name: str, written: str
) -> str:
    """Returns the end of the argument's text that none of the encoders reads, "" where one reads
    it all, or may."""
    tokenizers = {
        key: component
        for key, component in pipeline.components.items()
        if key.startswith("tokenizer") and component is not None
    }
    if step.prompt_weighting and (reading := reading_of(pipeline)) != "literal":
        given = any(
            key.endswith("prompt_embeds") and arguments[key] is not None for key in arguments
        )
        if reading == "chunks" and not given:
            return ""
        written = plain(read_weights(written))
    expands = bool(step.textual_inversions)
    ends = []
    for tokenizer in _readers(name, arguments, tokenizers):
        text = pipeline.maybe_convert_prompt(written, tokenizer) if expands else written
        limit = _limit(pipeline, tokenizer, arguments)
        # A token has one byte or more; most prompts are shorter than that.
        if limit is None or len(text.encode()) + MARKS <= limit:
            return ""
        read = tokenizer(
            text, truncation=False, verbose=False, return_offsets_mapping=tokenizer.is_fast
        )
        ids = read.input_ids
        if len(ids) <= limit:
            return ""
        # Of a text whose end is marked, the last of the kept tokens marks it.
        marks = int(ids[-1] in tokenizer.all_special_ids)
        if tokenizer.is_fast:
            ends.append(text[read.offset_mapping[limit - marks][0] :].strip())
        else:
            ends.append(str(tokenizer.decode(ids[limit - marks : len(ids) - marks])).strip())
    return shortened(min(ends, key=len), MAX_SHOWN) if ends else ""


def _limit(pipeline: Any, tokenizer: Any, arguments: Mapping[str, Any]) -> int | None:
    """Returns how many tokens of a prompt the pipeline reads; None where it does not say.

    Some of them are a language model's own, around the prompt.
    """
    if type(tokenizer).__name__.startswith("CLIPTokenizer"):
        most = tokenizer.model_max_length
        return int(most) if most < LONGEST_LIMIT else None
    if not hasattr(tokenizer, "all_special_ids"):
        # A processor, for several kinds of inputs.
        return None
    length = arguments.get("max_sequence_length")
    if length is None:
        known = inspect.signature(type(pipeline).__call__).parameters.get("max_sequence_length")
        length = known.default if known is not None else None
    return length if isinstance(length, int) else None
