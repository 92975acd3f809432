"""Plans a document's result block, and notes its problems."""

from __future__ import annotations

import re
from typing import Any

from app.dialect.document import ResultBlock
from app.dialect.plan import ResultSpec
from app.dialect.references import Path as Place
from app.errors import nearest
from app.media.audio_files import AUDIO_FILES, CODECS, PLAIN
from app.planning.loading_arguments import warn_of_result
from app.planning.values import ValueReader

PLAIN_NAME = re.compile(r"[\w][\w .-]{0,99}")
AUDIO_OPTIONS = ("subtype", "format", "compression_level", "bitrate_mode")


def read_result(block: ResultBlock | None, reader: ValueReader, at: Place) -> ResultSpec | None:
    """Returns how the step's results are written; problems are noted."""
    if block is None:
        return None
    name = block.file_base_name
    if name and not PLAIN_NAME.fullmatch(name):
        where = (*at, "file_base_name")
        reader.note(where, f"'{name}' is not a plain name for a file.", "Leave folders out.")
    rates = {block.sample_rate, block.samplerate} - {None}
    if len(rates) > 1:
        reader.note((*at, "samplerate"), "'sample_rate' and 'samplerate' have different values.")
    warn_of_result(block, at, reader)
    return ResultSpec(
        content_type=block.content_type,
        save=block.save,
        file_base_name=name,
        fps=block.fps,
        sample_rate=next(iter(rates), None),
        audio_sample_rate=block.audio_sample_rate,
        **_audio_options(block, reader, at),
    )


def _audio_options(block: ResultBlock, reader: ValueReader, at: Place) -> dict[str, Any]:
    given = {
        option: getattr(block, option)
        for option in AUDIO_OPTIONS
        if getattr(block, option) is not None
    }
    kind = AUDIO_FILES.get(block.content_type)
    if kind is None:
        for option in given:
            reader.note((*at, option), f"A file of {block.content_type} has no '{option}'.")
        return {}
    written = given.pop("format", kind.format).upper()
    if written != kind.format:
        message = f"A file of {block.content_type} is {kind.format}, not {written}."
        others = [name for name, other in AUDIO_FILES.items() if other.format == written]
        hint = f"Its content type is {others[0]}." if others else ""
        reader.note((*at, "format"), message, hint)
    subtype = given.get("subtype", next(iter(kind.codecs))).upper()
    if subtype not in kind.codecs:
        message = f"'{subtype}' is not one of {', '.join(kind.codecs)}."
        reader.note((*at, "subtype"), message, nearest(subtype, kind.codecs))
        return {}
    codec = CODECS.get(kind.codecs[subtype], PLAIN)
    if "compression_level" in given and not codec.compression:
        reader.note((*at, "compression_level"), f"{subtype} is not compressed.")
    if "bitrate_mode" in given and not codec.bitrate_modes:
        reader.note((*at, "bitrate_mode"), f"{subtype} has no bit rate to choose.")
    return {**given, "subtype": subtype}
