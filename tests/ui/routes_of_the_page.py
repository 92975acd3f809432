"""Lists the routes of the served page, from the application in its own process."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conftest import PROJECT

SCRIPT = """
import json, tempfile
from pathlib import Path
from app.api.upload_folder import UploadFolder
from app.engine import engine
from app.settings import Settings
from app.ui.server import make_website, with_media

def walk(routes, prefix=""):
    for route in routes:
        path = prefix + getattr(route, "path", "")
        inner = getattr(route, "routes", None) or getattr(
            getattr(route, "original_router", None), "routes", None)
        if inner:
            yield from walk(inner, path)
        else:
            yield path

with tempfile.TemporaryDirectory() as folder:
    settings = with_media(Settings(), Path(folder).resolve())
    uploads = UploadFolder(settings.paths.media[0], 1_000_000, lambda: [])
    website = make_website(engine, settings, uploads, auth=("me", "secret"))
    print(json.dumps(sorted(set(walk(website.app.routes)))))
"""


def routes_of_the_page() -> set[str]:
    """Returns every route, as its template."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))
