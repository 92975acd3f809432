"""Every benchmark runs at its smallest size and prints its tables."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

FOLDER = PROJECT / "benchmarks"
ROWS = {
    "engine": ["overhead of a warm run", "identical request", "A → B → A", "queue gap"],
    "fits": ["text-to-image"],
    "growth": ["anonymous memory; caches; the rest", "growth of the rest, per run"],
    "history": ["submit, median", "status, median", "history, median"],
    "loading": ["float16, after Free", "bfloat16, after Free", "first load after a restart"],
    "loras": ["warm run with the LoRA", "outside the calls", "instead of one of two"],
    "out_of_memory": ["ran out of memory and recovered", "next ordinary run right"],
    "overhead": ["overhead of a warm run", "first denoiser forward", "first run"],
    "peak": ["shapes, 1 of 256 px", "decoder of SD and SDXL, 512x512"],
    "slots": ["two workers' time of one's", "equal images"],
    "soak": ["pictures other than their workflow's first", "the same after Free"],
    "startup": ["import gradio", "first page", "first picture"],
}
"""A row of each benchmark's tables."""
FIGURE = re.compile(r"\d|\ball\b")


def test_benchmarks_are_listed_with_usage() -> None:
    scripts = {path.stem: path.read_text() for path in FOLDER.glob("*.py")}
    scripts = {name: text for name, text in scripts.items() if 'if __name__ == "__main__"' in text}
    assert scripts.keys() == ROWS.keys()
    for name, text in scripts.items():
        assert f"    python -m benchmarks.{name} [" in text.split('"""')[1]


@pytest.mark.parametrize("name", ROWS)
def test_benchmark_prints_its_table(name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--smallest"], cwd=PROJECT,
        capture_output=True, text=True, timeout=220, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for row in ROWS[name]:
        figures = [line.partition(row)[2] for line in ran.stdout.splitlines() if row in line]
        assert figures, ran.stdout
        assert all(map(FIGURE.search, figures)), ran.stdout
