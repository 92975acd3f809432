"""The tokenizer: one token for every word a caption uses, bytes for everything else."""

from __future__ import annotations

import itertools

from transformers import CLIPTokenizer

from models.shapes.scenes import COLOURS, RADII_PX, SHAPES

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 32
OTHER_WORDS = """
left right top bottom center middle above below under over beside next to of on in at with
a an the and background picture please draw one two big little plain shape
"""
WORDS = (*COLOURS, *SHAPES, *RADII_PX, *OTHER_WORDS.split())


def build_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer in which each of WORDS is one token and no text is unknown."""
    symbols = list(_byte_symbols().values())
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = _apply([*word[:-1], f"{word[-1]}</w>"], merges)
        # Later merges have lower priority, so they cannot take an earlier word apart.
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            vocabulary.append(pieces[0] + pieces[1])
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    vocabulary = [*dict.fromkeys(vocabulary), START, END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )


def _apply(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    rank = {pair: index for index, pair in enumerate(merges)}
    while pairs := [pair for pair in itertools.pairwise(pieces) if pair in rank]:
        best = min(pairs, key=rank.__getitem__)
        at = next(i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) == best)
        pieces = [*pieces[:at], "".join(best), *pieces[at + 2 :]]
    return pieces


def _byte_symbols() -> dict[int, str]:
    """The printable stand-in of each byte, as byte-level BPE (GPT-2) defines it."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(0x100 + index) for index, byte in enumerate(others)
    }
