"""Writes the table of schedulers' names in docs/dialect.md: `python -m tests.sampler_table`."""

from __future__ import annotations

import json

from app.dialect.sampler_names import SAMPLERS, SCHEDULES, sampler_names
from app.settings import PROJECT

PAGE = PROJECT / "docs" / "dialect.md"
BEGIN, END = "<!-- begin: python -m tests.sampler_table -->\n", "<!-- end -->\n"


def table() -> str:
    """Returns the table of samplers, and that of noise schedules."""
    rows = ["| name | class | settings | may end with |", "| --- | --- | --- | --- |"]
    names = sampler_names()
    for name, made in SAMPLERS.items():
        schedules = [each for each in SCHEDULES if f"{name} {each}" in names]
        settings = f"`{json.dumps(made.settings)}`" if made.settings else ""
        cells = (f"`{name}`", made.class_name, settings, ", ".join(schedules))
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    rows += ["", "| ending | settings |", "| --- | --- |"]
    rows += [f"| `{name}` | `{json.dumps(settings)}` |" for name, settings in SCHEDULES.items()]
    return "\n".join(rows) + "\n"


def page() -> str:
    """Returns the page with the table of this version."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
