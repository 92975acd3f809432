"""A video in files whose frames are read on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy as np

    Frame = np.ndarray[Any, np.dtype[Any]]


class VideoFileFrames(Sequence["Frame"]):
    """The frames (height, width, 3) of 0..255 of several video files, concatenated."""

    def __init__(self, files: Sequence[tuple[Path, int]], length: int | None = None) -> None:
        """`files` are paths with frame counts; only the first `length` frames of all count."""
        self._files = tuple(files)
        there = sum(frames for _, frames in files)
        self._length = there if length is None else min(length, there)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        return islice(self._frames(), self._length)

    def _frames(self) -> Iterator[Frame]:
        import av

        for path, _ in self._files:
            with av.open(str(path)) as container:
                for frame in container.decode(video=0):
                    yield frame.to_ndarray(format="rgb24")

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Frame]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._length)
            return list(islice(self, start, stop, step)) if step > 0 else list(self)[index]
        number = index + self._length if index < 0 else index
        if not 0 <= number < self._length:
            raise IndexError(index)
        return next(islice(self, number, None))
