"""Plans a document's chain block, and notes its problems."""

from __future__ import annotations

from collections.abc import Mapping

from app.dialect.document import ChainBlock
from app.dialect.plan import Chain
from app.dialect.plan_values import BuiltValue, ListValue, LiteralValue, ResultValue, Value
from app.dialect.references import Path as Place
from app.errors import nearest
from app.planning.called import Called
from app.planning.objects import data_class
from app.planning.values import ValueReader

OF_LAST_SEGMENT = ("carry_frames", "carry_audio")


def read_chain(
    block: ChainBlock,
    arguments: Mapping[str, Value],
    called: Called,
    reader: ValueReader,
    at: Place,
) -> Chain:
    """Returns the plan of a call in segments; problems are noted.

    `arguments` are those of `called`.
    """
    frames = _number(arguments.get("num_frames"))
    fps = block.fps or _number(arguments.get("frame_rate"))
    _check_length(block, arguments, fps, reader, at)
    _check_carry(block, called, reader, at)
    if block.continuity == "last_segment":
        _check_target(block, arguments, reader, at)
    if block.keep_segments and not block.save_segments:
        reader.note(
            (*at, "keep_segments"),
            "Only saved segments can be kept.",
            "Set 'save_segments' too.",
        )
    if block.save_segments and fps is None:
        reader.note(at, "Saved segments need a frame rate.", _SAY_FPS)
    _check_frames(block, frames, reader, at)
    return Chain(
        segments=block.segments,
        continuity=block.continuity,
        segment_argument=block.segment_argument,
        carry_frames=block.carry_frames,
        carry_audio=block.carry_audio,
        trim_frames=block.trim_frames,
        crossfade_ms=block.crossfade_ms,
        fps=fps,
        frame_snap=block.frame_snap,
        prompts=tuple(
            reader.read(prompt, (*at, "prompts", index))
            for index, prompt in enumerate(block.prompts or ())
        ),
        save_segments=block.save_segments,
        keep_segments=block.keep_segments,
    )


_SAY_FPS = "Set 'fps', or give the pipeline a 'frame_rate'."


def _check_length(
    block: ChainBlock,
    arguments: Mapping[str, Value],
    fps: float | None,
    reader: ValueReader,
    at: Place,
) -> None:
    if block.match_audio == (block.segments is not None):
        reader.note(at, "A chain has exactly one of 'segments' and 'match_audio'.")
        return
    if not block.match_audio:
        return
    where = (*at, "match_audio")
    if fps is None:
        reader.note(where, "The video is as long as its audio at a frame rate.", _SAY_FPS)
    if "num_frames" not in arguments:
        reader.note(where, "The length of a segment is missing.", "Set 'num_frames'.")
    references = arguments.get("references")
    as_list = isinstance(references, ListValue) or (
        isinstance(references, LiteralValue) and isinstance(references.value, list)
    )
    if not as_list:
        message = "The sound is taken from the list of 'references', which the call does not have."
        reader.note(where, message)


def _check_carry(block: ChainBlock, called: Called, reader: ValueReader, at: Place) -> None:
    if block.continuity == "last_frame":
        for key in OF_LAST_SEGMENT:
            if key in block.model_fields_set:
                message = f"'{key}' is for chains whose continuity is 'last_segment'."
                reader.note((*at, key), message)
    taken = (
        [parameter.name for parameter in called.signature.parameters] if called.signature else []
    )
    for place, name in (
        ((*at, "segment_argument"), block.segment_argument),
        ((*at, "prompts"), "prompt" if block.prompts else block.segment_argument),
    ):
        if taken and name not in taken:
            reader.note(place, f"{called.name} takes no '{name}'.", nearest(name, taken))
            break


def _check_target(
    block: ChainBlock, arguments: Mapping[str, Value], reader: ValueReader, at: Place
) -> None:
    """Notes an argument that cannot be handed a whole segment: that is one more of its references,
    or the frames of a video."""
    name, where = block.segment_argument, (*at, "segment_argument")
    value = arguments.get(name)
    items = value.items if isinstance(value, ListValue) else ()
    if isinstance(value, ResultValue) or any(map(_may_be_a_reference, items)):
        return
    if value is not None and _is_empty(value):
        message = f"The list '{name}' is empty: its references tell what a segment becomes."
        reader.note(where, message, "Give it a first reference.")
    elif not name.endswith("video"):
        message = f"The last segment cannot be '{name}': that is no list of references."
        reader.note(where, message, "Name the list of references, or leave 'continuity' out.")


def _may_be_a_reference(value: Value) -> bool:
    if isinstance(value, BuiltValue):
        return data_class(value.class_name).kind is not None
    return isinstance(value, ResultValue)


def _is_empty(value: Value) -> bool:
    return isinstance(value, LiteralValue) and value.value == []


def _check_frames(block: ChainBlock, frames: float | None, reader: ValueReader, at: Place) -> None:
    if frames is not None and frames <= block.trim_frames:
        message = f"Nothing is left of a segment of {frames:g} frames"
        reader.note((*at, "trim_frames"), f"{message} of which {block.trim_frames} are trimmed.")
    if frames is not None and block.carry_frames is not None and block.carry_frames > frames:
        message = f"A segment has {frames:g} frames, fewer than {block.carry_frames}."
        reader.note((*at, "carry_frames"), message)
    if block.frame_snap is None:
        return
    snap, where = block.frame_snap, (*at, "frame_snap")
    if snap.remainder >= snap.modulus:
        reader.note((*where, "remainder"), f"It has to be less than {snap.modulus}, the modulus.")
    elif frames is not None and not snap.fits(int(frames)):
        near = snap.up(int(frames))
        hint = "" if near is None else f"The next is {near}."
        reader.note(where, f"{frames:g} frames are not {snap.in_words()}.", hint)


def _number(value: Value | None) -> float | None:
    number = value.value if isinstance(value, LiteralValue) else None
    numeric = isinstance(number, int | float) and not isinstance(number, bool)
    return float(number) if numeric and number else None  # type: ignore[arg-type]
