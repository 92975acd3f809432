"""Frames between the frames of a video, by OpenCV's optical flow (DIS).

A frame at time t between two frames is drawn as in Baker et al., "A Database and Evaluation
Methodology for Optical Flow" (2011), section 3.3.2: the flows between the frames are carried along
themselves to t, and each pixel is fetched from both frames. Content that only one frame shows is
fetched from that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from app.tasks.media import DEFAULT_FPS, AudioVideo, as_frames
from app.tasks.task import OPENCV, Progress, Task
from app.tasks.video import VideoArguments

if TYPE_CHECKING:
    from app.tasks.media import Array

SMALLEST = 16
"""Shortest side in pixels for which DIS computes a flow; smaller frames are extended."""
CONSISTENT_PX = 1.0
"""Distance in pixels by which a pixel may miss its place after a way there and back."""
CUT_LEVELS, CUT_SPREADS = 20, 0.5
"""Mean difference that motion leaves unexplained between two scenes, in levels of 0..255 and in
standard deviations of both frames: the least of each."""
NEVER = 1e-3
"""Weight of a frame that does not show the content, if neither does."""
Named = Annotated[str, Field(min_length=1)]


class Interpolate(VideoArguments):
    multiplier: Literal[2, 4, 8] = 2
    model_name: Named | None = None
    """Not used: the dialect's networks (RIFE) have no library."""
    filename: Named | None = None


class _Motion(NamedTuple):
    """What is known of the motion from one frame to the other."""

    flow: Array
    """(height, width, 2) of x and y in pixels."""
    consistency: Array
    """(height, width) of 0..1: whether the way back returns; low where content is hidden."""
    misfits: Array
    """(height, width) of uint16: how little a pixel resembles the one that it moves to."""


def interpolate_frames(arguments: Interpolate, progress: Progress) -> AudioVideo:
    """Returns the video with 1, 3 or 7 frames between each two, its frame rate multiplied.

    The audio stays. At a cut the frame before it is repeated.
    """
    import numpy as np

    frames, multiplier = as_frames(arguments.video), arguments.multiplier
    made = np.empty(((len(frames) - 1) * multiplier + 1, *frames.shape[1:]), np.uint8)
    made[::multiplier] = frames
    for number in range(len(frames) - 1):
        first, second = frames[number], frames[number + 1]
        motions = None if np.array_equal(first, second) else _motions(first, second)
        for step in range(1, multiplier):
            at = number * multiplier + step
            if motions is None:
                made[at] = first
            else:
                made[at] = _between(first, second, *motions, step / multiplier)
        progress(number + 1, len(frames) - 1)
    video = arguments.video
    if not isinstance(video, AudioVideo):
        return AudioVideo(made, None, None, DEFAULT_FPS * multiplier)
    fps = (video.fps or DEFAULT_FPS) * multiplier
    return AudioVideo(made, video.audio, video.sample_rate, fps)


def _motions(first: Array, second: Array) -> tuple[_Motion, _Motion] | None:
    """Returns the motions from the first frame to the second and back; None at a cut."""
    import cv2
    import numpy as np

    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    there, back = _flow(greys[0], greys[1]), _flow(greys[1], greys[0])
    values = [grey.astype(np.float32) for grey in greys]
    misfits = [
        np.abs(values[0] - _fetched(values[1], there)),
        np.abs(values[1] - _fetched(values[0], back)),
    ]
    unexplained = min(float(found.mean()) for found in misfits)
    if unexplained > max(CUT_LEVELS, CUT_SPREADS * float(np.std(values))):
        return None
    return (
        _motion(there, back, misfits[0]),
        _motion(back, there, misfits[1]),
    )


def _motion(flow: Array, back: Array, difference: Array) -> _Motion:
    import numpy as np

    missed = np.square(flow + _fetched(back, flow)).sum(axis=2)
    consistency = np.exp(-missed / (2 * CONSISTENT_PX**2))
    misfits = (difference + 255 * (1 - consistency)) * 100
    return _Motion(flow, consistency, misfits.astype(np.uint16))


