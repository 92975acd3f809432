"""The part of a plan that says where what a step loads comes from, and in which form."""

from __future__ import annotations

import re

from pydantic import Field, JsonValue

from app.frozen import Frozen
from app.workflow.plan_settings import DType
from app.workflow.quantisation import Quantisation

OTHERS = "default"
"""Among a modular pipeline's dtypes that of the components which are not named."""


class ModelSource(Frozen):
    """Where weights come from: a local folder, or a repository of the model hub."""

    model: str
    """As the document names it; used in log lines and on the page."""
    folder: str | None = None
    """The absolute local folder; None for a repository of the hub."""
    subfolder: str = ""
    revision: str | None = None
    variant: str | None = None
    file: str = ""
    """Of weights in a single file, its name below the folder or in the repository."""

    @property
    def short_name(self) -> str:
        """For people: the folder's own name, or `owner/name` of the hub; a single file's name."""
        if self.file:
            return self.file.rpartition("/")[2]
        return (
            self.model if self.folder is None else self.folder.replace("\\", "/").rpartition("/")[2]
        )


class ComponentBlock(Frozen):
    """A component the document loads on its own and hands to the pipeline under its key."""

    class_name: str
    """Qualified: `diffusers.AutoencoderKLWan`."""
    source: ModelSource
    dtype: DType = "float32"
    quantisation: Quantisation | None = None
    config: ModelSource | None = None
    """Whose configuration weights in a single file have; None: which is told by the tensors."""

    files: dict[str, str] = Field(default_factory=dict)
    """Of a model that its own library loads: what that calls them → where they are below its
    folder."""

    @property
    def is_foreign(self) -> bool:
        """Whether it is loaded by neither diffusers nor transformers."""
        return self.class_name.partition(".")[0] not in ("diffusers", "transformers")

    @property
    def has_weights(self) -> bool:
        """Whether it is a model, and no tokenizer, processor or scheduler."""
        return not re.search(r"Tokenizer|Processor|FeatureExtractor|Scheduler", self.class_name)


class LoraSource(Frozen):
    """LoRA weights to have active during the step, with their scale."""

    source: ModelSource
    weight_name: str | None = None
    adapter_name: str
    scale: float = 1.0


class IpAdapterSource(Frozen):
    """What lets the denoiser look at a picture during the step."""

    source: ModelSource
    weight_name: str
    """A safetensors file in the source's subfolder."""
    image_encoder: str
    """The encoder's folder, from the root of the source."""
    encoder_source: ModelSource | None = None
    """Where the encoder lies instead, in a model of its own."""
    scale: JsonValue = 1.0


class ModularSettings(Frozen):
    """What a modular pipeline is put together to."""

    workflow: str | None = None
    """Which of its blocks run and which components they need; None leaves it to the arguments."""
    configs: dict[str, JsonValue] = Field(default_factory=dict)
    """Values of its blocks' configuration that are others than the model's."""
    names: tuple[str, ...] | None = None
    """The components that are loaded; None: all that the workflow needs."""
    dtypes: dict[str, DType] = Field(default_factory=dict)
    """By component; under OTHERS that of those not named."""
    quantised: dict[str, Quantisation] = Field(default_factory=dict)
    """Components that are quantised while they are loaded."""
    sources: dict[str, ModelSource] = Field(default_factory=dict)
    """Components whose files lie in other repositories than the model's index."""
