"""Runs one document in the real worker, on stand-ins, and checks its files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from app.engine import Engine
from app.media.cache import MediaCache
from app.protocol import ResultSaved
from app.settings import SHIPPED_WORKFLOWS, MediaLimits, UrlSettings
from tests.corpus.own import MASK, PICTURE, SIDE_PX, Document, Own, Saved
from tests.corpus.real import Runs
from tests.engines import Finished, run, started_engine
from tests.standins import StandIns, texts
from tests.worker.results.files import read_record

WEIGHTS = (".gguf", ".safetensors")


class Corpus(NamedTuple):
    """A place to run documents in."""

    engine: Engine
    folder: Path
    """The outputs, and the media given to documents."""
    stand_ins: StandIns

    def own(self, own: Own) -> Finished:
        """Runs a document of our own."""
        path = write_own(own, self.folder)
        self.stand_ins.add_named(own.document)
        return run(self.engine, path)

    def shipped(self, stem: str, line: Runs) -> Finished:
        """Runs a shipped workflow, reduced as its line says; inputs that are our media are files in
        the corpus's folder."""
        path = SHIPPED_WORKFLOWS / f"{stem}.json"
        for document in with_children(path):
            self.stand_ins.add_named(document)
        inputs = {
            name: str(self.folder / value) if value in (PICTURE, MASK) else value
            for name, value in line.inputs.items()
        }
        if "checkpoint" in stem:
            own = self.stand_ins.add_checkpoint()
            inputs |= own if "controlnet" in stem else {"checkpoint": own["checkpoint"]}
        return run(self.engine, path, inputs, changes=line.changes)

    def real(self, folder: Path, name: str, line: Runs) -> Finished:
        """Runs a third-party document, reduced as its line says.

        Our image stands for every URL in it; nothing is requested.
        """
        path = folder / name
        cache = MediaCache(self.folder, UrlSettings(), MediaLimits())
        for document in with_children(path):
            self.stand_ins.add_named(document)
            for text in texts(document):
                if text.startswith("http") and not text.endswith(WEIGHTS):
                    cache.fill(text, "image", self.folder / PICTURE, fresh_s=3600)
        return run(self.engine, path, line.inputs, changes=line.changes)


@contextlib.contextmanager
def corpus(folder: Path, stand_ins: StandIns) -> Iterator[Corpus]:
    """Starts a worker that writes below the folder."""
    make_media(folder)
    with started_engine(folder, models=(stand_ins.folder,)) as engine:
        yield Corpus(engine, folder, stand_ins)


def make_media(folder: Path) -> None:
    """Writes the image given to documents, and its mask: its right half."""
    colours = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    size = (SIDE_PX, SIDE_PX)
    Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(folder / PICTURE)
    mask = Image.new("L", size)
    mask.paste(255, (SIDE_PX // 2, 0, SIDE_PX, SIDE_PX))
    mask.save(folder / MASK)


def with_children(path: Path) -> Iterator[Document]:
    """Yields a document and the sub-workflows that it names."""
    document = json.loads(path.read_text())
    yield document
    for text in texts(document):
        if text.endswith(".json"):
            shipped = SHIPPED_WORKFLOWS / "builtin" / text.removeprefix("builtin:")
            yield from with_children(shipped if text.startswith("builtin:") else path.parent / text)


def write_own(own: Own, folder: Path) -> Path:
    """Writes the document as a file in this folder."""
    path = folder / f"{own.name}.json"
    path.write_text(json.dumps(own.document))
    return path


def problems(finished: Finished, saved: Sequence[Saved]) -> list[str]:
    """Returns the problems of the run's files, in sentences; none for exactly these files."""
    if finished.terminal.type != "run_succeeded":
        return [finished.terminal.model_dump_json()]
    if len(finished.results) != len(saved):
        return [f"It wrote {len(finished.results)} files, not {len(saved)}."]
    found = []
    for result, wanted in zip(finished.results, saved, strict=True):
        if result.content_type.startswith("text/"):
            if result.content_type != wanted.content_type or not Path(result.path).read_text():
                found.append(f"{Path(result.path).name} is no text.")
            continue
        shown = frames(result)
        is_there = Saved(result.content_type, shown.shape[2], shown.shape[1], len(shown))
        if is_there != wanted:
            found.append(f"{Path(result.path).name} is {is_there}, not {wanted}.")
        if shown.std() < 1:
            found.append(f"{Path(result.path).name} is blank.")
        record = json.loads(Path(result.sidecar).read_text())
        if record["seed"] is None or (
            result.content_type.startswith("image/") and read_record(Path(result.path)) != record
        ):
            found.append(f"{Path(result.path).name} does not hold its record.")
    return found


def frames(result: ResultSaved) -> np.ndarray:
    """Returns a result as (frames, height, width, 3); of a text, its letters."""
    if result.content_type.startswith("text/"):
        return np.frombuffer(Path(result.path).read_bytes(), np.uint8)
    if result.content_type == "video/mp4":
        with av.open(result.path) as video:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    with Image.open(result.path) as picture:
        return np.asarray(picture.convert("RGB"))[None]


def same(one: Finished, other: Finished) -> bool:
    """Returns True if two successful runs have equal files, to the last pixel."""
    pairs = zip(one.results, other.results, strict=True)
    return all(np.array_equal(frames(first), frames(second)) for first, second in pairs)
