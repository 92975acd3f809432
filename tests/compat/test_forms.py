"""Gradio's per-visitor state."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import PROJECT

ADDED = """
import copy
import gradio as gr
from app.compat.ui.forms import allow_new_forms

with gr.Blocks(analytics_enabled=False) as page:
    button, state = gr.Button(), gr.State()
    button.click(lambda: 1, None, state)
allow_new_forms(page)
visit = copy.copy(page.default_config)  # as each visit begins
for kept in (visit.fns, visit.blocks):
    before = len(kept)
    for number, value in enumerate(kept.values()):
        kept[1000 + number] = value
    assert len(kept) == 2 * before
assert len(page.default_config.fns) == 1
"""


def test_form_events_can_be_added_during_iteration():
    run = subprocess.run(
        [sys.executable, "-c", ADDED], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
