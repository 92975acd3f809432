"""The audio files a document may ask for, with soundfile's options for them."""

from __future__ import annotations

from typing import NamedTuple

LAME_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


class AudioFile(NamedTuple):
    """A type of audio file."""

    container: str
    """FFmpeg's name."""
    format: str
    """soundfile's name, and so a document's `format`."""
    suffix: str
    codecs: dict[str, str]
    """FFmpeg's encoders by soundfile's `subtype`; the first is the default."""


class Codec(NamedTuple):
    """Options of an encoder; the defaults are those of a lossless one."""

    rates: tuple[int, ...] = ()
    """Supported sample rates, empty for all; audio of another is resampled to 48 kHz."""
    layouts: tuple[str, ...] = ("mono", "stereo")
    sample_format: str = ""
    """"" leaves the choice to the encoder."""
    compression: bool = False
    """True if the encoder has a `compression_level`."""
    bitrate_modes: bool = False


WAV = AudioFile(
    "wav",
    "WAV",
    ".wav",
    {
        "PCM_16": "pcm_s16le", "PCM_U8": "pcm_u8", "PCM_24": "pcm_s24le", "PCM_32": "pcm_s32le",
        "FLOAT": "pcm_f32le", "DOUBLE": "pcm_f64le", "ULAW": "pcm_mulaw", "ALAW": "pcm_alaw",
    },
)  # fmt: skip
AIFF = AudioFile(
    "aiff",
    "AIFF",
    ".aiff",
    {
        "PCM_16": "pcm_s16be", "PCM_S8": "pcm_s8", "PCM_24": "pcm_s24be", "PCM_32": "pcm_s32be",
        "FLOAT": "pcm_f32be", "DOUBLE": "pcm_f64be", "ULAW": "pcm_mulaw", "ALAW": "pcm_alaw",
    },
)  # fmt: skip
FLAC = AudioFile("flac", "FLAC", ".flac", {"PCM_16": "flac", "PCM_24": "flac 24"})
MP3 = AudioFile("mp3", "MP3", ".mp3", {"MPEG_LAYER_III": "libmp3lame"})
OGG = AudioFile("ogg", "OGG", ".ogg", {"OPUS": "libopus", "VORBIS": "vorbis"})
AUDIO_FILES = {
    "audio/wav": WAV, "audio/x-wav": WAV,
    "audio/aiff": AIFF, "audio/x-aiff": AIFF,
    "audio/flac": FLAC, "audio/x-flac": FLAC,
    "audio/mpeg": MP3, "audio/mp3": MP3,
    "audio/ogg": OGG,
    "audio/vorbis": OGG._replace(codecs={"VORBIS": "vorbis"}),
    "audio/opus": OGG._replace(codecs={"OPUS": "libopus"}, suffix=".opus"),
}  # fmt: skip
"""By content type."""
CODECS = {
    "flac": Codec(sample_format="s16", compression=True),
    "flac 24": Codec(sample_format="s32", compression=True),
    "libmp3lame": Codec(rates=LAME_RATES, compression=True, bitrate_modes=True),
    "libopus": Codec(rates=OPUS_RATES, compression=True, bitrate_modes=True),
    # FFmpeg's own Vorbis encoder takes two channels, and a quality instead of a bit rate.
    "vorbis": Codec(layouts=("stereo",), compression=True),
}
"""Encoders with options beyond plain samples."""
PLAIN = Codec()
