"""README's table of what is added where: one of each kind is added in a copy of `app/` and used.

Slow: the copy's own page, engine and worker are imported and run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import PROJECT

NEW_FILES = {
    # A task.
    "app/tasks/shout.py": """
from app.tasks.task import Arguments, Task

class Words(Arguments):
    text: str

def shout(arguments: Words) -> str:
    return arguments.text.upper() + "!"

SHOUT = Task(Words, shout, gives="text")
""",
    # A result kind.
    "app/worker/results/loud.py": """
def save_loud(artifact, file, record, spec):
    file.write((artifact + "!").encode())
""",
    # A form widget.
    "app/ui/colour.py": """
import gradio as gr
from app.ui.widgets import Widget

COLOUR = Widget(lambda spec, value: gr.ColorPicker(value, label=spec.label), str,
                lambda _, value: True)
""",
    # A quantiser.
    "app/worker/loading/loud.py": """
def configuration(home, given):
    return "loud", dict(given)
""",
    # An offload mode.
    "app/worker/tuning/quiet.py": """
def quiet(pipeline, step, device):
    pipeline.append(step)
""",
}
"""The implementation of each."""
SHOUTED = """
class Shouted(RunEvent):
    type: Literal["shouted"] = "shouted"

"""
WORKFLOW = """{
  "id": "loud",
  "variables": {"words": "hello"},
  "inputs": {"words": {"kind": "colour"}},
  "steps": [{
    "name": "shout",
    "task": {"command": "shout", "arguments": {"text": "variable:words"}},
    "result": {"content_type": "text/loud"}
  }]
}"""
ADDED = {
    # A task.
    "app/tasks/__init__.py": [
        ("    borders,\n", "    shout,\n"),
        ("TASKS: dict[str, Task] = {\n", '    "shout": shout.SHOUT,\n'),
    ],
    # A result kind.
    "app/dialect/result_kinds.py": [
        ("RESULT_KINDS: dict[str, ResultKind] = {\n",
         '    "text/loud": ResultKind(".loud", "app.worker.results.loud:save_loud"),\n'),
    ],
    # A form widget.
    "app/dialect/input_kinds.py": [
        ("INPUT_KINDS: dict[str, str] = {\n", '    "colour": "app.ui.colour:COLOUR",\n'),
    ],
    # A setting.
    "app/settings.py": [
        ("    share: bool = False\n", '    loudness: int = 3\n    """How loud."""\n'),
    ],
    # An event, and its text on the page.
    "app/protocol.py": [
        ("TERMINAL = (RunSucceeded, RunFailed, RunCancelled)\n", SHOUTED),
    ],
    "app/run_view.py": [
        ("    RunQueued,\n", "    Shouted,\n"),
        ("    match event:\n",
         '        case Shouted():\n            return replace(view, status="It was loud")\n'),
    ],
    # A quantiser.
    "app/dialect/quantisation.py": [
        ("QUANTISERS: dict[str, Quantiser] = {\n",
         '    "LoudConfig": Quantiser("loud", Package("json", "json"), Gguf, lambda _: "loudly",'
         ' "app.worker.loading.loud:configuration"),\n'),
    ],
    # An offload mode.
    "app/dialect/offloads.py": [
        ("OFFLOADS: dict[str, Way] = {\n",
         '    "quiet": Way(lambda need: 7, "app.worker.tuning.quiet:quiet"),\n'),
    ],
}  # fmt: skip
"""Text inserted after an anchor text of a file, mostly one line. An anchor that occurs twice means
its first place."""
USE = """
import sys
from pathlib import Path

folder = Path(sys.argv[1])

def parent():
    import gradio as gr
    from app.engine import Engine
    from app.protocol import ResultSaved, Shouted, decode_event, encode
    from app.run_view import RunView, advance
    from app.settings import PathSettings, Settings, WorkerSettings
    from app.ui.form import build_form
    from app.catalog.catalog import Catalog
    from app.dialect.document import Configuration
    from app.models.fit import Mode, Need, Room, Weights, peak_bytes
    from app.dialect.quantisation import QUANTISERS, quantisation

    # The setting.
    assert Settings.from_environment({"DW_LOUDNESS": "11"}).ui.loudness == 11
    # The event.
    shouted = decode_event(encode(Shouted(run_id="1", time=0.0)))
    assert advance(RunView(), shouted).status == "It was loud"
    # The widget.
    paths = PathSettings(workflows=(folder,), outputs=folder / "outputs")
    (entry,) = Catalog(paths).entries()
    assert entry.problem is None, entry.problem
    with gr.Blocks(analytics_enabled=False):
        (field,) = build_form(entry.inputs, {})
    assert isinstance(field.component, gr.ColorPicker)
    # The quantiser and the offload mode, as far as planning goes.
    assert quantisation(QUANTISERS["LoudConfig"], {}).label == "loudly"
    assert Configuration(component_type="A", offload="quiet").offload == "quiet"
    need = Need("draw", (Weights("unet", "float32", 100),))
    assert peak_bytes(Mode("quiet"), need, Room(1000, 1000, 1000)) == 7
    # The task and the result kind, in a real worker.
    engine = Engine()
    engine.start(Settings(paths=paths, worker=WorkerSettings(device="cpu")))
    try:
        run_id = engine.submit(Path(entry.path), {})
        (saved,) = [e for e in engine.events(run_id) if isinstance(e, ResultSaved)]
    finally:
        engine.close()
    assert Path(saved.path).suffix == ".loud"
    assert Path(saved.path).read_text() == "HELLO!!"

def worker():
    from types import SimpleNamespace

    from app.worker.loading.quantising import configuration
    from app.worker.tuning.offload import on_device
    from app.dialect.quantisation import Quantisation

    assert configuration(Quantisation(kind="loud"), "diffusers") == ("loud", {})

    class Pipeline(list):
        def remove_all_hooks(self):
            pass

        maybe_free_model_hooks = remove_all_hooks

    step = SimpleNamespace(modular=None, offload="quiet")
    pipeline = Pipeline()
    with on_device(pipeline, step, None):
        assert pipeline == [step]

if __name__ == "__main__":
    parent()
    worker()
    print("all of it works")
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of `app/` and what it needs of the project, with one of each kind added."""
    copy = tmp_path / "copy"
    shutil.copytree(PROJECT / "app", copy / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("workflows", "models"):
        (copy / name).symlink_to(PROJECT / name)
    for name, text in NEW_FILES.items():
        (copy / name).write_text(text, encoding="utf-8")
    for name, additions in ADDED.items():
        file = copy / name
        text = file.read_text(encoding="utf-8")
        for behind, added in additions:
            assert behind in text, f"{name} has no {behind!r}"
            text = text.replace(behind, behind + added, 1)
        file.write_text(text, encoding="utf-8")
    return copy


def test_one_of_each_kind_can_be_added(copy: Path, tmp_path: Path):
    folder = tmp_path / "workflows"
    folder.mkdir()
    (folder / "loud.json").write_text(WORKFLOW)
    script = copy / "use.py"
    script.write_text(USE)
    used = subprocess.run(
        [sys.executable, str(script), str(folder)],
        cwd=copy, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert used.stdout == "all of it works\n", used.stderr


def test_readme_names_every_changed_file():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| to add |") :].partition("\n\n")[0]
    assert [name for name in ADDED if f"`{name}`" not in table] == []
