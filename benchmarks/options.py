"""The common command line options of benchmarks."""

from __future__ import annotations

import argparse


def options_parser(doc: str | None) -> argparse.ArgumentParser:
    """Returns a parser described by the first line of a module's docstring, with `--smallest`."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument(
        "--smallest", action="store_true",
        help="do everything once, as small as possible: shows that it runs, its figures mean"
        " nothing",
    )  # fmt: skip
    return parser
