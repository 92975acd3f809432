"""Pipelines that are put together from two models, where a document names only one of them.

diffusers reads the other's name from the model's card and follows it. Here the cards of the models
that are published so are written down, so a plan says everything that a run loads.
"""

from __future__ import annotations

from collections.abc import Callable

from app.workflow.plan_settings import DType
from app.workflow.plan_sources import ComponentBlock, ModelSource

PRIOR_OF = {
    f"kandinsky-community/kandinsky-2-2-{decoder}": "kandinsky-community/kandinsky-2-2-prior"
    for decoder in ("decoder", "decoder-inpaint")
}
"""The model that turns words into what these ones draw; `prior` in their cards."""
OF_PRIOR = {
    "prior": "diffusers.PriorTransformer",
    "image_encoder": "transformers.CLIPVisionModelWithProjection",
    "text_encoder": "transformers.CLIPTextModelWithProjection",
    "tokenizer": "transformers.CLIPTokenizer",
    "scheduler": "diffusers.UnCLIPScheduler",
    "image_processor": "transformers.CLIPImageProcessor",
}
"""Its components, by the folders that they lie in."""


def connected(
    pipeline_class: str,
    source: ModelSource | None,
    dtype: DType,
    find: Callable[[str], ModelSource | None],
) -> dict[str, ComponentBlock]:
    """The components of the other model, by their names in a pipeline of both; none where this
    class or this model is a pipeline by itself."""
    is_of_both = "Combined" in pipeline_class or ".AutoPipelineFor" in pipeline_class
    if not is_of_both or source is None or source.model not in PRIOR_OF:
        return {}
    prior = find(PRIOR_OF[source.model])
    if prior is None:
        return {}
    return {
        f"prior_{name}": ComponentBlock(
            class_name=class_name,
            source=prior.model_copy(update={"subfolder": name, "variant": source.variant}),
            dtype=dtype,
        )
        for name, class_name in OF_PRIOR.items()
    }
