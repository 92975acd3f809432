"""HTML of the page: functions of plain data, every text escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from pydantic import JsonValue

from app.catalog.catalog import CatalogEntry
from app.errors import ErrorReport
from app.models.hub import is_repository
from app.protocol import NOT_SHOWN, ResultSaved
from app.run_view import RunView
from app.units import duration

CHOOSE_THUMBNAIL = """
element.addEventListener("click", (event) => {
  const thumbnail = event.target.closest("[data-index]");
  if (thumbnail) trigger("select", { index: Number(thumbnail.dataset.index) });
});
"""
STAY_UNFOLDED = """
let unfolded = false;
element.addEventListener("toggle", (event) => { unfolded = event.target.open; }, true);
watch("value", () => { element.querySelector("details").open = unfolded; });
"""
"""The next run is shown in a new element."""


THUMBNAIL_CHARACTERS = 60
"""Number of a text's characters shown in the strip."""


def file_url(path: str) -> str:
    """Returns the URL of a file the engine wrote; relative, so that a sub-path works."""
    return f"gradio_api/file={quote(path)}"


def choice_label(entry: CatalogEntry) -> str:
    """Returns a workflow's label in the dropdown, with its availability."""
    return f"{entry.title} · {entry.availability}"


def description(entry: CatalogEntry) -> str:
    """Returns the description of the chosen workflow; for a broken document, its problems."""
    if entry.problem is not None:
        return problems(entry.problem)
    # A model's path on this machine is of no use to a person.
    names = (model if is_repository(model) else Path(model).name for model in entry.models)
    models = f"<span class='models'>{escape(', '.join(names))}</span>"
    return f"<p class='description'>{escape(entry.description)} {models}</p>"


def fit(sentence: str) -> str:
    """Returns the line about the chosen workflow's needs."""
    return f"<p class='fit'>{escape(sentence)}</p>" if sentence else ""


def problems(error: ErrorReport) -> str:
    """Returns an error as its sentence and, below, all its problems."""
    items = "".join(f"<li>{escape(_problem(str(item)))}</li>" for item in error.problems)
    head = escape(f"{error.message} {error.hint}".strip())
    return f"<div class='problems' role='alert'><p>{head}</p><ul>{items}</ul></div>"


def _problem(sentence: str) -> str:
    return sentence.removeprefix("inputs.")


def status(view: RunView) -> str:
    """Returns the status line, the bar under it, and the error."""
    line = f"<p class='line {view.outcome or 'running'}'>{escape(view.status)}</p>"
    notice = f"<p class='note'>{escape(view.notice)}</p>" if view.notice else ""
    error = problems(view.error) if view.error else ""
    run = f"data-run='{escape(view.run_id, quote=True)}'"
    return f"<div role='status' aria-live='polite' {run}>{line}</div>{_bar(view)}{notice}{error}"


NOT_STARTED = "<div role='status' data-run=''><p class='line failed'>Not started</p></div>"


def refused(error: ErrorReport) -> str:
    """Returns the status of a refused run, with the reason."""
    return f"{NOT_STARTED}{problems(error)}"


def is_refusal(status: str) -> bool:
    """Returns True for a status made by `refused`."""
    return status.startswith(NOT_STARTED)


def idle() -> str:
    """Returns the status before the first run."""
    line = "<p class='line idle'>Ready when you are</p>"
    return f"<div role='status' data-run=''>{line}</div>" + _bar(RunView())


def _bar(view: RunView) -> str:
    if view.over or view.fraction is None:
        state = "hidden" if view.over or not view.run_id else "waiting"
        return f"<div class='bar {state}'><i></i></div>"
    percent = round(100 * view.fraction, 1)
    return (
        f"<div class='bar' role='progressbar' aria-label='Progress' aria-valuemin='0' "
        f"aria-valuemax='100' aria-valuenow='{percent:g}'><i style='width:{percent:g}%'></i></div>"
    )


