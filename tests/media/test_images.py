"""The only module that opens images: five formats by content, size checked first."""

from __future__ import annotations

import ast
import contextlib
import io
import random
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from app.media import images
from app.media.images import (
    WrongMediaError,
    alpha_of,
    checked,
    on_background,
    read,
    read_mask,
    size_of,
)

APP = Path(images.__file__).resolve().parents[1]
MILLION = 1_000_000
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\n%%EOF\n"


def encoded(kind: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    """Returns an image of 24x16 pixels in this format."""
    content = io.BytesIO()
    (picture or Image.radial_gradient("L").resize((24, 16)).convert("RGB")).save(
        content, kind, **options
    )
    return content.getvalue()


def png_that_says(width: int, height: int) -> bytes:
    """Returns a complete PNG whose header has this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def webp_that_says(width: int, height: int) -> bytes:
    """Returns a WebP whose extended header has this size."""
    content = encoded("WEBP", exif=Image.Exif().tobytes() + bytes(9))
    assert content[12:16] == b"VP8X"
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return content[:24] + size + content[30:]


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("PNG", ".png"),
        ("JPEG", ".jpg"),
        ("WEBP", ".webp"),
        ("GIF", ".gif"),
        ("BMP", ".bmp"),
        ("AVIF", ".avif"),
    ],
)
def test_format_is_recognised_by_content(tmp_path: Path, kind: str, suffix: str):
    for name in ("a.png", "photo.jfif", "nothing"):
        file = tmp_path / name
        file.write_bytes(encoded(kind))
        assert checked(file, MILLION) == suffix
        assert size_of(file) == (24, 16)
        assert (read(file, MILLION).mode, read(file, MILLION).size) == ("RGB", (24, 16))


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM", "PCX", "TGA", "JPEG2000", "EPS"])
def test_other_formats_reach_no_decoder(tmp_path: Path, kind: str):
    file = tmp_path / "a.png"
    file.write_bytes(EPS if kind == "EPS" else encoded(kind))
    for opens in (checked, read, read_mask, alpha_of):
        with pytest.raises(WrongMediaError, match=r"^'a\.png' cannot .*\(PNG, JPEG, WebP, AVIF"):
            opens(file, MILLION)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (encoded("PNG"), "24x16"), (encoded("JPEG"), "24x16"), (encoded("GIF"), "24x16"),
        (encoded("BMP"), "24x16"), (encoded("WEBP"), "24x16"),
        (encoded("WEBP", lossless=True), "24x16"), (webp_that_says(16384, 16384), "16384x16384"),
        (png_that_says(9900, 9800), "9900x9800"),
    ],
    ids=["png", "jpeg", "gif", "bmp", "webp", "webp lossless", "webp extended", "a bomb"],
)  # fmt: skip
def test_pixels_are_checked_before_decoding(tmp_path: Path, content: bytes, said: str):
    file = tmp_path / "a.bin"
    file.write_bytes(content)
    for opens in (checked, read, read_mask, alpha_of):
        with pytest.raises(WrongMediaError) as refused:
            opens(file, 24 * 16 - 1)
        assert str(refused.value).startswith(f"'a.bin' has {said} pixels; ")


def test_extended_webp_takes_no_memory_for_its_frames(tmp_path: Path):
    """Pillow asks for two whole frames when it opens one: 2 GB here."""
    file = tmp_path / "a.webp"
    file.write_bytes(webp_that_says(16384, 16384))
    asked: list[str] = []
    original = Image.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "open", lambda *a, **o: asked.append("open") or original(*a, **o))
        with pytest.raises(WrongMediaError):
            read(file, MILLION)
    assert asked == []


def test_large_png_text_is_accepted(tmp_path: Path):
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    text.add_itxt("prompt", "y" * 3_000_000, zip=True)
    file = tmp_path / "a.png"
    file.write_bytes(encoded("PNG", pnginfo=text))
    assert checked(file, MILLION) == ".png"
    assert read(file, MILLION).size == (24, 16)


def test_huge_png_text_is_refused(tmp_path: Path):
    text = PngImagePlugin.PngInfo()
    for number in range(3):
        text.add_text(f"k{number}", "x" * 30_000_000, zip=True)
    file = tmp_path / "a.png"
    file.write_bytes(encoded("PNG", pnginfo=text))
    with pytest.raises(WrongMediaError, match="cannot be read as a picture"):
        read(file, MILLION)


def test_broken_or_huge_colour_profile_is_accepted(tmp_path: Path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for content in (profile, b"nonsense", profile + bytes(20_000_000)):
        file = tmp_path / "a.png"
        file.write_bytes(encoded("PNG", icc_profile=content))
        assert read(file, MILLION).size == (24, 16)


def avif_that_says(width: int, height: int) -> bytes:
    """Returns an AVIF whose header has this size."""
    content = bytearray(encoded("AVIF"))
    place = content.index(b"ispe") + 8
    content[place : place + 8] = width.to_bytes(4) + height.to_bytes(4)
    return bytes(content)


def test_large_avif_is_refused_without_memory_for_its_pixels(tmp_path: Path):
    file = tmp_path / "a.avif"
    file.write_bytes(avif_that_says(8192, 8192))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WrongMediaError, match="8192x8192"):
        read(file, MILLION)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < 100_000_000


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int):
    picture = Image.new("RGB", (24, 16), "blue")
    picture.paste("red", (0, 0, 12, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "a.png"
    file.write_bytes(encoded("PNG", picture, exif=exif))
    found = read(file, MILLION)
    assert found.size == ((16, 24) if orientation in (5, 6, 7, 8) else (24, 16))
    red = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}
    x, y = red.get(orientation, (0, 0))
    assert found.getpixel((x * (found.width - 1), y * (found.height - 1))) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_animation_is_used(tmp_path: Path, kind: str):
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "blue")]
    file = tmp_path / "a.bin"
    lossless = {"lossless": True} if kind == "WEBP" else {}
    file.write_bytes(encoded(kind, frames[0], save_all=True, append_images=frames[1:], **lossless))
    assert read(file, MILLION).getcolors() == [(24 * 16, (255, 0, 0))]


def test_sixteen_bit_image_is_scaled_to_eight_bits(tmp_path: Path):
    file = tmp_path / "a.png"
    file.write_bytes(encoded("PNG", Image.new("I;16", (24, 16), 128 * 257)))
    assert read(file, MILLION).getpixel((3, 3)) == (128, 128, 128)


def test_transparent_image_is_put_on_a_background(tmp_path: Path):
    file = tmp_path / "a.png"
    for mode, colour, expected in (("RGBA", (0, 0, 0, 0), (255, 255, 255)), ("RGB", "red", None),
                                   ("RGBA", (9, 9, 9, 255), None)):  # fmt: skip
        file.write_bytes(encoded("PNG", Image.new(mode, (24, 16), colour)))
        found = on_background(file, MILLION, "white")
        assert (found and found.getpixel((3, 3))) == expected
        assert read(file, MILLION).getpixel((3, 3)) in (expected, (255, 0, 0), (9, 9, 9))
        assert alpha_of(file, MILLION).getpixel((3, 3)) == (0 if expected else 255)


@pytest.mark.parametrize(
    ("background", "expected"),
    [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#ff0080", (255, 0, 128))],
)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_get_the_colour_of_the_background(
    tmp_path: Path, mode: str, background: str, expected: tuple[int, int, int]
):
    file = tmp_path / "a.png"
    if mode == "P":
        file.write_bytes(encoded("PNG", Image.new("P", (24, 16)), transparency=0))
    else:
        clear = Image.new(mode, (24, 16), (9, 9, 9, 0) if mode == "RGBA" else (9, 0))
        file.write_bytes(encoded("PNG", clear))
    assert read(file, MILLION, background).getpixel((3, 3)) == expected


def masked(file: Path, shown: str | tuple[int, ...], around: tuple[int, ...]) -> Image.Image:
    """Returns the mask read from a file of one colour on transparent pixels."""
    picture = Image.new("RGBA", (24, 16), around)
    picture.paste(shown, (0, 0, 12, 8))
    file.write_bytes(encoded("PNG", picture))
    return read_mask(file, MILLION)


@pytest.mark.parametrize("colour", ["white", "#ff2d95", "#777777", (255, 255, 255, 140)])
@pytest.mark.parametrize("around", [(0, 0, 0, 0), (255, 255, 255, 0), (9, 200, 30, 0)])
def test_alpha_of_a_mask_of_one_colour_counts(
    tmp_path: Path, colour: str | tuple[int, ...], around: tuple[int, ...]
):
    mask = masked(tmp_path / "a.png", colour, around)
    assert mask.mode == "RGB"
    assert mask.getpixel((3, 3))[0] >= 128
    assert mask.getpixel((20, 12)) == (0, 0, 0)


def test_transparent_pixels_of_a_black_and_white_mask_are_kept(tmp_path: Path):
    file = tmp_path / "a.png"
    picture = Image.new("RGBA", (24, 16), "black")
    picture.paste("white", (0, 0, 12, 8))
    picture.paste((255, 255, 255, 0), (0, 8, 24, 16))
    file.write_bytes(encoded("PNG", picture))
    mask = read_mask(file, MILLION)
    assert [mask.getpixel(at)[0] for at in ((3, 3), (20, 3), (3, 12))] == [255, 0, 0]


def test_opaque_mask_is_read_as_it_is(tmp_path: Path):
    file = tmp_path / "a.png"
    for picture in (Image.new("L", (24, 16), 200), Image.new("RGBA", (24, 16), (7, 8, 9, 255))):
        file.write_bytes(encoded("PNG", picture))
        assert read_mask(file, MILLION).tobytes() == picture.convert("RGB").tobytes()


def test_fully_transparent_mask_marks_nothing(tmp_path: Path):
    file = tmp_path / "a.png"
    file.write_bytes(encoded("PNG", Image.new("RGBA", (24, 16), (255, 255, 255, 0))))
    assert read_mask(file, MILLION).getbbox() is None


def test_ambiguous_mask_is_refused(tmp_path: Path):
    file = tmp_path / "a.png"
    with pytest.raises(WrongMediaError, match="black on transparent pixels"):
        masked(file, "black", (255, 255, 255, 0))
    photo = Image.effect_noise((24, 16), 90).convert("RGBA")
    photo.paste((0, 0, 0, 0), (0, 0, 12, 8))
    file.write_bytes(encoded("PNG", photo))
    with pytest.raises(WrongMediaError, match=r"'a.png' is ambiguous as a mask: .* picture in the"):
        read_mask(file, MILLION)


@pytest.mark.parametrize("colours", [("#ff0000", "#ffffff"), ("#0000ff", "#ffff00"),
                                     ("#000000", "#00ff00"), ("#ff00ff", "#00ffff")])  # fmt: skip
def test_coloured_picture_with_an_erased_part_is_no_black_and_white_mask(
    tmp_path: Path, colours: tuple[str, str]
):
    """Each channel of a full colour is black or white by itself."""
    picture = Image.new("RGBA", (24, 16), colours[0])
    picture.paste(colours[1], (0, 8, 24, 16))
    picture.paste((0, 0, 0, 0), (4, 4, 12, 12))
    file = tmp_path / "a.png"
    file.write_bytes(encoded("PNG", picture))
    with pytest.raises(WrongMediaError, match="ambiguous as a mask"):
        read_mask(file, MILLION)


@pytest.mark.parametrize("kind", ["1", "L", "RGB", "16 bits", "P", "LA", "GIF", "WEBP"])
def test_transparency_of_a_mask_counts_in_each_format(tmp_path: Path, kind: str):
    """White on transparent pixels, with an alpha channel or one colour that is transparent."""
    shape = Image.new("L", (24, 16))
    shape.paste(255, (0, 0, 12, 8))
    white = Image.new("L", shape.size, 255)
    if kind == "16 bits":
        wide = Image.fromarray(np.asarray(shape).astype(np.uint16) * 257)
        content = encoded("PNG", wide, transparency=0)
    elif kind in ("1", "L"):
        content = encoded("PNG", shape.convert(kind), transparency=0)
    elif kind == "RGB":
        content = encoded("PNG", shape.convert("RGB"), transparency=(0, 0, 0))
    elif kind in ("P", "GIF"):
        content = encoded("PNG" if kind == "P" else "GIF", shape.convert("P"), transparency=0)
    else:
        clear = Image.merge("LA", (white, shape))
        content = (
            encoded("PNG", clear)
            if kind == "LA"
            else encoded("WEBP", clear.convert("RGBA"), lossless=True)
        )
    file = tmp_path / "a.bin"
    file.write_bytes(content)
    mask = read_mask(file, MILLION)
    assert [mask.getpixel(at)[0] for at in ((3, 3), (20, 3), (3, 12))] == [255, 0, 0]
    assert read(file, MILLION).getpixel((20, 12)) == (255, 255, 255)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_content_is_always_refused_in_a_sentence(tmp_path: Path):
    """2,000 files with a few bytes changed, some truncated: no exception of Pillow's gets
    through."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    frames = [Image.new("P", (24, 16), shade) for shade in (1, 9)]
    whole = [
        encoded("PNG", exif=exif), encoded("JPEG", exif=exif), encoded("WEBP", exif=exif),
        encoded("JPEG", progressive=True), encoded("BMP"), encoded("WEBP", lossless=True),
        encoded("GIF", frames[0], save_all=True, append_images=frames[1:]),
        encoded("PNG", Image.new("P", (24, 16)), transparency=0),
        encoded("PNG", Image.new("I;16", (24, 16), 4000)), encoded("AVIF", exif=exif),
    ]  # fmt: skip
    chance, file = random.Random(7), tmp_path / "a.bin"
    for _ in range(2000):
        content = bytearray(chance.choice(whole))
        for _ in range(chance.choice([1, 2, 8])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        file.write_bytes(content[: chance.randrange(len(content))] if chance.random() < 0.2 else
                         content)  # fmt: skip
        for opens in (checked, read, read_mask, alpha_of):
            with contextlib.suppress(WrongMediaError):
                opens(file, MILLION)


def test_error_names_no_folder(tmp_path: Path):
    for file in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(WrongMediaError) as refused:
            checked(file, MILLION)
        assert str(tmp_path.parent) not in str(refused.value)


# --- nobody else does ----------------------------------------------------------------------------

OPENS_MEDIA = {
    "Image.open": {"media/images.py"},
    "av.open": {"media/files.py", "tasks/media.py", "worker/results/audio.py",
                "worker/results/video.py", "worker/steps/media.py"},
    **{name: set() for name in (
        "cv2.imread", "cv2.VideoCapture", "cv2.imdecode", "imageio.imread", "skimage.io.imread",
        "load_image", "load_video", "ImageFile.Parser",
    )},
}  # fmt: skip
"""Files of the application that may open media."""


def test_media_are_opened_by_one_module():
    found: dict[str, set[str]] = {name: set() for name in OPENS_MEDIA}
    for file in sorted(APP.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                for name in OPENS_MEDIA:
                    if called == name or called.endswith(f".{name}"):
                        found[name].add(str(file.relative_to(APP)))
    assert found == OPENS_MEDIA
