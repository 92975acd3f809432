"""A model hub on loopback, with as much as huggingface_hub needs to fetch a snapshot."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from tests.loopback import Handler, Loopback

RANGE = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d*)")
LARGE = ".safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(Loopback):
    """Serves the repositories in one folder (`folder/owner/name/…`) and records the requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        """Method and path of every request since the start."""
        self.cut_off = ""
        """Path in its repository of a file of which only the first half is ever sent."""
        self.held = ""
        """Path of a file whose second half is sent once `go_on` is set."""
        self.go_on = threading.Event()
        self.is_holding = threading.Event()
        """Set once that first half was sent."""
        self.held_breaks_off = False
        """True if the held file breaks off after its first half."""
        self.damaged = ""
        """Path of a file that is sent with other bytes than the hub declares; if another file is
        held, once that one is on its way."""
        self.claimed_bytes: dict[str, int] = {}
        """Wrong sizes that the hub declares, by path in the repository."""
        self.gated = ""
        """Name (`owner/name`) of a repository whose files nobody may read."""
        self.failing: dict[str, list[HTTPStatus]] = {}
        """Answers to the next requests for the file of this path, instead of it."""
        self.signed = ""
        """Name of a repository whose large files are at another host's URL, which is valid for one
        request; the first one for each file breaks off half-way."""
        self.signatures: dict[str, int] = {}
        """Number of these URLs given for each file, by path."""
        self.used: set[str] = set()
        """Those that were requested."""
        self.sent_bytes: dict[str, int] = {}
        """Bytes sent of each file, by its path in its repository."""
        self.asked_from: dict[str, int] = {}
        """First byte of the last request for each file's content, by path."""
        super().__init__(_Handler)

    def only(self, environment: pytest.MonkeyPatch, home: Path) -> None:
        """Makes this hub the only one for this process and its later children, with `home` as their
        cache."""
        environment.setenv("HF_ENDPOINT", self.address)
        environment.setenv("HF_HOME", str(home))
        environment.setenv("HF_HUB_OFFLINE", "0")
        environment.delenv("HF_HUB_CACHE", raising=False)
        # The library read these from the environment when it was imported.
        address = self.address + "/{repo_id}/resolve/{revision}/{filename}"
        environment.setattr(constants, "ENDPOINT", self.address)
        environment.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        environment.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        environment.setattr(constants, "HF_HUB_OFFLINE", False)

    @property
    def fetched(self) -> set[str]:
        """Files whose content was requested, without their repository."""
        whole = (request.split() for request in self.requests)
        return {
            path.partition(f"/resolve/{COMMIT}/")[2]
            for method, path in whole
            if method == "GET" and "/resolve/" in path
        }


