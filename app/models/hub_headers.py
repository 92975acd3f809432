"""Configurations and headers of a model that is not local, from the hub.

No weights are fetched. Of each weight file the safetensors header is requested by range and written
as a file that ends where its tensors would begin, in the folders of the model. So readers of a
downloaded model's headers can read these, and find the same.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from app.dialect.files import HEADER_LENGTH_BYTES
from app.dialect.plan_sources import ModelSource
from app.errors import WorkbenchError
from app.models.hub_errors import reason
from app.models.model_index import INDEX, INDEXES, OWN_BLOCKS
from app.models.specs import TEXTS, Selection, Unknown, known_folder
from app.unfinished import PRIVATE, private_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT_S = 5.0
"""Timeout of one request to the hub."""
ASK_AGAIN_S = 60.0
"""Time after which a model that the hub refused is requested again."""
WEIGHTS = ".safetensors"
CONFIG = "config.json"
AT_A_TIME = 8
"""Requests in progress at the same time: a large model has two dozen files."""


class NotAsked(WorkbenchError):
    """A request to the hub would be needed, and was not allowed."""


class _Listing(NamedTuple):
    """One repository: its commit, its files, and the folder for its headers."""

    commit: str
    files: tuple[str, ...]
    folder: Path


class _Refusal(NamedTuple):
    unknown: Unknown
    until_s: float
    """By the monotonic clock."""


class HubHeaders:
    """Caches the hub's answers until it is closed; thread-safe."""

    def __init__(self) -> None:
        # Closing does not wait for a thread that still writes an answer.
        self._open = contextlib.ExitStack()
        self._root = self._open.enter_context(
            private_folder(Path(tempfile.gettempdir()), f"{PRIVATE}headers-")
        )
        self._one_at_a_time = threading.Lock()
        self._listings: dict[tuple[str, str | None], _Listing] = {}
        self._answers: dict[tuple[ModelSource, Selection], Path | _Refusal] = {}

    def close(self) -> None:
        """Forgets everything."""
        self._open.close()

    def ask(self, source: ModelSource, wanted: Selection) -> Path:
        """Returns the folder as `specs.known_folder` does; asks the hub for a model that is not
        local.

        Raises Unknown with a sentence, whatever the hub says. Nothing is requested with
        HF_HUB_OFFLINE=1.
        """
        try:
            return self.known(source, wanted)
        except NotAsked:
            pass
        with self._one_at_a_time:
            try:
                # Another thread may have asked meanwhile.
                return self.known(source, wanted)
            except NotAsked:
                return self._fetch(source, wanted)

    def known(self, source: ModelSource, wanted: Selection) -> Path:
        """Returns what `ask` does, but without requests: raises NotAsked where it would need
        one."""
        try:
            return known_folder(source, wanted)
        except Unknown:
            if _is_offline():
                raise
        answer = self._answers.get((source, wanted))
        if isinstance(answer, Path):
            return answer
        if answer is not None and time.monotonic() < answer.until_s:
            raise answer.unknown
        raise NotAsked(f"the hub has not been asked for '{source.model}'.")

    def _fetch(self, source: ModelSource, wanted: Selection) -> Path:
        from huggingface_hub import HfApi

        api = HfApi()
        try:
            listing = self._listing(api, source)
            folder = self._answers[source, wanted] = _fetch_wanted(api, listing, source, wanted)
        except Unknown:
            raise
        except Exception as error:
            # Refused, unreachable, malformed: the hub's library passes on exceptions of many
            # others.
            unknown = Unknown(
                f"memory needs unknown until '{source.model}' has been downloaded:"
                f" {reason(error, source.revision)}."
            )
            self._answers[source, wanted] = _Refusal(unknown, time.monotonic() + ASK_AGAIN_S)
            raise unknown from error
        return folder

    def _listing(self, api: HfApi, source: ModelSource) -> _Listing:
        key = (source.model, source.revision)
        if key not in self._listings:
            info = api.model_info(source.model, revision=source.revision, timeout=TIMEOUT_S)
            files = (file.rfilename for file in info.siblings or ())
            self._listings[key] = _Listing(
                commit=info.sha or "main",
                files=tuple(file for file in files if ".." not in file and file[0] != "/"),
                folder=Path(tempfile.mkdtemp(dir=self._root)),
            )
        return self._listings[key]


def _is_offline() -> bool:
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def _fetch_wanted(api: HfApi, listing: _Listing, source: ModelSource, wanted: Selection) -> Path:
    """Writes the headers and texts of the wanted files."""
    weights = [name for name in wanted.heavy(listing.files) if name in listing.files]
    if not all(name.endswith(WEIGHTS) for name in (*weights, *wanted.files)):
        # Other files have their header at their end, or hold code.
        raise Unknown(f"memory needs unknown until '{source.short_name}' has been downloaded.")
    indexes = [name for name in (*INDEXES, OWN_BLOCKS) if name in listing.files]
    names = {*weights, *((indexes or [INDEX]) if wanted.whole else ())}
    folders = {name.rpartition("/")[0] for name in listing.files}
    if wanted == TEXTS:
        names |= {*indexes}
    else:
        folders &= {*wanted.folders}
    for folder in folders:
        (listing.folder / folder).mkdir(parents=True, exist_ok=True)
        config = f"{folder}/{CONFIG}".removeprefix("/")
        names |= {config} & {*listing.files}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(partial(_fetch_file, api, listing, source.model), sorted(names)))
    return listing.folder


def _fetch_file(api: HfApi, listing: _Listing, model: str, name: str) -> None:
    path = listing.folder / name
    if path.is_file():
        return
    content = (_header if name.endswith(WEIGHTS) else _text)(api, listing, model, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _text(api: HfApi, listing: _Listing, model: str, name: str) -> bytes:
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    # Not by hf_hub_download: in the hub's cache a model without weights would count as downloaded.
    url = hf_hub_url(model, name, revision=listing.commit, endpoint=api.endpoint)
    answer = get_session().get(url, headers=build_hf_headers(), timeout=TIMEOUT_S)
    hf_raise_for_status(answer)
    return answer.content


def _header(api: HfApi, listing: _Listing, model: str, name: str) -> bytes:
    found = api.parse_safetensors_file_metadata(
        model, name, revision=listing.commit, timeout=TIMEOUT_S
    )
    header = {
        name: {"dtype": each.dtype, "shape": each.shape, "data_offsets": each.data_offsets}
        for name, each in found.tensors.items()
    }
    content = json.dumps(header).encode()
    return len(content).to_bytes(HEADER_LENGTH_BYTES, "little") + content
