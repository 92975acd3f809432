"""Plans a document's pipeline steps."""

from __future__ import annotations

from functools import partial
from typing import Any

from app.dialect.document import ComponentDocument, SchedulerBlock, StepDocument
from app.dialect.files import GGUF_SUFFIX
from app.dialect.installed import names
from app.dialect.plan import PipelineStep, ResultSpec
from app.dialect.plan_settings import DType, SchedulerChange
from app.dialect.plan_sources import OTHERS, ComponentBlock, LoraSource, ModelSource
from app.dialect.references import Path as Place
from app.dialect.references import place
from app.dialect.sampler_names import Settings
from app.errors import nearest
from app.models.family_configs import FOLDER as CONFIGS
from app.models.hub import folder_of
from app.models.kind_folders import file_kinds
from app.models.model_index import INDEX, INDEXES, OWN_BLOCKS
from app.planning.across_steps import Sharing, check_assembled, check_components
from app.planning.adapters import check_controlnet, denoiser_of, read_loras, unet_shape
from app.planning.called import Called, called_pipeline
from app.planning.calls import check_call
from app.planning.chains import read_chain
from app.planning.component_lists import check_list_arguments, check_lists_fit
from app.planning.component_settings import with_settings
from app.planning.ip_adapters import check_ip_adapter_images, read_ip_adapters
from app.planning.loading_arguments import (
    LOADING_ARGUMENTS,
    component_dtype,
    connected,
    is_mistyped,
    read_code,
    read_dtypes,
    warn_of_configuration,
    warn_of_loading_arguments,
)
from app.planning.model_names import ModelNames
from app.planning.modular import is_modular, read_modular
from app.planning.null_components import check_null_components
from app.planning.quantisers import check_quantisers, read_quantisation
from app.planning.schedulers import (
    check_packages,
    read_scheduler,
    scheduler_class,
    scheduler_config,
    warn_of_settings,
)
from app.planning.single_files import (
    check_checkpoint_family,
    check_single_file_class,
    class_of_checkpoint,
    single_file_quantisation,
)
from app.planning.strength import check_strength
from app.planning.textual_inversions import read_inversions
from app.planning.values import ValueReader
from app.settings import PathSettings

NAMES_OF_MODELS = {"model_name", "from_single_file"}
REFUSED_LOADING_ARGUMENTS = {
    "quantization_config": (
        "A whole pipeline is not quantised at once.",
        "Give each component to quantise a block with its own 'quantization_config'.",
    ),
    "task": (
        "Pipelines of transformers are not run here.",
        "Use the tasks text_generation and image_to_text instead.",
    ),
}
"""Unsupported loading arguments: the reason, or what to do instead."""
REMOTE_ENCODER_WARNING = (
    "{}.remote_text_encoder: the prompt is encoded on this machine, by the model's own text"
    " encoder; nothing is sent to another."
)


