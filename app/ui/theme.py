"""How the page looks and what it does without the server: theme tokens, CSS, keyboard, status chip.

Everything is in the page itself: it makes no request to any other host.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

HERE = Path(__file__).resolve().parent
COMPAT = HERE.parent / "compat" / "ui"


def theme() -> gr.Theme:
    """Gradio's default theme with a few tokens of our own, light and dark."""
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
    """The style sheet of the page."""
    return (HERE / "page.css").read_text(encoding="utf-8")


def head() -> str:
    """The scripts of the page, for the document's head."""
    scripts = (COMPAT / "streams.js", HERE / "page.js")
    return "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in scripts)
