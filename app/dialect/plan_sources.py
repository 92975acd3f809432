"""The part of a plan that names the sources of a step's models, and their form."""

from __future__ import annotations

import re

from pydantic import Field, JsonValue

from app.dialect.block_scales import Scale
from app.dialect.plan_settings import DType
from app.dialect.quantisation import Quantisation
from app.frozen import Frozen

OTHERS = "default"
"""Key of a modular pipeline's dtypes for the components that are not named."""


def list_entry(name: str, index: int) -> str:
    """Returns the plan's name of one of several components: `controlnet.0`."""
    return f"{name}.{index}"


def parameter_of(component: str) -> str:
    """Returns the parameter of the pipeline that receives this component of a plan: `controlnet`
    for `controlnet.0`, `vae` for `vae`."""
    return component.partition(".")[0]


class ModelSource(Frozen):
    """The source of weights: a local folder, or a repository of the model hub."""

    model: str
    """Its name in the document; used in log lines and on the page."""
    folder: str | None = None
    """The absolute local folder; None for a repository of the hub."""
    subfolder: str = ""
    revision: str | None = None
    variant: str | None = None
    file: str = ""
    """File name below the folder or in the repository, for weights in a single file."""

    @property
    def short_name(self) -> str:
        """For people: the folder's own name, or `owner/name` of the hub; a single file's name."""
        if self.file:
            return self.file.rpartition("/")[2]
        return (
            self.model if self.folder is None else self.folder.replace("\\", "/").rpartition("/")[2]
        )


class ComponentBlock(Frozen):
    """A component the document loads on its own and passes to the pipeline under its key."""

    class_name: str
    """Qualified: `diffusers.AutoencoderKLWan`."""
    source: ModelSource
    dtype: DType = "float32"
    quantisation: Quantisation | None = None
    config: ModelSource | None = None
    """Config repository of a single-file checkpoint; None to infer it from the tensors."""

    files: dict[str, str] = Field(default_factory=dict)
    """Files of a model that its own library loads: by the library's names, their places below the
    model's folder."""
    code: bool = False
    """True if the class is defined by the model's own code, which the operator trusts."""

    @property
    def is_foreign(self) -> bool:
        """True if neither diffusers nor transformers loads it."""
        return self.class_name.partition(".")[0] not in ("diffusers", "transformers")

    @property
    def has_weights(self) -> bool:
        """True for a model; False for a tokenizer, processor or scheduler."""
        return not re.search(r"Tokenizer|Processor|FeatureExtractor|Scheduler", self.class_name)


class LoraSource(Frozen):
    """LoRA weights active during the step, with their scale."""

    source: ModelSource
    weight_name: str | None = None
    adapter_name: str
    scale: Scale = 1.0


class TextualInversionSource(Frozen):
    """The embeddings of a word, which the text encoders know during the step."""

    source: ModelSource
    """With its file."""
    token: str | None = None
    """The word; None for the one in the file, else the file's name."""


class IpAdapterSource(Frozen):
    """An image prompt adapter of the denoiser during the step."""

    source: ModelSource
    weight_name: str
    """A safetensors file in the source's subfolder."""
    image_encoder: str
    """The encoder's folder, from the root of the source; "" for an adapter that brings none: the
    first one's serves all."""
    encoder_source: ModelSource | None = None
    """A separate model that holds the encoder."""
    scale: JsonValue = 1.0


class ModularSettings(Frozen):
    """Settings of a modular pipeline."""

    workflow: str | None = None
    """Decides which blocks run and which components they need; None leaves it to the arguments."""
    configs: dict[str, JsonValue] = Field(default_factory=dict)
    """Values of its blocks' configuration that differ from the model's."""
    names: tuple[str, ...] | None = None
    """The components to load; None for all that the workflow needs."""
    dtypes: dict[str, DType] = Field(default_factory=dict)
    """By component; under OTHERS for those not named."""
    quantised: dict[str, Quantisation] = Field(default_factory=dict)
    """Components that are quantised while they load."""
    sources: dict[str, ModelSource] = Field(default_factory=dict)
    """Components whose files lie in other repositories than the model's index."""
