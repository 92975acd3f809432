"""What the steps of one document hand to later ones: components, and whole pipelines."""

from __future__ import annotations

from app.errors import LoadError, nearest
from app.workflow.document import PipelineBlock, StepDocument, WorkflowDocument
from app.workflow.models.resolve import component_names
from app.workflow.models.specs import Unknown
from app.workflow.plan import PipelineStep
from app.workflow.planning.values import ValueReader
from app.workflow.references import Path as Place


class Sharing:
    """Known as far as the document has been read; a sub-workflow has one of its own."""

    def __init__(self, document: WorkflowDocument) -> None:
        self._document = document
        self._sharing: dict[str, str] = {}
        """Which step shares a component; the last that does."""
        self._built: dict[str, PipelineStep | None] = {}
        """Pipeline steps by their name in the document; None for one with a mistake."""

    def add(
        self,
        step: StepDocument,
        name: str,
        built: PipelineStep | None,
        at: Place,
        reader: ValueReader,
    ) -> None:
        """Note a pipeline step, which is called `name` in the plan, and what it shares."""
        assert step.pipeline is not None
        self._built[step.name] = built
        known = None if built is None else known_components(built)
        for component, where in _named(step.pipeline, (*at, "pipeline"), "shared_components"):
            if known is not None and not known.get(component):
                message = f"The pipeline of '{step.name}' has no component '{component}'."
                reader.note(where, message, nearest(component, known))
            self._sharing[component] = name

    def reused(self, block: PipelineBlock, at: Place, reader: ValueReader) -> dict[str, str]:
        """The steps of the plan whose components the block reuses, by the components' names."""
        found: dict[str, str] = {}
        for component, where in _named(block, at, "reused_components"):
            if component in self._sharing:
                found[component] = self._sharing[component]
            else:
                message = f"No earlier step shares '{component}'."
                reader.note(where, message, self._hint(component))
        for name in ("scheduler", "audio_scheduler"):
            if name in found and getattr(block, name) is not None:
                message = "A scheduler that is reused cannot be changed."
                reader.note((*at, name), message, "Leave it out of 'reused_components'.")
        return found

    def step(self, name: str, at: Place, reader: ValueReader) -> PipelineStep | None:
        """The earlier pipeline step of this name in the document; a problem where there is none."""
        if name in self._built:
            return self._built[name]
        later = name in [step.name for step in self._document.steps if step.pipeline is not None]
        hint = f"Step '{name}' comes later." if later else nearest(name, self._built)
        reader.note(at, f"There is no earlier pipeline step '{name}'.", hint)
        return None

    def _hint(self, component: str) -> str:
        for step in self._document.steps:
            if step.name in self._built or step.pipeline is None:
                continue
            if component in dict(_named(step.pipeline, (), "shared_components")):
                return f"Step '{step.name}' shares it and has to come first."
        return nearest(component, self._sharing)


def check_assembled(
    pipeline_class: str, block: PipelineBlock, at: Place, reader: ValueReader
) -> None:
    """Note what is wrong with a pipeline without a model, which has only what it is given."""
    stands_for = pipeline_class.rpartition(".")[2].startswith(("DiffusionPipeline", "AutoPipe"))
    given = block.component_blocks or block.reused_components
    if stands_for or not (given or block.configuration.reused_components):
        message = "The name of a model is needed: a folder or 'owner/name'."
        reader.note((*at, "model_name"), message)


def _named(block: PipelineBlock, at: Place, key: str) -> list[tuple[str, Place]]:
    """The components that the list of this key names, in both of its places."""
    settings = getattr(block.configuration, key)
    beside = getattr(block, key)
    return [
        *((name, (*at, "configuration", key, index)) for index, name in enumerate(settings)),
        *((name, (*at, key, index)) for index, name in enumerate(beside)),
    ]


def known_components(step: PipelineStep) -> dict[str, bool] | None:
    """The components the step's pipeline has by name, and whether each is there or none in its
    place; None where the model is not here yet."""
    try:
        return component_names(step)
    except (LoadError, Unknown):
        # What is wrong with the model is told when it is loaded.
        return None
