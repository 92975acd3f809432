"""Loading arguments of a document: dtypes, a repository's own code, a second model, and keys
without effect."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from app.dialect.document import ComponentDocument, Configuration, PipelineBlock, ResultBlock
from app.dialect.installed import names
from app.dialect.plan_settings import DType
from app.dialect.plan_sources import OTHERS, ComponentBlock, ModelSource
from app.dialect.references import Path as Place
from app.dialect.references import place
from app.errors import nearest, shortened
from app.mistakes import shown
from app.models.hub import is_repository
from app.models.pipeline_shapes import OWN_CODE_FLAG
from app.planning.values import ValueReader

# --- dtypes ---------------------------------------------------------------------------------------

AUTO = ("auto", "{auto}")
AUTO_WARNING = (
    "{}: 'auto' is float32 for a pipeline, as in diffusers. Name the dtype: torch.bfloat16, say."
)
FLOAT16_WARNING = (
    "float16 is meant for accelerators: on a CPU it is slow and some operations lack it."
)


def read_dtypes(loading: dict[str, Any], at: Place, reader: ValueReader) -> dict[str, DType]:
    """Returns the dtype of each named component, and under OTHERS that of all others: float32 where
    the document does not say, as in diffusers."""
    key = dtype_key(loading)
    wanted = loading.get(key)
    if wanted in AUTO:
        reader.warnings.append(AUTO_WARNING.format(place((*at, key))))
        wanted = None
    each = wanted if isinstance(wanted, dict) else {OTHERS: wanted}
    found: dict[str, DType] = {OTHERS: "float32"}
    for name, dtype in each.items():
        if dtype is not None:
            where = (*at, key, name) if each is wanted else (*at, key)
            found[name] = _dtype(dtype, where, reader)
    return found


def component_dtype(
    loading: dict[str, Any], pipelines: DType, at: Place, reader: ValueReader
) -> DType:
    """Returns the dtype of a component with a block of its own; `auto` means the pipeline's."""
    key = dtype_key(loading)
    named = loading.get(key)
    if named in AUTO:
        return pipelines
    return "float32" if named is None else _dtype(named, (*at, key), reader)


def dtype_key(loading: dict[str, Any]) -> str:
    """Returns the key that holds the dtype in these loading arguments."""
    return "dtype" if "dtype" in loading and "torch_dtype" not in loading else "torch_dtype"


def _dtype(named: Any, at: Place, reader: ValueReader) -> DType:
    try:
        dtype = names.dtype_name(str(named))
    except names.UnknownName as error:
        reader.note(at, str(error))
        return "float32"
    if dtype == "float16":
        reader.warnings.append(FLOAT16_WARNING)
    return dtype


# --- a repository's own code ----------------------------------------------------------------------


def read_code(
    loading: dict[str, Any],
    at: Place,
    trusted: Collection[str],
    source_of: Callable[[dict[str, Any], Place], ModelSource | None],
    reader: ValueReader,
) -> ModelSource | None:
    """Returns the repository whose code these loading arguments ask for; None where they do not.

    Notes a problem for a repository that is not `trusted`: a document can only ask for it.
    """
    custom, asked = loading.get("custom_pipeline"), loading.get("trust_remote_code")
    if asked is not None and not isinstance(asked, bool):
        reader.note((*at, "trust_remote_code"), f"True or false is needed, not {shown(asked)}.")
        return None
    if custom is None and not asked:
        return None
    key = "trust_remote_code" if custom is None else "custom_pipeline"
    repository = loading.get("model_name") if custom is None else custom
    if not isinstance(repository, str) or not is_repository(repository):
        what = shortened(str(repository))
        message = f"The code of '{what}' is not run: only that of a repository 'owner/name' can be."
        reader.note((*at, key), message)
        return None
    if not is_trusted(repository, (*at, key), trusted, reader):
        return None
    revision = loading.get("custom_revision" if custom is not None else "revision")
    return source_of({"model_name": repository, "revision": revision}, at)


def is_trusted(repository: str, at: Place, trusted: Collection[str], reader: ValueReader) -> bool:
    """Returns whether the code of this repository may run; notes the problem if not."""
    if repository in trusted:
        return True
    message = f"'{repository}' would run code of its own here, and nobody has allowed that."
    hint = f"To trust it, start the workbench with {OWN_CODE_FLAG} {repository}."
    reader.note(at, message, hint)
    return False


# --- a second model -------------------------------------------------------------------------------

# diffusers reads the second model's name from the first one's model card.
PRIOR_OF = {
    f"kandinsky-community/kandinsky-2-2-{decoder}": "kandinsky-community/kandinsky-2-2-prior"
    for decoder in ("decoder", "decoder-inpaint")
}
"""The prior model of each decoder; `prior` in their cards."""
OF_PRIOR = {
    "prior": "diffusers.PriorTransformer",
    "image_encoder": "transformers.CLIPVisionModelWithProjection",
    "text_encoder": "transformers.CLIPTextModelWithProjection",
    "tokenizer": "transformers.CLIPTokenizer",
    "scheduler": "diffusers.UnCLIPScheduler",
    "image_processor": "transformers.CLIPImageProcessor",
}
"""Components of the prior, by their folders."""