class PipelineBuilder:
    """Builds the pipeline steps of one document."""

    def __init__(self, paths: PathSettings, reader: ValueReader) -> None:
        self._reader = reader
        self._paths = paths
        self.models = ModelNames(paths, reader)

    def build(
        self,
        step: StepDocument,
        name: str,
        at: Place,
        step_seed: int,
        result: ResultSpec | None,
        sharing: Sharing,
    ) -> PipelineStep | None:
        """Returns the step, or None with its problems noted."""
        assert step.pipeline is not None
        noted = len(self._reader.problems)
        block, where = step.pipeline, (*at, "pipeline")
        loading_at = (*where, "from_pretrained_arguments")
        loading = block.from_pretrained_arguments
        configured = (*where, "configuration", "component_type")
        pipeline_class = self._class(
            block.configuration.component_type, configured, "pipeline", "modular pipeline"
        )
        absent = self._check_loading(loading, loading_at)
        warn_of_configuration(block, where, self._reader)
        if block.remote_text_encoder is not None:
            absent = tuple(name for name in absent if name != "text_encoder")
            self._reader.warnings.append(REMOTE_ENCODER_WARNING.format(place(where)))
        is_modular_step = is_modular(pipeline_class)
        indexes = (*INDEXES, OWN_BLOCKS) if is_modular_step else (INDEX,)
        source = None
        if is_modular_step or {"model_name", "from_single_file"} & loading.keys():
            source = self.models.source(loading, loading_at, needs=indexes)
        elif not is_mistyped("model_name", loading):
            check_assembled(pipeline_class, block, loading_at, self._reader)
        if source is not None and source.file:
            controlnet = "controlnet" in {name for name, *_ in block.all_component_blocks}
            pipeline_class = class_of_checkpoint(pipeline_class, source, controlnet=controlnet)
        code = read_code(
            loading, loading_at, self._paths.trust_remote_code, self.models.source, self._reader
        )
        dtypes = read_dtypes(loading, loading_at, self._reader)
        dtype = dtypes.pop(OTHERS)
        config = self.models.config(loading, loading_at)
        at_file = (*loading_at, "from_single_file")
        if source is not None and source.file.lower().endswith(GGUF_SUFFIX):
            self._reader.note(at_file, "A GGUF file has one component, not a whole pipeline.")
        elif source is not None and source.file:
            check_checkpoint_family(pipeline_class, source, at_file, self._reader)
        components = {
            component: self._component(document, (*where, *below), dtype)
            for component, below, document in block.all_component_blocks
            if not _is_left_out(document.from_pretrained_arguments)
        }
        check_lists_fit(
            pipeline_class, block.component_lists, where, self._reader, modular=is_modular_step
        )
        arguments = {
            key: self._reader.read(value, (*where, "arguments", key))
            for key, value in block.arguments.items()
        }
        modular = read_modular(
            block, pipeline_class, source, code, where, self._reader, self._paths.models
        )
        at_model = (*loading_at, "model_name")
        at_arguments = (*where, "arguments")
        called = called_pipeline(pipeline_class, source, modular, code, at_model, self._reader)
        check_call(called, arguments, at_arguments, self._reader)
        of_model = source if config is None else config
        scheduler = self._scheduler(block.scheduler, (*where, "scheduler"), of_model, at_model)
        drawn_with = scheduler_class(of_model, scheduler.class_name if scheduler else None)
        check_strength(called, drawn_with, arguments, at_arguments, self._reader)
        is_reused = "unet" in (*block.reused_components, *block.configuration.reused_components)
        denoiser = None if is_reused else denoiser_of(source, components.get("unet"))
        for component, below, _ in block.all_component_blocks:
            built_block = components.get(component)
            check_controlnet(component, built_block, denoiser, (*where, *below), self._reader)
        loras: tuple[LoraSource, ...] = ()
        if block.loras:
            loras = read_loras(
                block.loras,
                pipeline_class,
                unet_shape(source, components.get("unet")),
                denoiser,
                block.configuration.offload,
                (*where, "loras"),
                self.models.source,
                self._reader,
                self._paths,
            )
        inversions = read_inversions(
            block,
            pipeline_class,
            source,
            components,
            (*where, "textual_inversions"),
            self.models.source,
            self._reader,
            paths=self._paths,
        )
        ip_adapters = read_ip_adapters(
            block.ip_adapters, pipeline_class, where, self.models.source, self._reader
        )
        count = len(block.ip_adapters)
        check_ip_adapter_images(arguments, count, pipeline_class, at_arguments, self._reader)
        chain = None
        if block.chain is not None:
            at_chain = (*where, "chain")
            chain = read_chain(block.chain, arguments, called, self._reader, at_chain)
        at_audio = (*where, "audio_scheduler")
        audio_scheduler = self._scheduler(block.audio_scheduler, at_audio, None, at_model)
        check_quantisers(block, source, components, where, self._reader)
        reused = sharing.reused(block, where, self._reader)
        nulls = [each for each in absent if each not in components and each not in reused]
        check_null_components(called, nulls, arguments, loading_at, self._reader)
        counts = sharing.list_lengths(components, reused)
        check_list_arguments(pipeline_class, counts, arguments, at_arguments, self._reader)
        if len(self._reader.problems) > noted:
            return None
        find = partial(self.models.named, at=loading_at, key="model_name")
        components = {**connected(pipeline_class, source, dtype, find), **components}
        sources = (source, *(each.source for each in components.values() if each is not None))
        has_files = any(each is not None and each.file for each in sources)
        folders = tuple(str(folder.resolve()) for folder in self._paths.models)
        built = PipelineStep(
            name=name,
            place=place(at),
            pipeline_class=pipeline_class,
            source=source,
            dtype=dtype,
            dtypes=dtypes,
            code=code,
            modular=modular,
            config=config,
            model_folders=folders if has_files else (),
            config_cache=str(self._paths.outputs.resolve() / CONFIGS) if has_files else "",
            components={key: built for key, built in components.items() if built is not None},
            absent=absent,
            reused=reused,
            scheduler=scheduler,
            audio_scheduler=audio_scheduler,
            loras=loras,
            textual_inversions=inversions,
            ip_adapters=ip_adapters,
            sdnq_matmul=block.configuration.sdnq_optimize,
            offload=block.configuration.offload,
            vae_tiling=block.configuration.vae.enable_tiling,
            vae_slicing=block.configuration.vae.enable_slicing,
            cache=block.configuration.cache,
            arguments=arguments,
            chain=chain,
            seed=step_seed if block.seed is None else block.seed,
            generator=not block.configuration.no_generator,
            result=result,
        )
        check_components(built, where, self._reader)
        built = with_settings(built, block, where, self._reader)
        return None if len(self._reader.problems) > noted else built

    def refer(
        self,
        step: StepDocument,
        name: str,
        at: Place,
        result: ResultSpec | None,
        sharing: Sharing,
    ) -> PipelineStep | None:
        """Returns a step that calls an earlier one's pipeline with arguments of its own.

        Everything else is the earlier step's, including its seed; a pipeline that was released is
        loaded again.
        """
        assert step.pipeline_reference is not None
        noted = len(self._reader.problems)
        block, where = step.pipeline_reference, (*at, "pipeline_reference")
        referred = sharing.step(block.reference_name, (*where, "reference_name"), self._reader)
        arguments = {
            key: self._reader.read(value, (*where, "arguments", key))
            for key, value in block.arguments.items()
        }
        called = Called()
        if referred is not None:
            called = called_pipeline(
                referred.pipeline_class,
                referred.source,
                referred.modular,
                referred.code,
                (*where, "reference_name"),
                self._reader,
            )
            check_call(called, arguments, (*where, "arguments"), self._reader)
            check_list_arguments(
                referred.pipeline_class,
                sharing.list_lengths(referred.components, referred.reused),
                arguments,
                (*where, "arguments"),
                self._reader,
            )
            check_ip_adapter_images(
                arguments,
                len(referred.ip_adapters),
                referred.pipeline_class,
                (*where, "arguments"),
                self._reader,
            )
        chain, at_chain = None, (*where, "chain")
        if block.chain is not None:
            chain = read_chain(block.chain, arguments, called, self._reader, at_chain)
        if len(self._reader.problems) > noted or referred is None:
            return None
        return referred.model_copy(
            update={
                "name": name,
                "place": place(at),
                "arguments": arguments,
                "chain": chain,
                "seed": referred.seed if step.seed is None else step.seed,
                "result": result,
                "releases": (),
            }
        )

    def _class(self, name: str, at: Place, *kinds: Any) -> str:
        found = self._reader.name(names.class_name, name, at, *kinds) or ""
        for package in names.missing_packages(found) if found else ():
            self._reader.needs(package, f"'{name}'", at)
        return found

    def _check_loading(self, loading: dict[str, Any], at: Place) -> tuple[str, ...]:
        """Notes unsupported loading arguments; returns the components that are set to null."""
        warn_of_loading_arguments(loading, at, self._reader)
        absent = []
        for key, value in loading.items():
            where = (*at, key)
            if key == "use_safetensors" and value is not True:
                self._reader.note(
                    where, "Only safetensors weights are loaded.", "Leave the key out."
                )
            elif key in LOADING_ARGUMENTS:
                continue
            elif value is None:
                absent.append(key)
            elif key in REFUSED_LOADING_ARGUMENTS:
                self._reader.note(where, *REFUSED_LOADING_ARGUMENTS[key])
            else:
                hint = nearest(key, LOADING_ARGUMENTS)
                what = f"'{key}' is not a known loading argument"
                if hint and not NAMES_OF_MODELS & loading.keys():
                    self._reader.note(where, f"{what}.", hint)
                else:
                    # As in diffusers.
                    self._reader.warn_of_idle(where, what, hint)
        return tuple(absent)

    def _component(
        self, document: ComponentDocument, at: Place, pipelines_dtype: DType
    ) -> ComponentBlock | None:
        loading, loading_at = document.from_pretrained_arguments, (*at, "from_pretrained_arguments")
        block = document.quantization_config
        # Only components with weights can be quantised.
        kinds = ("model",) if block else ("model", "tokenizer", "processor", "scheduler")
        name = self._class(
            document.configuration.component_type, (*at, "configuration", "component_type"), *kinds
        )
        self._check_loading(loading, loading_at)
        source = self.models.source(loading, loading_at, kinds=file_kinds(name))
        config = self.models.config(loading, loading_at)
        dtype = component_dtype(loading, pipelines_dtype, loading_at, self._reader)
        quantised_at = (*at, "quantization_config")
        quantisation = read_quantisation(block, quantised_at, self._reader) if block else None
        if source is None or not name:
            return None
        quantisation = single_file_quantisation(
            source, dtype, quantisation, quantised_at, self._reader
        )
        if source.file:
            check_single_file_class(name, (*loading_at, "from_single_file"), self._reader)
        return ComponentBlock(
            class_name=name, source=source, dtype=dtype, quantisation=quantisation, config=config
        )

    def _scheduler(
        self, block: SchedulerBlock | None, at: Place, source: ModelSource | None, at_model: Place
    ) -> SchedulerChange | None:
        """Returns the change of the scheduler; None for the model's own, which is checked too."""
        folder = folder_of(source) if source is not None else None
        own = {} if folder is None else scheduler_config(folder)
        if block is None:
            check_packages(scheduler_class(source, None), own, at_model, self._reader)
            return None
        name: str | None = None
        settings: Settings = {}
        named, place = "", at_model
        if block.configuration is not None:
            place = (*at, "configuration", "scheduler_type")
            named = block.configuration.scheduler_type
            replaced = scheduler_class(source, None)
            name, settings = read_scheduler(named, replaced, place, self._reader)
            if name is None:
                return None
        known, arguments = scheduler_class(source, name), {**settings, **block.from_config_args}
        check_packages(known, {**own, **arguments}, place, self._reader, named)
        warn_of_settings(known, block.from_config_args, (*at, "from_config_args"), self._reader)
        return SchedulerChange(class_name=name, config=arguments, shift=block.shift)


def _is_left_out(loading: dict[str, Any]) -> bool:
    """Returns True for a component whose file is null or "": the model's own is used, so that a
    form can offer none."""
    return "model_name" not in loading and loading.get("from_single_file", "none") in (None, "")
