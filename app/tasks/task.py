"""The definition of a task: typed arguments, checked while planning, and a function."""

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
from app.tasks.media import as_audio, as_image, check_video

Gives = Literal["image", "video", "audio", "text", "data", "tensor", "anything"]


class _Placeholder:
    """A placeholder with a name for sentences."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return self._words


UNKNOWN: Final = _Placeholder("a result")
"""Stands for the result of an earlier step, while planning."""
_IMAGE = _Placeholder("a picture")


class Arguments(BaseModel):
    """Base class of a task's arguments; values are not converted."""

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


def _checked_audio(value: Any) -> Any:
    as_audio(value)
    return value


ImageInput = Annotated[Image.Image, _media("A picture", as_image)]
VideoInput = Annotated[Any, _media("A video", _checked_video)]
"""Not converted: a later step may need its audio."""
AudioInput = Annotated[Any, _media("A sound", _checked_audio)]
"""Not converted: an AudioVideo has its sample rate."""


OPENCV = Package("cv2", "opencv-python-headless")
TORCHVISION = Package("torchvision", "torchvision")
CONTROLNET_AUX = Package("controlnet_aux", "controlnet_aux")
SPANDREL = Package("spandrel", "spandrel")
TIMM = Package("timm", "timm")
KORNIA = Package("kornia", "kornia")
EINOPS = Package("einops", "einops")


class Loads(NamedTuple):
    """One component that a task loads."""

    name: str
    """The task's name for it; shown in the Memory panel."""
    class_name: str
    """Qualified: `transformers.AutoTokenizer`."""
    model: Any
    """A folder, or a repository of the hub."""
    argument: str = "model_name"
    """The argument that names the model."""
    files: Mapping[str, str] = {}
    """Files for a model's own library: argument names with paths."""
    file: str | None = None
    """A single weight file in the model; "" if the model is the file."""
    code: bool = False
    """Whether the model's own code defines the class: the operator has to trust its repository."""


Progress = Callable[[int, int], None]
"""Reports pieces of the call done, and their total; a run can stop there."""


class Loaded(NamedTuple):
    components: Mapping[str, Any]
    """By the task's names."""
    folders: Mapping[str, Path]
    """By the task's names."""
    device: Any
    """Their torch device."""
    progress: Progress
    kept: dict[str, Any]
    """State shared by the calls of a step."""


def loads_nothing(_values: Mapping[str, Any]) -> tuple[Loads, ...]:
    return ()


def draws_nothing(_values: Mapping[str, Any]) -> bool:
    return False


def warns_of_nothing(_values: Mapping[str, Any]) -> Mapping[str, str]:
    return {}


class Becomes(NamedTuple):
    """The pipeline call that a task stands for."""

    pipeline_class: str
    """Qualified: `diffusers.StableDiffusionUpscalePipeline`."""
    model: Any
    """A folder, or a repository of the hub."""
    arguments: tuple[str, ...]
    """Arguments passed to the pipeline, under the same names."""


class Task(NamedTuple):
    arguments: type[Arguments]
    run: Callable[..., Any] | None
    """Called with the arguments, and a numpy Generator if `random`, Loaded if it loads models, or a
    Progress if it `reports`. None for a task that becomes a pipeline call."""
    gives: Gives
    many: bool = False
    """Whether every item of the returned list is a result of its own."""
    keys: tuple[str, ...] = ()
    """Keys of the returned mapping, if it returns one."""
    random: bool = False
    reports: bool = False
    """Whether a call without a model takes long."""
    packages: tuple[Package, ...] = ()
    loads: Callable[[Mapping[str, Any]], tuple[Loads, ...]] = loads_nothing
    """Returns the models for these arguments, of which some may be UNKNOWN."""
    draws: Callable[[Mapping[str, Any]], bool] = draws_nothing
    """Returns whether a call with these arguments draws from torch's global generator."""
    warns: Callable[[Mapping[str, Any]], Mapping[str, str]] = warns_of_nothing
    """Returns a sentence for each argument that counts as another value."""
    becomes: Callable[[Mapping[str, Any]], Becomes] | None = None
    """Returns the pipeline call for these arguments."""
    quickens_by: str = ""
    """The argument by which the video's frame rate is multiplied."""


class Mistake(NamedTuple):
    """A mistake in arguments: its path, a sentence, a hint."""

    path: tuple[str | int, ...]
    message: str
    hint: str = ""


def mistakes(command: str, task: Task, values: Mapping[str, Any]) -> list[Mistake]:
    """Returns all mistakes in these arguments; UNKNOWN values pass."""
    return mistakes_in(command, task.arguments, values)


def mistakes_in(title: str, arguments: type[Arguments], values: Mapping[str, Any]) -> list[Mistake]:
    """Returns all mistakes, as `mistakes`; `title` names what takes the arguments."""
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
                details = {**details, "input": _IMAGE}
            return Mistake(path, *in_words(details))
