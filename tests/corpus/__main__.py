"""`make corpus`: run every document there is, print a table, bring the page about it into step.

All of them run in one worker, one after the other, and once more in the opposite order in a second
one: what ran before must make no difference to any pixel.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.corpus.bench import Corpus, corpus, problems, same
from tests.corpus.coverage import write_page
from tests.corpus.own import OWN, Saved
from tests.corpus.real import REAL, Runs
from tests.corpus.shipped import SHIPPED
from tests.engines import Finished
from tests.standins import StandIns

Case = tuple[str, tuple[Saved, ...], Callable[[Corpus], Finished]]


def cases() -> Iterator[Case]:
    """Yields name, expected files, and how to run it."""
    for own in OWN:
        yield own.name, (own.saved,), lambda place, own=own: place.own(own)
    for stem, line in SHIPPED.items():
        run = lambda place, stem=stem, line=line: place.shipped(stem, line)  # noqa: E731
        yield f"workflows/{stem}.json", line.saved, run
    if not (folder := os.environ.get("DW_REAL_WORKFLOWS")):
        print("DW_REAL_WORKFLOWS names no folder: third-party documents are not run.\n")
        return
    for name, line in REAL.items():
        if isinstance(line, Runs):
            run = lambda place, name=name, line=line: place.real(Path(folder), name, line)  # noqa: E731
            yield name, line.saved, run


def main(named: Sequence[str]) -> int:
    """Returns the number of documents with problems, of the named ones, else of all."""
    every = [case for case in cases() if not named or any(each in case[0] for each in named)]
    first: dict[str, Finished] = {}
    wrong: dict[str, list[str]] = {}
    width = max(len(name) for name, *_ in every)
    print(f"{'document':{width}}  files  cold s  again s  what is wrong")
    with tempfile.TemporaryDirectory() as scratch:
        stand_ins = StandIns(Path(scratch, "models"))
        folders = [Path(scratch, name) for name in ("forwards", "backwards")]
        seconds: dict[str, list[float]] = {}
        for folder, order in zip(folders, (every, every[::-1]), strict=True):
            folder.mkdir()
            with corpus(folder, stand_ins) as place:
                for name, saved, run in order:
                    started = time.monotonic()
                    finished = run(place)
                    seconds.setdefault(name, []).append(time.monotonic() - started)
                    wrong.setdefault(name, []).extend(problems(finished, saved))
                    if not wrong[name] and not same(first.setdefault(name, finished), finished):
                        wrong[name].append("What ran before makes a difference.")
        for name, saved, _ in every:
            cold_s, again_s = seconds[name]
            said = "; ".join(dict.fromkeys(wrong[name]))
            print(f"{name:{width}}  {len(saved):5}  {cold_s:6.2f}  {again_s:7.2f}  {said}")
    bad = sum(map(bool, wrong.values()))
    print(f"\n{len(every) - bad} of {len(every)} run as they should.")
    if not bad and not named:
        write_page()
    return bad


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
