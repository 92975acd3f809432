"""Resolves a planned step into its component specs. The only place that determines what a step
loads.

Without torch: classes are names here, and constructors are read from their source. Only the blocks
of a modular pipeline know which components they load: the worker, which has them, passes a `Shape`;
without one the components are those of the model's index.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from app.dialect.files import config_of
from app.dialect.fingerprint import identify_file, weight_files
from app.dialect.installed.constructors import model_class
from app.dialect.installed.signatures import base_names
from app.dialect.plan import LoadingStep, PipelineStep, TaskStep, task_dtype
from app.dialect.plan_settings import DType
from app.dialect.plan_sources import (
    ComponentBlock,
    ModelSource,
    parameter_of,
)
from app.errors import LoadError
from app.models.adapters import of_ip_adapter
from app.models.class_kinds import has_weights
from app.models.component_files import (
    changed,
    config_folder,
    in_a_file,
    in_a_folder,
    is_in_checkpoints,
    undescribed,
    unreadable,
)
from app.models.file_places import described_by, single_file
from app.models.hub import is_repository
from app.models.model_index import (
    INDEX,
    IndexedPart,
    holds,
)
from app.models.pipeline_layout import Layout, Misfit, layout_of, misfit_of
from app.models.pipeline_shapes import (
    Shape,
    model_index,
    modular_shape,
    named_in,
    qualified_class,
    reused_components,
)
from app.models.single_files import (
    ReadPickle,
    Shapes,
)
from app.models.specs import (
    ComponentSpec,
    Find,
    Selection,
    StepSpecs,
    Unknown,
    known_folder,
)

IMAGE_ENCODER = "transformers.CLIPVisionModelWithProjection"
"""Class of the image encoder of an IP-adapter."""
OF_SD3 = {
    "image_encoder": "transformers.SiglipVisionModel",
    "feature_extractor": "transformers.SiglipImageProcessor",
}
"""Classes of the image encoder of an IP-adapter for Stable Diffusion 3."""


def component_names(step: PipelineStep, find: Find = known_folder) -> dict[str, bool]:
    """Returns the components of the step's pipeline, False for one set to null.

    Reads only its model's index. Raises as `component_specs` does.
    """
    given = dict.fromkeys([*map(parameter_of, step.components), *step.reused], True)
    resolver = _Resolver(find, _not_read)
    if step.modular is not None:
        index = model_index(find(step.named_source, Selection(whole=True)), step)
        own = {name: name not in step.absent for name in index.parts}
        return {**own, **dict.fromkeys(index.empty, False), **given}
    layout = resolver.layout(step, None)
    absent = (name for name, value in layout.settings.items() if value is None)
    return {**dict.fromkeys(layout.own, True), **dict.fromkeys(absent, False), **given}


def misfit(step: PipelineStep, find: Find = known_folder) -> Misfit:
    """Returns how the blocks and the model of an ordinary step do not fit its pipeline's class, as
    far as it is sure before the model is loaded. Raises as `component_specs` does."""
    return misfit_of(step, _Resolver(find, _not_read).layout(step, None))


def component_specs(
    step: LoadingStep,
    find: Find = known_folder,
    earlier: Mapping[str, Collection[ComponentSpec]] = MappingProxyType({}),
    *,
    accelerator: bool = False,
    shape: Shape | None = None,
    read_pickle: ReadPickle | None = None,
) -> StepSpecs:
    """Returns what the step loads, each component with its files' identities and its bytes.

    `find` returns the places of models. `earlier` has the components of the steps before, for
    reuse; components of other steps are not counted. `shape` is the pipeline's where its class has
    been loaded, and `read_pickle` reads files that may hold code. Raises LoadError where the step
    cannot be loaded, Unknown where it cannot be determined what it loads, and exceptions of `find`.
    """
    resolver = _Resolver(find, read_pickle or _not_read)
    if isinstance(step, TaskStep):
        return resolver.task(step, task_dtype(step, accelerator=accelerator))
    if step.modular is not None:
        return resolver.modular(step, shape, earlier)
    return resolver.pipeline(step, shape, earlier)


class _Resolver:
    """Resolves one step."""

    def __init__(self, find: Find, read_pickle: ReadPickle) -> None:
        self._find = find
        self._described_by = partial(described_by, find, read_pickle)

    # --- kinds of steps --------------------------------------------------------------------------

    def layout(self, step: PipelineStep, shape: Shape | None) -> Layout:
        """Returns the components and sources of an ordinary pipeline; reads only its model's
        index."""
        return layout_of(step, shape, *self._described_in(step))

    def pipeline(
        self,
        step: PipelineStep,
        shape: Shape | None,
        earlier: Mapping[str, Collection[ComponentSpec]],
    ) -> StepSpecs:
        """Returns what an ordinary pipeline loads."""
        layout = self.layout(step, shape)
        shape, checkpoint, folder, own = layout.shape, layout.checkpoint, layout.folder, layout.own
        settings = layout.settings
        for error in layout.unfit:
            raise error
        if checkpoint is not None and folder is None:
            return undescribed(checkpoint, step)
        reused = reused_components(step, shape, earlier)
        loaded = self._own(own, step, checkpoint, folder)
        loaded |= {
            name: self._block(name, block, step, folder and folder / parameter_of(name))
            for name, block in step.components.items()
            if parameter_of(name) in shape.parameters and parameter_of(name) not in step.reused
        }
        found = {name: changed(spec, step) for name, spec in loaded.items()} | reused
        if step.ip_adapters and "image_encoder" in shape.parameters:
            # As in diffusers: the first adapter's encoder is used where the model has none.
            settings.pop("image_encoder", None)
            if "image_encoder" not in found:
                for name, spec in self._image_encoder(step, shape).items():
                    settings.pop(name, None)
                    found.setdefault(name, spec)
        places = {name: index for index, name in enumerate(shape.parameters)}
        components = tuple(
            found[name] for name in sorted(found, key=lambda each: places[parameter_of(each)])
        )
        # A pipeline without a model uses the folder of its first component.
        first = components[0].folder.parent if components else Path()
        return StepSpecs(
            shape.class_name,
            folder or first,
            components,
            settings,
            index=identify_file(folder / INDEX) if folder else None,
            is_final=step.code is None,
        )

    def modular(
        self,
        step: PipelineStep,
        shape: Shape | None,
        earlier: Mapping[str, Collection[ComponentSpec]],
    ) -> StepSpecs:
        """Returns what a modular pipeline loads."""
        assert step.modular is not None
        folder = self._find(step.named_source, Selection(whole=True))
        index = model_index(folder, step)
        shape = shape or modular_shape(step, index)
        reused = reused_components(step, shape, earlier)
        loaded = {
            name: self._block(name, block, step, None)
            for name, block in step.components.items()
            if name in shape.parameters and name not in step.reused
        }
        given = {*step.reused, *loaded, *step.absent}
        own = {
            name: index.parts[name]
            for name in shape.parameters
            if name in index.parts
            and name not in given
            and (step.modular.names is None or name in step.modular.names)
        }
        loaded |= {
            name: self._modular_own(name, part, step, folder, own) for name, part in own.items()
        }
        found = {name: changed(spec, step) for name, spec in loaded.items()} | reused
        components = tuple(found[name] for name in shape.parameters if name in found)
        return StepSpecs(shape.class_name, folder, components, is_final=False)

    def task(self, step: TaskStep, dtype: DType) -> StepSpecs:
        """Returns the components of a task."""
        components = tuple(
            self._foreign(name, block) if block.is_foreign else self._of_task(name, block, dtype)
            for name, block in step.components.items()
        )
        return StepSpecs("", Path(), components)

    # --- where components lie --------------------------------------------------------------------

    def _described_in(self, step: PipelineStep) -> tuple[Path | None, Path | None]:
        """Returns the file of the whole pipeline, if it is in one, and the folder of its index; no
        folder where the step names no model, or where a file's configuration is not known yet."""
        if step.source is None:
            return None, None
        if not step.source.file:
            return None, self._find(step.source, Selection(whole=True))
        checkpoint = single_file(step.source, self._find)
        try:
            return checkpoint, self._described_by(checkpoint, step.config, step)
        except Unknown:
            return checkpoint, None

    def _own(
        self,
        own: Mapping[str, str],
        step: PipelineStep,
        checkpoint: Path | None,
        index: Path | None,
    ) -> dict[str, ComponentSpec]:
        """Returns the step's own model's components, by their classes."""
        source = step.source
        if source is None or index is None:
            return {}
        if checkpoint is None and own:
            index = self._find(source, Selection(folders=tuple(own), variant=source.variant))
        return {
            name: in_a_file(name, kind, checkpoint, index / name, step.dtype_of(name), source)
            if checkpoint and is_in_checkpoints(kind)
            else in_a_folder(name, kind, index / name, step.dtype_of(name), source)
            for name, kind in own.items()
        }

    def _modular_own(
        self,
        name: str,
        part: IndexedPart,
        step: PipelineStep,
        folder: Path,
        own: Mapping[str, IndexedPart],
    ) -> ComponentSpec:
        """Returns one of the components in a modular pipeline's index."""
        assert step.modular is not None
        variant = step.named_source.variant or part.variant
        here = step.named_source.model if step.named_source.folder is None else None
        source = step.modular.sources.get(name)
        if source is None and part.model not in (None, here) and not holds(folder / part.subfolder):
            if not is_repository(str(part.model)):
                raise LoadError(
                    f"The {name} of '{step.model}' is said to lie in '{part.model}', which is"
                    " neither its own folder nor 'owner/name' of the hub."
                )
            source = ModelSource(
                model=str(part.model), subfolder=part.subfolder, revision=part.revision
            )
        subfolders: tuple[str, ...] = (part.subfolder,)
        if source is None:
            source = step.named_source
            subfolders = tuple(each.subfolder for each in own.values() if each.model == part.model)
        source = source.model_copy(update={"variant": variant})
        place = self._find(source, Selection(folders=subfolders, variant=variant)) / part.subfolder
        entry = [part.library, part.class_name] if part.class_name else named_in(place)
        kind = qualified_class(entry, name, step)
        quantised = step.modular.quantised.get(name)
        return in_a_folder(name, kind, place, step.dtype_of(name), source, quantised)

    def _block(
        self, name: str, block: ComponentBlock, step: PipelineStep, own: Path | None
    ) -> ComponentSpec:
        """Returns the component of a block of the document.

        `own` is the folder of this component in the pipeline's own model, if there is one.
        """
        if block.source.file:
            file = single_file(block.source, self._find)
            is_there = own is not None and (own / "config.json").is_file()
            unet = own and own.parent / "unet"
            described = self._described_by(
                file, block.config, step, own if is_there else None, unet
            )
            folder = config_folder(described, block.class_name, name, file)
            return in_a_file(
                name, block.class_name, file, folder, block.dtype, block.source, block.quantisation
            )
        folder = self._block_folder(block)
        return in_a_folder(
            name, block.class_name, folder, block.dtype, block.source, block.quantisation
        )

    def _block_folder(self, block: ComponentBlock) -> Path:
        folders = (block.source.subfolder,) if has_weights(block.class_name) else ()
        wanted = Selection(folders=folders, variant=block.source.variant, code=block.code)
        return self._find(block.source, wanted) / block.source.subfolder

    def _image_encoder(self, step: PipelineStep, shape: Shape) -> dict[str, ComponentSpec]:
        """Returns the image encoder of the step's IP-adapters, the first one's, and for Stable
        Diffusion 3 what prepares its images; empty for adapters without one."""
        adapter = step.ip_adapters[0]
        source = adapter.encoder_source
        if source is not None:
            folder = self._find(source, Selection(folders=("",)))
        elif adapter.image_encoder:
            source = adapter.source
            folder = self._find(source, of_ip_adapter(adapter)) / adapter.image_encoder
        else:
            return {}
        is_sd3 = "SD3IPAdapterMixin" in base_names(shape.class_name)
        classes = OF_SD3 if is_sd3 else {"image_encoder": IMAGE_ENCODER}
        return {
            name: in_a_folder(name, kind, folder, step.dtype, source)
            for name, kind in classes.items()
        }

    def _of_task(self, name: str, block: ComponentBlock, dtype: DType) -> ComponentSpec:
        folder = self._block_folder(block)
        if not has_weights(block.class_name):
            # A tokenizer is the same for every dtype of its model.
            return in_a_folder(name, block.class_name, folder, "float32", block.source)
        if not weight_files(folder, block.source.variant):
            raise LoadError(
                f"'{block.source.model}' has no safetensors weights, and others are not loaded.",
                hint="Take a model that has, or convert this one.",
            )
        if block.code:
            # Foreign code may compute in float32 alone.
            own = in_a_folder(name, block.class_name, folder, "float32", block.source)
            return replace(own, code=True)
        library, _, automatic = block.class_name.rpartition(".")
        class_name = block.class_name
        if automatic.startswith("AutoModel"):
            # The real class, so that a pipeline and a task share one component.
            class_name = f"{library}.{model_class(automatic, config_of(folder)) or automatic}"
        return in_a_folder(name, class_name, folder, dtype, block.source)

    def _foreign(self, name: str, block: ComponentBlock) -> ComponentSpec:
        """Returns the spec of a component whose library needs about the bytes of its files."""
        source, names = block.source, block.files or {"": block.source.file}
        sources = (source.model_copy(update={"file": file}) for file in names.values())
        files = [single_file(each, self._find) for each in sources]
        try:
            size_bytes = sum(file.stat().st_size for file in files)
        except OSError as error:
            raise unreadable(files[0].name, error) from error
        return ComponentSpec(
            name,
            block.class_name,
            source,
            files[0].parent,
            tuple(identify_file(file) for file in files),
            "float32",
            None,
            size_bytes,
            file=files[0],
            tool_files=block.files,
        )


def _not_read(file: Path) -> Shapes:
    raise Unknown(f"memory needs unknown until it runs: '{file.name}' may hold code.")
