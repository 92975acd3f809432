"""2,000 damaged documents made by Hypothesis from the schema: each is planned or refused in time,
without forbidden side effects."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import av  # noqa: F401  what tasks may import while planning is there before anything is watched
import cv2  # noqa: F401
import httpx  # noqa: F401
import numpy as np  # noqa: F401
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.dialect.plan import Plan
from app.errors import BadRequest
from app.planning.planner import make_plan
from app.settings import PROJECT
from tests.documents import VALUES, documents
from tests.plan_bench import Bench, drawing

EXAMPLES = 2000
LIMIT_S = 10
NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
         "socket.getaddrinfo", "os.remove", "os.rename", "os.mkdir", "shutil.rmtree", "os.chmod",
         "ctypes.dlopen")  # fmt: skip
"""Forbidden during planning."""
PACKAGES = {"app", "PIL", *sys.stdlib_module_names} - {"antigravity"}
"""Allowed imports; the documents name a standard module that nothing else uses."""


class Watch:
    """Records files that Python opens and imports, beyond what is allowed."""

    def __init__(self) -> None:
        self.on = False
        self.found: list[str] = []
        # Looking for an installed package reads Python's own folders.
        self.readable = (str(PROJECT / "workflows"), sys.base_prefix, *filter(None, sys.path))
        self.kept = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"))
        """Cache of facts read from library sources."""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in NEVER:
            self.found.append(f"{event} {arguments}")
        elif event == "import" and str(arguments[0]).partition(".")[0] not in PACKAGES:
            self.found.append(f"import {arguments[0]}")
        elif event == "open" and isinstance(arguments[0], str):
            name, mode, flags = arguments
            writes = bool(set(mode or "") & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR))
            allowed = (self.kept,) if writes else (*self.readable, self.kept)
            if not name.startswith(allowed):
                self.found.append(f"open {name} {mode}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    # Pillow looks for its plugins' packages once.
    Image.init()
    return Watch()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, watch: Watch) -> Bench:
    root = tmp_path_factory.mktemp("generated")
    watch.readable += tuple(str(root / name) for name in ("workflows", "models", "media"))
    bench = Bench(root)
    bench.picture("a.png")
    bench.picture("a.png", bench.workflows)
    bench.write(drawing(), "child.json")
    return bench


# The same 2,000 every time, so that a failure is reproducible.
@settings(
    max_examples=EXAMPLES, derandomize=True, database=None, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    document=documents(),
    typed=st.dictionaries(st.sampled_from(["v", "w", "x"]), VALUES, max_size=2),
)
def test_generated_document_is_planned_or_refused_without_side_effects(
    bench: Bench, watch: Watch, document: Any, typed: dict[str, Any]
):
    file = bench.workflows / "flow.json"
    file.write_text(json.dumps(document))
    started = time.process_time()
    watch.found.clear()
    watch.on = True
    try:
        # An unforeseen error is no BadRequest, and fails this test.
        with contextlib.suppress(BadRequest):
            plan = make_plan(file, typed, paths=bench.paths)
            assert Plan.model_validate_json(plan.model_dump_json()) == plan
    finally:
        watch.on = False
    assert time.process_time() - started < LIMIT_S
    assert not watch.found, watch.found
