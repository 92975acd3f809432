"""The cache of media behind URLs."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from app.errors import FetchError
from app.media.cache import FOLDER, MediaCache
from app.media.files import MediaKind
from app.settings import MediaLimits, UrlSettings
from tests.site import Site, picture


def cache(folder: Path, site: Site, **settings: object) -> MediaCache:
    urls = UrlSettings(**{**site.urls.model_dump(), **settings})
    return MediaCache(folder, urls, MediaLimits())


def refused(found: MediaCache, url: str, kind: MediaKind = "image") -> str:
    with pytest.raises(FetchError) as caught:
        found.fetch(url, kind)
    return caught.value.message


def kept(folder: Path) -> list[Path]:
    """Returns all files the cache has written, also those it should have removed."""
    return [file for file in (folder / FOLDER).glob("*") if file.suffix != ".json"]


def test_file_is_downloaded_again_only_when_changed(site: Site, tmp_path: Path):
    found, url = cache(tmp_path, site), site.put("/photo", picture("red"))
    first, second = found.fetch(url, "image"), found.fetch(url, "image")
    assert site.answered == [200, 304]
    path = found.path(first)
    assert path == found.path(second)
    assert path.name == f"{hashlib.sha256(picture('red')).hexdigest()}.png"
    assert path.read_bytes() == picture("red")
    site.put("/photo", picture("blue"))
    third = found.fetch(url, "image")
    assert found.path(third).read_bytes() == picture("blue")
    assert path.read_bytes() == picture("red")


def test_fresh_file_is_not_requested(site: Site, tmp_path: Path):
    found = cache(tmp_path, site)
    url = site.put("/a.png", headers={"Cache-Control": "public, max-age=600"})
    found.fetch(url, "image")
    found.fetch(url, "image")
    assert site.asked == ["/a.png"]
    url = site.put("/b.png", headers={"Cache-Control": "no-cache, max-age=600"})
    found.fetch(url, "image")
    found.fetch(url, "image")
    assert site.asked == ["/a.png", "/b.png", "/b.png"]


@pytest.mark.parametrize("filled", [False, True], ids=["fetched before", "filled by hand"])
def test_last_file_is_used_without_network(site: Site, tmp_path: Path, filled: bool):
    found, url = cache(tmp_path, site), site.put("/a.png")
    if filled:
        (tmp_path / "mine.png").write_bytes(picture())
        found.fill(url, "image", tmp_path / "mine.png")
    else:
        found.fetch(url, "image")
    with site.gone():
        assert found.path(found.fetch(url, "image")).read_bytes() == picture()
        assert "could not be fetched" in refused(found, site.url("/other.png"))


def test_last_file_is_used_after_5xx_but_not_after_404(site: Site, tmp_path: Path):
    found, url = cache(tmp_path, site), site.put("/a.png")
    found.fetch(url, "image")
    site.put("/a.png", status=503)
    assert found.fetch(url, "image").size_bytes == len(picture())
    site.put("/a.png", status=404)
    assert refused(found, url).endswith("the server answers 404 (Not Found).")


@pytest.mark.parametrize(
    ("path", "page", "reason"),
    [
        ("/a.png", {"content": b"<html>", "content_type": "text/html; charset=utf-8"},
         "is not a picture: the server says that it is 'text/html'."),
        ("/a.png", {"content": b"<html>"}, "was fetched, but 'a.png' cannot be read as a picture"),
        ("/a.png", {"content": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"},
         "cannot be read as a picture: its content is of no known kind"),
        ("/a.png", {"headers": {"Content-Length": "999"}}, "the answer breaks off."),
        ("/a.png", {"headers": {"Content-Length": "9999999999"}}, "is larger than the 10 kB"),
        ("/a.png", {"write": lambda send: [send(b"x" * 4096) for _ in range(9)]},
         "is larger than the 10 kB"),
        ("/a.png", {"content": picture(side=9000)}, "9000x9000 pixels; 32 million fit"),
        ("/a.png", {"status": 204}, "the server answers 204."),
    ],
    ids=["a web page", "no picture", "PostScript", "broken off", "too large, it says",
         "too large, it turns out", "too many pixels", "nothing"],
)  # fmt: skip
def test_wrong_or_large_file_is_refused_and_removed(
    site: Site, tmp_path: Path, path: str, page: dict[str, object], reason: str
):
    limit = 10_000 if "32 million" not in reason else 1_000_000
    found = cache(tmp_path, site, media_file_bytes=limit)
    assert reason in refused(found, site.put(path, **page))  # type: ignore[arg-type]
    assert kept(tmp_path) == []


def test_image_is_recognised_by_content(site: Site, tmp_path: Path):
    found = cache(tmp_path, site)
    site.put("/media/x", picture(kind="JPEG"), content_type="application/octet-stream")
    url = site.url("/media/x?format=png")
    assert found.fetch(url, "image").suffix == ".jpg"
    assert site.asked == ["/media/x?format=png"]


def test_least_recently_used_file_is_evicted_first(site: Site, tmp_path: Path):
    found = cache(tmp_path, site, media_cache_bytes=1)
    urls = [site.put(f"/{colour}.png", picture(colour)) for colour in ("red", "green", "blue")]
    files = [found.path(found.fetch(url, "image")) for url in urls]
    used_ago_s = (100, 300, 200)
    for file, ago_s in zip(files, used_ago_s, strict=True):
        os.utime(file, (time.time() - ago_s,) * 2)
    everything = sum(file.stat().st_size for file in (tmp_path / FOLDER).iterdir())
    cache(tmp_path, site, media_cache_bytes=everything - 1).admit("a run")
    assert [file.is_file() for file in files] == [True, False, True]
    assert found.find(urls[1]) is None


def test_files_of_one_run_do_not_evict_each_other(site: Site, tmp_path: Path):
    found = cache(tmp_path, site, media_cache_bytes=100)
    urls = [site.put(f"/{n}.png", picture(side=8 + n)) for n in range(2)]
    files = [found.fetch(url, "image") for url in urls]
    assert all(found.hold(file, "a run") for file in files)
    with pytest.raises(FetchError, match="The media of this run have"):
        found.admit("a run")
    assert all(found.find(file.url) == file for file in files)


def test_one_of_two_simultaneous_runs_is_admitted(site: Site, tmp_path: Path):
    waiting, other = (
        site.put(f"/{name}.png", picture(name) + bytes(1000)) for name in ("red", "blue")
    )
    found = cache(tmp_path, site, media_cache_bytes=2000)
    held = found.fetch(waiting, "image")
    assert found.hold(held, "waiting")
    assert found.hold(found.fetch(other, "image"), "other")
    found.admit("waiting")
    with pytest.raises(FetchError, match=r"and those of the runs before it .*; 2 kB are kept"):
        found.admit("other")
    assert found.path(held).is_file()
    found.release("waiting")
    found.admit("other")
    assert not found.path(held).is_file()
    assert not found.hold(held, "waiting")


def test_unfinished_file_is_removed_only_when_stale(site: Site, tmp_path: Path):
    found = cache(tmp_path, site, media_cache_bytes=1)
    (tmp_path / FOLDER).mkdir()
    arriving, left = tmp_path / FOLDER / ".arriving", tmp_path / FOLDER / ".left"
    for file in (arriving, left):
        file.write_bytes(b"half")
    os.utime(left, (time.time() - 3600,) * 2)
    found.admit("a run")
    assert arriving.is_file()
    assert not left.is_file()


def test_nothing_is_fetched_unless_allowed(site: Site, tmp_path: Path):
    assert "this server fetches no URLs" in refused(
        cache(tmp_path, site, media_urls=False), site.put("/a.png")
    )
    assert site.asked == []


def test_url_query_is_neither_stored_nor_logged(site: Site, tmp_path: Path):
    found = cache(tmp_path, site)
    url = site.put("/a.png", picture()) + "?signature=secret"
    site.put("/a.png?signature=secret", picture())
    first = found.fetch(url, "image")
    assert found.find(url) == first
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    site.put("/b.png?signature=secret", status=404)
    assert "secret" not in refused(found, site.url("/b.png?signature=secret"))
