"""Measures the time from the command to the first page, and to the first image.

    python -m benchmarks.startup [--repeats 3] [--smallest]

Prints one table. The page is compared with `python -c "import gradio"`, measured in the same run,
which is a lower bound. A client requests the image as soon as the page is served.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

from gradio_client import Client

from benchmarks.options import options_parser
from benchmarks.table import print_table

PROMPT = "a red circle on a white background"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    repeats = 1 if options.smallest else options.repeats

    import_s, page_s, picture_s = [], [], []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import gradio"], check=True)
        import_s.append(time.perf_counter() - started)
        page, picture = serve_once()
        page_s.append(page)
        picture_s.append(picture)

    base = statistics.median(import_s)
    page, picture = statistics.median(page_s), statistics.median(picture_s)
    print_table(
        f"medians of {repeats}",
        [
            ('python -c "import gradio"', f"{base:.2f} s", ""),
            (
                "command → first page",
                f"{page:.2f} s, {page / base:.2f} times the import",
                "1.5 times",
            ),
            ("command → first picture", f"{picture:.2f} s", ""),
        ],
    )


def serve_once() -> tuple[float, float]:
    """Returns the seconds from the command to the first page, and to the first image."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as outputs:
        started = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", str(port), "--output", outputs],
            env={**os.environ, "DW_LOG_LEVEL": "WARNING"},
            stdout=subprocess.DEVNULL,
        )
        try:
            while not answers(url):
                if server.poll() is not None:
                    raise SystemExit("the server ended before it served a page")
                time.sleep(0.01)
            page_s = time.perf_counter() - started
            client = Client(url, verbose=False)
            client.predict("text-to-image", {"prompt": PROMPT}, 7, api_name="/generate")
            picture_s = time.perf_counter() - started
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=10)
    return page_s, picture_s


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


if __name__ == "__main__":
    main()
