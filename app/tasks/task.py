"""What a task is: its arguments, typed and checked while planning, and what runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from PIL import Image
from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from app.errors import nearest
from app.mistakes import in_words
from app.packages import Package
from app.tasks.media import as_picture, as_sound, check_video

Gives = Literal["image", "video", "audio", "text", "data", "tensor", "anything"]


class _Standing:
    """Stands for something in a sentence."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return self._words


UNKNOWN: Final = _Standing("a result")
"""What an earlier step will have made, while planning."""
_PICTURE = _Standing("a picture")


class Arguments(BaseModel):
    """The arguments of a task; a subclass lists them. Nothing is converted."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True
    )


def _media(kind: str, check: Callable[[Any], Any]) -> PlainValidator:
    def validate(value: Any) -> Any:
        if value is UNKNOWN:
            return value
        try:
            return check(value)
        except ValueError as error:
            raise PydanticCustomError("media", f"{kind} is needed: {error}") from error

    return PlainValidator(validate)


def _checked_video(value: Any) -> Any:
    check_video(value)
    return value


def _checked_sound(value: Any) -> Any:
    as_sound(value)
    return value


Picture = Annotated[Image.Image, _media("A picture", as_picture)]
Video = Annotated[Any, _media("A video", _checked_video)]
"""Kept as it came: a step after this one may want its sound."""
Sound = Annotated[Any, _media("A sound", _checked_sound)]
"""Kept as it came: an AudioVideo knows its sample rate."""


OPENCV = Package("cv2", "opencv-python-headless")
TORCHVISION = Package("torchvision", "torchvision")
CONTROLNET_AUX = Package("controlnet_aux", "controlnet_aux")
SPANDREL = Package("spandrel", "spandrel")


class Loads(NamedTuple):
    """One component that a task loads."""

    name: str
    """What it is to the task; shown where memory is."""
    class_name: str
    """Qualified: `transformers.AutoTokenizer`."""
    model: Any
    """A folder, or a repository of the hub."""
    argument: str = "model_name"
    """Which argument names the model."""
    files: Mapping[str, str] = {}
    """Of a model that its own library loads: what that calls them → where they are."""
    file: str | None = None
    """Its weights in a single file of the model; "": the model is the file."""


class Loaded(NamedTuple):
    """What a task's models are when it runs."""

    components: Mapping[str, Any]
    """By the names under which the task loads them."""
    folders: Mapping[str, Path]
    """Where each lies, by the same names."""
    device: Any
    """The torch device they lie on."""
    progress: Callable[[int, int], None]
    """To be told that so many of so many pieces of the call are done."""
    kept: dict[str, Any]
    """What a call leaves to the other calls of its step."""


def loads_nothing(_values: Mapping[str, Any]) -> tuple[Loads, ...]:
    """For tasks without models."""
    return ()


def draws_nothing(_values: Mapping[str, Any]) -> bool:
    """For tasks that give the same each time."""
    return False


class Becomes(NamedTuple):
    """The call of a pipeline that a task is another name for."""

    pipeline_class: str
    """Qualified: `diffusers.StableDiffusionUpscalePipeline`."""
    model: Any
    """A folder, or a repository of the hub."""
    arguments: tuple[str, ...]
    """Those of the task that are the pipeline's, by their common names."""


class Task(NamedTuple):
    """One command of the dialect."""

    arguments: type[Arguments]
    run: Callable[..., Any] | None
    """Called with the arguments, and with a numpy Generator where the task is `random`, or with
    what is `Loaded` where it loads something. None for a task that becomes a pipeline."""
    gives: Gives
    many: bool = False
    """Whether every item of the list it returns is a result of its own."""
    keys: tuple[str, ...] = ()
    """Of the mapping it returns, where it returns one."""
    random: bool = False
    packages: tuple[Package, ...] = ()
    loads: Callable[[Mapping[str, Any]], tuple[Loads, ...]] = loads_nothing
    """What a call with these arguments loads; what is not known yet is UNKNOWN."""
    draws: Callable[[Mapping[str, Any]], bool] = draws_nothing
    """Whether a call with these arguments draws from torch's own generator."""
    becomes: Callable[[Mapping[str, Any]], Becomes] | None = None
    """The pipeline's call that a call with these arguments is."""


class Mistake(NamedTuple):
    """One thing that is wrong with arguments: where below them, the sentence, the hint."""

    path: tuple[str | int, ...]
    message: str
    hint: str = ""


def mistakes(command: str, task: Task, values: Mapping[str, Any]) -> list[Mistake]:
    """Everything that is wrong with these arguments; what is UNKNOWN passes."""
    return mistakes_in(command, task.arguments, values)


def mistakes_in(title: str, arguments: type[Arguments], values: Mapping[str, Any]) -> list[Mistake]:
    """As `mistakes`, of arguments of anything; `title` is what takes them, in the sentences."""
    try:
        arguments.model_validate(dict(values))
    except ValidationError as error:
        fields = arguments.model_fields.items()
        known = [field.alias or name for name, field in fields]
        return [
            _mistake(title, details, known)
            for details in error.errors()
            if details["input"] is not UNKNOWN or details["type"] == "extra_forbidden"
        ]
    return []


def _mistake(title: str, details: ErrorDetails, known: list[str]) -> Mistake:
    path = details["loc"]
    match details["type"]:
        case "extra_forbidden":
            key = str(path[-1])
            return Mistake(path, f"{title} takes no '{key}'.", nearest(key, known))
        case "missing":
            return Mistake(path[:-1], f"'{path[-1]}' is missing.")
        case _:
            if isinstance(details["input"], Image.Image):
                details = {**details, "input": _PICTURE}
            return Mistake(path, *in_words(details))
