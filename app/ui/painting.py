"""The mask editor: an image and its painting, as files that nothing has decoded yet.

Gradio would keep a browser's data in memory and open it with any decoder; here it is written to
disk as received, and opened by `app.media.images` when a run is submitted.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException
from gradio.components.image_editor import EditorData
from gradio.data_classes import DataWithFiles, FileData
from PIL import Image, ImageChops

from app.media import images
from app.media.images import WrongMediaError
from app.outputs import replacing
from app.settings import PathSettings

Editor = Mapping[str, Any]
"""`background`, `layers` and `composite` as paths."""

EDITOR_HEIGHT = 420
PAINT = "#ff2d95"
"""Visible on white and on black; only where it is painted counts."""
MAX_LAYERS = 8
"""The editor here has one; a script could send any number."""
MAX_SENT = 16
"""Editors whose images were received and not yet read; the oldest are dropped."""


def mask_editor(value: Editor | None, *, label: str, elem_id: str) -> gr.ImageEditor:
    """Returns the component; its value is an Editor."""
    editor = gr.ImageEditor(
        type="filepath",
        image_mode="RGBA",
        format="png",
        sources=["upload", "clipboard"],
        transforms=[],
        layers=False,
        brush=gr.Brush(colors=[PAINT], color_mode="fixed"),
        label=label,
        height=EDITOR_HEIGHT,
        buttons=[],
        interactive=True,
        elem_id=elem_id,
    )
    sent: dict[str, dict[str, str]] = {}
    """Data a browser has sent, by the id it will name: part of the editor, and path."""

    def accept_blobs(data: Any) -> None:
        """Stores one image that a browser sends, before the event that refers to it."""
        part, index, number, content = _sent_part(data)
        if number not in sent and len(sent) >= MAX_SENT:
            del sent[next(iter(sent))]
        parts = sent.setdefault(number, {})
        parts[f"{part} {index}"] = str(_kept(content, Path(editor.GRADIO_CACHE)))

    def as_files(payload: EditorData | None) -> dict[str, Any] | None:
        if payload is None:
            return None
        if payload.id is not None:
            parts = sent.pop(payload.id, {})
            layers = [path for name, path in sorted(parts.items()) if name.startswith("layer ")]
            found = (parts.get("background 0"), layers, parts.get("composite 0"))
        else:
            found = (
                payload.background and payload.background.path,
                [layer.path for layer in payload.layers[: MAX_LAYERS + 1]],
                payload.composite and payload.composite.path,
            )
        return dict(zip(("background", "layers", "composite"), found, strict=True))

    # Not a subclass: Gradio writes a .pyi beside it.
    accept_blobs._is_server_fn = True  # type: ignore[attr-defined]
    editor.accept_blobs = accept_blobs
    editor.preprocess = as_files
    editor.postprocess = _as_gradio_files
    lying = _as_gradio_files(value)
    editor.value = lying and lying.model_dump()
    return editor


def _sent_part(data: Any) -> tuple[str, int, str, bytes]:
    """Returns the part of the editor that was sent, its index, the id, and the content; only
    `layers` are several."""
    told = data.data if isinstance(data, DataWithFiles) else None
    if isinstance(told, Mapping) and len(data.files) == 1:
        part, index, number = (str(told.get(name, "")) for name in ("type", "index", "id"))
        which = int(index[:9]) if index.isdecimal() else 0
        if part == "layer" and which < MAX_LAYERS:
            return part, which, number[:100], data.files[0][1]
        if part in ("background", "composite"):
            return part, 0, number[:100], data.files[0][1]
    raise HTTPException(400, "One picture of an editor is needed.")


def _kept(content: bytes, uploads: Path) -> Path:
    """Returns a file of this content: the same one for the same image."""
    path = uploads / f"painted-{hashlib.sha256(content).hexdigest()[:40]}.png"
    if path.is_file():
        path.touch()
    else:
        uploads.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    return path


def _as_gradio_files(value: Editor | None) -> EditorData | None:
    if value is None:
        return None

    def file(path: str | None) -> FileData | None:
        return None if path is None else FileData(path=path, orig_name=Path(path).name)

    layers = [file(layer) for layer in value.get("layers") or []]
    return EditorData(
        background=file(value.get("background")),
        layers=[layer for layer in layers if layer is not None],
        composite=file(value.get("composite")),
    )


def is_there(editor: Editor | None) -> bool:
    """Returns True if all files of the image and its painting exist."""
    held = editor or {}
    files = [held.get("background"), held.get("composite"), *(held.get("layers") or [])]
    return all(Path(file).is_file() for file in files if file is not None)


def background_of(editor: Editor, paths: PathSettings) -> Path | None:
    """Returns the image in the editor, with a background where it is transparent; None for no
    image.

    The browser's canvas keeps no colours under transparent pixels: they would be drawn on as black.
    Raises WrongMediaError.
    """
    if editor.get("background") is None:
        return None
    file = _own(editor["background"], paths)
    limits = paths.limits
    opaque = images.on_background(file, limits.max_picture_pixels, limits.picture_background)
    return file if opaque is None else _kept(_png(opaque), paths.media[0])


def mask_of(editor: Editor, paths: PathSettings) -> Path | None:
    """Returns a white-on-black PNG of everything painted; None for nothing.

    Raises WrongMediaError.
    """
    layers: Sequence[str] = editor.get("layers") or []
    if len(layers) > MAX_LAYERS:
        raise WrongMediaError(f"{len(layers)} layers are painted; {MAX_LAYERS} are the most.")
    painted: Image.Image | None = None
    for layer in layers:
        alpha = images.alpha_of(_own(layer, paths), paths.limits.max_picture_pixels)
        # The brush's half-transparent edges are rounded: a mask is binary.
        alpha = alpha.point(lambda level: 255 if level >= 128 else 0)
        painted = alpha if painted is None else ImageChops.lighter(painted, alpha)
    if painted is None or painted.getbbox() is None:
        return None
    return _kept(_png(painted), paths.media[0])


def _own(file: str, paths: PathSettings) -> Path:
    """Returns the file, if it is an upload or a result."""
    found = Path(file).resolve()
    if not any(found.is_relative_to(folder.resolve()) for folder in paths.media):
        raise WrongMediaError("The picture has to be uploaded; a path is not taken.")
    return found


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)
    return content.getvalue()