def _flow(first: Array, second: Array) -> Array:
    """Returns the flow (height, width, 2) between two grey frames."""
    import cv2

    height, width = first.shape
    below, right = max(SMALLEST - height, 0), max(SMALLEST - width, 0)
    if below or right:
        first, second = (
            cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE)
            for grey in (first, second)
        )
    # A new one each time: it would begin with the flow of its last frames.
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return method.calc(first, second, None)[:height, :width]  # type: ignore[no-any-return]


def _between(first: Array, second: Array, there: _Motion, back: _Motion, time: float) -> Array:
    """Returns the frame at the time of 0..1 between two frames (height, width, 3)."""
    import numpy as np

    flow = _carried(there, back, time)
    to_first, to_second = -time * flow, (1 - time) * flow
    # A pixel of one frame that has no match in the other is hidden there.
    from_first = (1 - time) * (_fetched(back.consistency, to_second) + NEVER)
    from_second = time * (_fetched(there.consistency, to_first) + NEVER)
    share = (from_first / (from_first + from_second))[..., None]
    sources = (first.astype(np.float32), second.astype(np.float32))
    seen, other = _fetched(sources[0], to_first), _fetched(sources[1], to_second)
    return (seen * share + other * (1 - share)).round().clip(0, 255).astype(np.uint8)


def _carried(there: _Motion, back: _Motion, time: float) -> Array:
    """Returns the flow from the first frame to the second, (height, width, 2), at the places where
    its pixels are at that time. Where several come together, the one that fits best is taken."""
    import numpy as np

    height, width = there.misfits.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    flows, places, misfits = [], [], []
    for motion, passed, sign in ((there, time, 1), (back, 1 - time, -1)):
        x = (columns + passed * motion.flow[..., 0]).round().astype(np.int32)
        y = (rows + passed * motion.flow[..., 1]).round().astype(np.int32)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        places.append((y * width + x)[inside])
        flows.append(sign * motion.flow[inside])
        misfits.append(motion.misfits[inside])
    # The best last: of several values for one place, numpy stores the last one. (16 bits are sorted
    # several times faster.)
    order = np.argsort(np.uint16(np.iinfo(np.uint16).max) - np.concatenate(misfits), kind="stable")
    carried = np.zeros((height * width, 2), np.float32)
    known = np.zeros(height * width, np.float32)
    place = np.concatenate(places)[order]
    carried[place] = np.concatenate(flows)[order]
    known[place] = 1
    return _filled(carried.reshape(height, width, 2), known.reshape(height, width))


def _filled(flow: Array, known: Array) -> Array:
    """Returns the flow with the mean of the known surroundings where it is unknown (0)."""
    import cv2
    import numpy as np

    side = 3
    while not known.all():
        sums = cv2.blur(flow * known[..., None], (side, side))
        counts = cv2.blur(known, (side, side))
        fresh = (known == 0) & (counts > 1 / (2 * side * side))
        flow = np.where(fresh[..., None], sums / np.maximum(counts, 1e-6)[..., None], flow)
        known = np.where(fresh, np.float32(1), known)
        side = side * 2 - 1
    return flow


def _fetched(values: Array, offsets: Array) -> Array:
    """Returns values (height, width[, channels]) of the places that are so many pixels away."""
    import cv2
    import numpy as np

    height, width = offsets.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = columns + offsets[..., 0], rows + offsets[..., 1]
    return cv2.remap(  # type: ignore[no-any-return]
        values, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip


def _unused(values: Mapping[str, Any]) -> Mapping[str, str]:
    sentence = "No library reads this network: OpenCV's optical flow is used instead."
    return {key: sentence for key in ("model_name", "filename") if values.get(key) is not None}


INTERPOLATION = Task(
    Interpolate,
    interpolate_frames,
    gives="video",
    reports=True,
    packages=(OPENCV,),
    warns=_unused,
    quickens_by="multiplier",
)