def connected(
    pipeline_class: str,
    source: ModelSource | None,
    dtype: DType,
    find: Callable[[str], ModelSource | None],
) -> dict[str, ComponentBlock]:
    """Returns the prior's components, by their names in the combined pipeline; empty where this
    class or model is not a combined one."""
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


# --- keys that do nothing -------------------------------------------------------------------------

PLACEMENT = (
    "the workbench decides by the memory that is free where components lie, which changes no result"
)
DOWNLOADS = (
    "models are looked for in the models folders and the hub's cache, then downloaded, for every"
    " workflow alike"
)
TOKEN = "a token in a document is not used; set HF_TOKEN instead"
NO_WATERMARK = (
    "no invisible watermark is added, so that results are the same whatever packages are installed"
)
IDLE_LOADING_ARGUMENTS = {
    "add_watermarker": NO_WATERMARK,
    "cache_dir": DOWNLOADS,
    "device_map": PLACEMENT,
    "force_download": DOWNLOADS,
    "local_files_only": DOWNLOADS,
    "max_memory": PLACEMENT,
    "mirror": DOWNLOADS,
    "offload_folder": PLACEMENT,
    "offload_state_dict": PLACEMENT,
    "proxies": "set HTTPS_PROXY instead",
    "token": TOKEN,
    "use_auth_token": TOKEN,
}
"""Loading arguments without effect, by name: the reason, or what to do instead."""
HARMLESS_LOADING_ARGUMENTS = {
    "disable_mmap", "low_cpu_mem_usage", "output_loading_info", "requires_safety_checker",
    "resume_download",
}  # fmt: skip
"""Loading arguments without effect and without a warning: no result depends on them in diffusers
either, or they ask for what is done anyway."""
LOADING_ARGUMENTS = {
    "model_name", "from_single_file", "config", "torch_dtype", "dtype", "variant", "revision",
    "subfolder", "use_safetensors", "workflow", "custom_pipeline", "custom_revision",
    "trust_remote_code", *IDLE_LOADING_ARGUMENTS, *HARMLESS_LOADING_ARGUMENTS,
}  # fmt: skip
"""All known loading arguments, beside the components that are set to null."""
EMBEDS_RECORD = ("image/png", "image/jpeg", "image/webp")
"""Content types of files that can embed the record of their run."""


def warn_of_loading_arguments(loading: Mapping[str, Any], at: Place, reader: ValueReader) -> None:
    """Warns of arguments in this `from_pretrained_arguments` that have no effect."""
    for key, value in loading.items():
        if key in IDLE_LOADING_ARGUMENTS and value not in (None, False):
            reader.warn_of_idle((*at, key), IDLE_LOADING_ARGUMENTS[key])


def warn_of_configuration(block: PipelineBlock, at: Place, reader: ValueReader) -> None:
    """Warns of keys without effect in the configurations of the pipeline and its components."""
    for where, why in _idle(block.configuration, (*at, "configuration")):
        reader.warn_of_idle(where, why)
    for _, below, component in block.all_component_blocks:
        for where, why in _idle_of_component(component, (*at, *below, "configuration")):
            reader.warn_of_idle(where, why)


def warn_of_result(block: ResultBlock, at: Place, reader: ValueReader) -> None:
    """Warns where `embed_metadata` does not match what is written."""
    if "embed_metadata" not in block.model_fields_set:
        return
    where, holds_record = (*at, "embed_metadata"), block.content_type in EMBEDS_RECORD
    if block.embed_metadata and not holds_record:
        why = f"a file of {block.content_type} has no room for the record, which lies beside it"
        reader.warn_of_idle(where, f"{why} as JSON")
    elif holds_record and not block.embed_metadata:
        reader.warn_of_idle(where, "each PNG, JPEG and WebP holds the record of its run")


def _idle(configuration: Configuration, at: Place) -> Iterator[tuple[Place, str]]:
    if configuration.preserve_device_placement:
        yield (*at, "preserve_device_placement"), PLACEMENT
    if configuration.components_manager is not None:
        yield (*at, "components_manager"), PLACEMENT
    if configuration.disable_attention_slicing:
        why = "attention is sliced only where 'enable_attention_slicing' asks for it"
        yield (*at, "disable_attention_slicing"), why


def _idle_of_component(component: ComponentDocument, at: Place) -> Iterator[tuple[Place, str]]:
    if component.configuration.preserve_device_placement:
        yield (*at, "preserve_device_placement"), PLACEMENT


def is_mistyped(key: str, loading: Mapping[str, Any]) -> bool:
    """Returns True if the key is missing because it is misspelt, which is already noted."""
    return any(nearest(name, [key]) for name in loading if name not in LOADING_ARGUMENTS)
