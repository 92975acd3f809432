"""Assembles the page: theme, header and tabs. No logic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.api.people import People
from app.catalog.catalog import Catalog
from app.compat.ui.forms import allow_new_forms
from app.settings import Settings
from app.ui.api import ScriptApi
from app.ui.free import FreeButton
from app.ui.generate import GenerateTab
from app.ui.memory import PRIVATE, MemoryPanel

if TYPE_CHECKING:
    from app.engine import Engine

TITLE = "Diffusers Workbench"
CHIP = (
    "<span class='chip-text' data-state='starting'><span class='dot'></span>"
    "<span class='chip-words'>connecting</span></span>"
)
HERE = Path(__file__).resolve().parent
COMPAT = HERE.parent / "compat" / "ui"


def theme() -> gr.Theme:
    """Returns Gradio's default theme with a few tokens of our own, light and dark."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_500",
        block_info_text_color="*neutral_500",
        block_label_text_weight="500",
        block_title_text_weight="500",
    )


def css() -> str:
    return (HERE / "page.css").read_text(encoding="utf-8")


def head() -> str:
    """Returns the scripts of the page, for the document's head."""
    scripts = (COMPAT / "streams.js", HERE / "page.js")
    return "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in scripts)


def build_ui(engine: Engine, settings: Settings, catalog: Catalog, people: People) -> gr.Blocks:
    """Returns the page and its endpoints for this engine.

    Uploads lie in the first folder of `settings.paths.media`; the engine's files in
    `settings.paths.outputs` are served from there (`files`).
    """
    uploads = Path(settings.paths.media[0])
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        names = ScriptApi(engine, catalog, uploads, people, settings.ui.unread_stream_s).register()
        with gr.Row(elem_id="header"):
            gr.HTML(f"<h1>{TITLE}</h1>", elem_id="brand")
            gr.HTML(CHIP, elem_id="chip")
            free = gr.Button("Free GPU", size="sm", elem_id="free")
        freeing = FreeButton(engine, free, people)
        tab = GenerateTab(engine, catalog, settings.paths, people)
        freeing.wire(tab.visit)
        panel = MemoryPanel(engine, people)
        for changed in (tab.current_run.change, freeing.notice.change):
            changed(panel.refresh, None, panel.held, **PRIVATE)
        tab.current_run.change(freeing.withdraw, None, freeing.choice, **PRIVATE)
        page.load(
            tab.open_page,
            tab.visit,
            tab.open_page_outputs,
            concurrency_limit=None,
            show_progress="hidden",
            api_visibility="private",
        )
        page.load(tab.fit.wait_for_worker, None, tab.fit.worker_known, **PRIVATE)
    assert_public_names(page, names)
    allow_new_forms(page)
    return page


def assert_public_names(page: gr.Blocks, names: tuple[str, ...]) -> None:
    """Raises if an endpoint has another name than the one scripts use."""
    public = {
        fn.api_name
        for fn in page.fns.values()
        if fn.api_visibility == "public" and fn.api_name is not False
    }
    if public != set(names):
        raise AssertionError(f"the endpoints are {sorted(map(str, public))}, not {sorted(names)}")


def launch_options() -> dict[str, Any]:
    """Returns theme, CSS and scripts, which Gradio takes at launch."""
    return {"theme": theme(), "css": css(), "head": head()}