def stage(view: RunView) -> str:
    """Returns the stage: the newest result, else the preview, else an empty frame."""
    if view.shown is not None:
        return picture(view.shown)
    if view.preview is not None:
        data = base64.b64encode(view.preview).decode()
        return _frame(f"<img class='preview' alt='Preview' src='data:image/jpeg;base64,{data}'>")
    if view.outcome is not None:
        texts = "".join(
            f"<pre>{escape(text if isinstance(text, str) else json.dumps(text))}</pre>"
            for text in view.outputs
        )
        return _frame(texts or f"<p class='empty'>{escape(_NO_PICTURE[view.outcome])}</p>")
    empty = NO_PREVIEW if view.without_preview else "The picture appears here"
    return _frame(f"<p class='empty'>{empty}</p>")


NO_PREVIEW = "No preview of this model: the result appears here when it is done"


_NO_PICTURE = {
    "succeeded": "This run made no file",
    "failed": "No picture: see the message above",
    "cancelled": "Cancelled",
}


def picture(result: ResultSaved) -> str:
    """Returns a large result, with a link that saves it."""
    url = escape(file_url(result.path), quote=True)
    name = escape(Path(result.path).name, quote=True)
    if result.content_type in NOT_SHOWN:
        shown = f"<p class='empty'>{name}: browsers do not open such a file</p>"
    elif result.content_type.startswith("video/"):
        shown = f"<video src='{url}' controls loop autoplay muted></video>"
    elif result.content_type.startswith("audio/"):
        shown = f"<audio src='{url}' controls></audio>"
    elif not result.is_visual:
        shown = f"<pre>{escape(result.text)}</pre>"
    else:
        shown = f"<a href='{url}' target='_blank'><img class='result' alt='Result' src='{url}'></a>"
    saved = f"<a class='save' href='{url}' download='{name}'>Download</a>"
    return f"<div class='frame' data-file='{url}'>{shown}</div>{saved}"


def _frame(inner: str) -> str:
    return f"<div class='frame'>{inner}</div>"


def summary(title: str, view: RunView) -> str:
    """Returns one line about a finished run: title, seed, times, loaded components."""
    parts = [title]
    if view.seed is not None:
        parts.append(f"seed {view.seed}")
    if view.timings is not None:
        spent = view.timings
        parts.append(
            f"{duration(spent.total_s)} (loading {duration(spent.load_s)}, "
            f"computing {duration(spent.compute_s)}, saving {duration(spent.save_s)})"
        )
    if view.outcome == "succeeded":
        loaded = ", ".join(view.loaded)
        warm = "reused earlier result" if view.unchanged else "everything was loaded already"
        parts.append(f"loaded {loaded}" if loaded else warm)
    return " · ".join(parts)


def details(summary: str, record: JsonValue = None) -> str:
    """Returns the details below the stage: the summary of a run and its record."""
    if isinstance(record, dict):
        # The inputs are read more often than the whole document, which comes last.
        record = dict(sorted(record.items(), key=lambda item: item[0] == "workflow"))
    shown = json.dumps(record, indent=2, ensure_ascii=False)
    pre = "" if record is None else f"<pre id='record' tabindex='0'>{escape(shown)}</pre>"
    line = f"<p class='summary'>{escape(summary)}</p>"
    return f"<details><summary>Details</summary>{line}{pre}</details>"


def notice(sentence: str) -> str:
    """Returns a plain sentence under the header."""
    return f"<p role='status' class='notice'>{escape(sentence)}</p>" if sentence else ""


def strip(results: Sequence[ResultSaved]) -> str:
    """Returns thumbnails of the results, in the given order, each a button with its
    `data-index`."""
    return "".join(_thumbnail(index, result) for index, result in enumerate(results))


def _thumbnail(index: int, result: ResultSaved) -> str:
    url = escape(file_url(result.path), quote=True)
    if not result.is_visual:
        words = result.text[:THUMBNAIL_CHARACTERS] or Path(result.path).suffix.lstrip(".").upper()
        shown = f"<span>{escape(words)}</span>"
    elif result.content_type.startswith("video/"):
        shown = f"<video src='{url}' muted preload='metadata'></video>"
    else:
        shown = f"<img src='{url}' alt=''>"
    label = f"Result {index + 1}, seed {result.seed}"
    return (
        f"<button type='button' data-index='{index}' data-file='{url}' title='{label}'"
        f" aria-label='{label}'>{shown}</button>"
    )