class _Handler(Handler):
    """One request per connection, so that none outlives the server."""

    served: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append(f"{self.command} {path}")
        if path.startswith("/signed/"):
            self._send_signed(path, with_body)
            return
        api, resolve = path.startswith("/api/models/"), "/resolve/" in path
        if api:
            owner, name, *rest = path.removeprefix("/api/models/").split("/")
        elif resolve:
            owner, name, *rest = path.removeprefix("/").split("/")
        repository = self.served.folder / owner / name if api or resolve else None
        if repository is None or not repository.is_dir():
            self.send_response(HTTPStatus.UNAUTHORIZED)
            self.send_header("X-Error-Code", "RepoNotFound")
            self._end(b"", with_body)
        elif resolve and self.served.gated == f"{owner}/{name}":
            self.send_response(HTTPStatus.FORBIDDEN)
            self.send_header("X-Error-Code", "GatedRepo")
            self._end(b"", with_body)
        elif resolve and self.served.failing.get("/".join(rest[2:])):
            self.send_response(self.served.failing["/".join(rest[2:])].pop(0))
            self._end(b"", with_body)
        elif resolve and self.served.signed == f"{owner}/{name}" and rest[-1].endswith(LARGE):
            self._send_address(repository / "/".join(rest[2:]), "/".join(rest[2:]))
        elif resolve:
            self._send_file(repository / "/".join(rest[2:]), with_body)
        else:
            files = [file for file in sorted(repository.rglob("*")) if file.is_file()]
            told = [_told(file, repository) for file in files]
            for file in told:
                file["size"] = self.served.claimed_bytes.get(file["path"], file["size"])
            if rest[:1] == ["tree"]:
                self._send_json(told, with_body)
            else:
                siblings = [{"rfilename": file["path"]} for file in told]
                self._send_json(
                    {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}, with_body
                )

    def _send_address(self, file: Path, path: str) -> None:
        """Redirects to a content network, as the hub does for large files."""
        number = self.served.signatures.get(path, 0) + 1
        self.served.signatures[path] = number
        name = file.relative_to(self.served.folder)
        self.send_response(HTTPStatus.FOUND)
        self.send_header("Location", f"http://localhost:{self.served.port}/signed/{number}/{name}")
        self.send_header("X-Linked-ETag", f'"{_hash(file)}"')
        self.send_header("X-Linked-Size", str(file.stat().st_size))
        self.send_header("X-Repo-Commit", COMMIT)
        self._end(b"", with_body=False)

    def _send_signed(self, path: str, with_body: bool) -> None:
        name = path.removeprefix("/signed/").split("/", 1)[1]
        if path in self.served.used:
            self.send_response(HTTPStatus.FORBIDDEN)
            self._end(b"", with_body)
            return
        self.served.used.add(path)
        file = self.served.folder / name
        content = file.read_bytes()
        part = RANGE.fullmatch(self.headers.get("Range", ""))
        first = int(part["first"]) if part else 0
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        cut = len(content) // 2 if first == 0 else len(content)
        self._send(name.split("/", 2)[2], content[first:cut])

    def _send_file(self, file: Path, with_body: bool) -> None:
        if not file.is_file():
            self.send_response(HTTPStatus.NOT_FOUND)
            self.send_header("X-Error-Code", "EntryNotFound")
            self._end(b"", with_body)
            return
        content = file.read_bytes()
        half = len(content) // 2
        first, last = 0, len(content) - 1
        part = RANGE.fullmatch(self.headers.get("Range", ""))
        if part is None:
            self.send_response(HTTPStatus.OK)
        else:
            first, last = int(part["first"]), min(int(part["last"] or last), last)
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("ETag", f'"{_hash(file)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if not with_body:
            return
        path = "/".join(unquote(urlsplit(self.path).path).split("/")[5:])
        self.served.asked_from[path] = first
        if path == self.served.damaged:
            content = bytes(byte ^ 1 for byte in content)
            if self.served.held:
                self.served.is_holding.wait(timeout=60)
        self._send(path, content[first : min(half, last + 1)])
        if path == self.served.cut_off:
            return
        if path == self.served.held:
            self.served.is_holding.set()
            self.served.go_on.wait(timeout=60)
            if self.served.held_breaks_off:
                return
        self._send(path, content[max(first, half) : last + 1])

    def _send(self, path: str, content: bytes) -> None:
        # The client may have gone: then nothing of it counts as sent.
        with contextlib.suppress(OSError):
            self.wfile.write(content)
            self.wfile.flush()
            self.served.sent_bytes[path] = self.served.sent_bytes.get(path, 0) + len(content)

    def _send_json(self, value: Any, with_body: bool) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self._end(json.dumps(value).encode(), with_body)

    def _end(self, content: bytes, with_body: bool) -> None:
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


def _told(file: Path, repository: Path) -> dict[str, Any]:
    size = file.stat().st_size
    told = {"type": "file", "path": file.relative_to(repository).as_posix(), "size": size}
    if file.suffix == ".safetensors":
        # Like the hub, which keeps large files outside git, with a pointer in it.
        pointer = {"oid": _hash(file), "size": size, "pointerSize": 130}
        return told | {"oid": _blob(_hash(file).encode()), "lfs": pointer}
    return told | {"oid": _hash(file)}


def _hash(file: Path) -> str:
    """Returns the hub's hash of the content: SHA-256 for large files, git's for others."""
    content = file.read_bytes()
    if file.suffix == ".safetensors":
        return hashlib.sha256(content).hexdigest()
    return _blob(content)


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\x00" % len(content) + content).hexdigest()
