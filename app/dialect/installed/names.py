"""Type names that a document may use. Checked without importing anything."""

from __future__ import annotations

from typing import get_args

from app.dialect.installed.signatures import (
    Kind,
    attention_processors,
    is_inner_model,
    public_classes,
)
from app.dialect.plan_settings import DType
from app.errors import nearest, shortened
from app.packages import Package

DTYPES: dict[str, DType] = {name: name for name in get_args(DType)}
OTHER_DTYPES: dict[str, DType] = {"half": "float16", "float": "float32"}
"""Torch's aliases."""
CLASS_RENAMES = {
    "Lumina2Text2ImgPipeline": "Lumina2Pipeline",
    "CLIPFeatureExtractor": "CLIPImageProcessor",
}
"""Old class names in documents and models, and the present ones."""
ATTENTION_PROCESSORS = "diffusers.models.attention_processor"
MODULAR = "ModularPipeline"
"""Suffix of modular pipeline classes; the bare name stands for the model's own class."""
PACKAGES = ("diffusers", "transformers")
NOT_HERE = {
    "transformers.pipeline": "Use the tasks text_generation and image_to_text instead.",
    "transformers.AutoModelForCausalLM": "Use the task text_generation instead.",
    "transformers.AutoProcessor": "Use the task image_to_text instead.",
    "dw.community_pipelines.pipeline_flux_rf_inversion.RFInversionFluxPipeline": (
        "It is code of another program, which is not run here; FluxImg2ImgPipeline is near."
    ),
}
"""Classes in other software's documents that cannot be a pipeline here, with the alternative."""


IMPORTED_AS = {"opencv": "cv2", "onnx": "onnxruntime"}
DISTRIBUTIONS = {"opencv": "opencv-python-headless", "onnx": "onnxruntime", "note_seq": "note-seq"}
"""Packages by diffusers' names: their import names and distribution names, where these differ."""


class UnknownName(ValueError):
    """A document may not use this name; the text says why, and names a similar one."""


def class_name(name: str, *kinds: Kind) -> str:
    """Returns the qualified name of a class of one of these kinds:
    `diffusers.StableDiffusionPipeline`.

    Raises UnknownName for anything that is not a public diffusers or transformers class.
    """
    package, _, bare = name.rpartition(".")
    package = package or "diffusers"
    if name in NOT_HERE and "pipeline" in kinds:
        raise UnknownName(f"'{name}' cannot be a pipeline here. {NOT_HERE[name]}")
    if "model" in kinds and is_inner_model(name):
        return name
    if package not in PACKAGES:
        raise UnknownName(f"'{name}' is not a diffusers or transformers class.")
    classes = public_classes(package)
    bare = CLASS_RENAMES.get(bare, bare)
    if bare not in classes and bare.endswith("TokenizerFast"):
        # transformers has only fast tokenizers by now, under the names of the slow ones.
        bare = bare.removesuffix("Fast")
    found = classes.get(bare)
    # Where a modular pipeline is allowed, every pipeline is.
    wanted = " or ".join(kind for kind in kinds if kind != "modular pipeline" or len(kinds) == 1)
    if found is None:
        fitting = [known for known, place in classes.items() if place.kind in kinds]
        hint = nearest(bare, fitting)
        raise UnknownName(f"'{name}' is not a {package} {wanted} class. {hint}".rstrip())
    if found.kind not in kinds:
        raise UnknownName(f"'{name}' is a {found.kind}; a {wanted} class is needed here.")
    return f"{package}.{bare}"


def missing_packages(name: str) -> tuple[Package, ...]:
    """Returns the missing packages that this class (by its qualified name) needs."""
    package, _, bare = name.rpartition(".")
    modules = public_classes(package)[bare].needs if package == "diffusers" else ()
    needed = [Package(IMPORTED_AS.get(m, m), DISTRIBUTIONS.get(m, m)) for m in modules]
    return tuple(each for each in needed if each.is_missing)


def attention_processor(name: str) -> str:
    """Returns the qualified name of one of diffusers' attention processors.

    Documents name the module too, as `diffusers.models.attention_processor.AttnProcessor`; a bare
    name is one of that module. Raises UnknownName.
    """
    module, _, bare = name.rpartition(".")
    module = module or ATTENTION_PROCESSORS
    known = attention_processors()
    if bare in known and module in known[bare]:
        return f"{module}.{bare}"
    raise UnknownName(
        f"'{name}' is not an attention processor of diffusers. {nearest(bare, known)}".rstrip()
    )


def dtype_name(name: str) -> DType:
    """Returns the dtype of `torch.float16` or `float16`, with or without braces. Raises
    UnknownName."""
    bare = (unbraced(name) or name).removeprefix("torch.")
    bare = OTHER_DTYPES.get(bare, bare)
    if bare in DTYPES:
        return DTYPES[bare]
    offered = ", ".join(f"torch.{known}" for known in DTYPES)
    raise UnknownName(
        f"'{shortened(name)}' is not a dtype to load weights in. Use one of {offered}."
    )


def unbraced(name: str) -> str | None:
    """Returns the text of a braced string (`{latent}` gives `latent`), None without braces."""
    return name[1:-1] if name.startswith("{") and name.endswith("}") else None
