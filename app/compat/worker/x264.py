"""Avoids x264's AVX-512 kernels, whose encodings of the same frames differ from time to time.

On a busy machine 37 of 150 encodings of five frames came out differently, with AVX2 none of 390 (an
EPYC of family 25), at the same number of bytes otherwise. Needed with av 18.1.0.
"""

from __future__ import annotations

import torch


def repeatable_options() -> dict[str, str]:
    """Returns options that encode the same frames to the same bytes."""
    avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return {"x264-params": "asm=avx2"} if avx512 else {}
