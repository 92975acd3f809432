"""Plans a document's settings for a step's components.

The workbench decides where components lie: what fits stays on the device, else components take
turns there, and only a document with group offload lets a step run that is too large even for that.
Other placement settings in a document have no effect, which is said once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from app.dialect.document import Configuration, PipelineBlock
from app.dialect.installed import names
from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import (
    ComponentChanges,
    DType,
    LayerwiseCasting,
    Tuning,
)
from app.dialect.plan_sources import parameter_of
from app.dialect.references import Path as Place
from app.dialect.references import place
from app.dialect.setting_blocks import CacheDit, ComponentSettings, HubBackend
from app.dialect.weighting import can_be_weighed
from app.errors import nearest, shortened
from app.packages import Package
from app.planning.across_steps import known_components
from app.planning.loading_arguments import dtype_key
from app.planning.values import ValueReader

PLACEMENT_WARNING = (
    "'device', 'residency' and 'group_offload' decide nothing about where components lie: the"
    " workbench keeps on the device what fits, has the rest take turns there, and lets weights pass"
    " through layer by layer where 'group_offload' is named and nothing else fits."
)
SLICING_WARNING = (
    "Attention in slices takes more memory here than without: torch's own takes little."
    " Leave 'enable_attention_slicing' out."
)
SAGE = Package("sageattention", "sageattention")
FLASH = Package("flash_attn", "flash-attn")
BACKEND_PACKAGES = {
    "flash": FLASH, "flash_varlen": FLASH, "sage": SAGE, "sage_varlen": SAGE,
    "xformers": Package("xformers", "xformers"),
}  # fmt: skip
"""Packages that an attention backend needs."""
CACHE_DIT = Package("cache_dit", "cache-dit")
DOTTED_PATH = re.compile(r"\w+(\.\w+)*")


def with_settings(
    step: PipelineStep, block: PipelineBlock, at: Place, reader: ValueReader
) -> PipelineStep:
    """Returns the step with the settings of the pipeline's block at this place."""
    return _Settings(step, block, at, reader).read()


class _Settings:
    """Collects the settings of one step; the reader notes problems."""

    def __init__(
        self, step: PipelineStep, block: PipelineBlock, at: Place, reader: ValueReader
    ) -> None:
        self._step = step
        self._block = block
        self._at = at
        self._reader = reader
        # Only its blocks tell which components a modular pipeline has beside its index.
        self._known = known_components(step) if step.modular is None else None
        self._changes: dict[str, dict[str, Any]] = {}
        self._tunings: dict[str, dict[str, Any]] = {}
        self._dtypes: dict[str, DType] = {}
        self._vae_tiling = step.vae_tiling

    def read(self) -> PipelineStep:
        configuration = self._block.configuration
        where = (*self._at, "configuration")
        self._check_dtypes()
        self._read_blocks(configuration, where)
        for key, settings in configuration.components.items():
            self._read_component(key, settings, (*where, "components", key))
        for name, casting in self._castings():
            self._changes.setdefault(name, {})["casting"] = casting
        if any(self._placed(configuration)):
            self._reader.warnings.append(PLACEMENT_WARNING)
        if configuration.enable_attention_slicing:
            self._reader.warnings.append(SLICING_WARNING)
        if isinstance(configuration.cache, CacheDit):
            self._reader.needs(CACHE_DIT, "'cache_dit'", (*where, "cache"), "Leave it out. ")
        name = self._step.pipeline_class.rpartition(".")[2]
        if configuration.prompt_weighting and not can_be_weighed(name):
            self._reader.warnings.append(
                f"The prompts of a {name} cannot be weighed: they are taken as they stand."
            )
        whole = configuration.enable_layerwise_casting
        step = self._step
        return step.model_copy(
            update={
                "components": {
                    name: component.model_copy(update={"dtype": self._dtypes[parameter_of(name)]})
                    if parameter_of(name) in self._dtypes
                    else component
                    for name, component in step.components.items()
                },
                "dtypes": {
                    **step.dtypes,
                    **{n: d for n, d in self._dtypes.items() if not self._entries(n)},
                },
                "changes": self._all_changes(),
                "tunings": {key: Tuning(**found) for key, found in self._tunings.items()},
                "casting": whole,
                "vae_tiling": self._vae_tiling,
                "attention_backend": self._backend(
                    configuration.attention_backend, (*where, "attention_backend")
                ),
                "attention_slicing": configuration.enable_attention_slicing,
                "prompt_weighting": configuration.prompt_weighting and can_be_weighed(name),
                "teacache": configuration.teacache,
                "streams": any(self._grouped(configuration)),
                "never_offloaded": self._never_offloaded(configuration, where),
            }
        )

    def _all_changes(self) -> dict[str, ComponentChanges]:
        """Returns the changes of every component; what is set for a list holds for each entry."""
        found: dict[str, dict[str, Any]] = {}
        for name in sorted(self._changes):
            for entry in self._entries(name) or [name]:
                found[entry] = {**found.get(entry, {}), **self._changes[name]}
        return {name: ComponentChanges(**changes) for name, changes in found.items()}

    def _entries(self, name: str) -> list[str]:
        """Returns the plan's blocks of this name: several for a list."""
        return [each for each in self._step.components if parameter_of(each) == name]

    # --- blocks named after a component ----------------------------------------------------------

    def _check_dtypes(self) -> None:
        """Notes components that a dtype in the loading arguments names and that do not exist."""
        loading = self._block.from_pretrained_arguments
        at = (*self._at, "from_pretrained_arguments", dtype_key(loading))
        for name in self._step.dtypes:
            self._is_changeable(name, (*at, name))

    def _read_blocks(self, configuration: Configuration, where: Place) -> None:
        blocks = {name: getattr(configuration, name) for name in ("vae", "unet", "transformer")}
        for name, block in (*blocks.items(), *configuration.component_dtypes.items()):
            for key, value in block:
                at = (*where, name, key)
                match key:
                    case "torch_dtype" if value is not None and self._is_changeable(name, at):
                        self._dtypes[name] = value
                    case "channels_last" if value and self._is_changeable(name, at):
                        self._changes.setdefault(name, {})["channels_last"] = True
                    case "enable_forward_chunking" if value and self._is_there(name, at):
                        self._tunings.setdefault(name, {})["forward_chunking"] = True
                    case "attn_processor_type" if value is not None and self._is_there(name, at):
                        processor = self._reader.name(names.attention_processor, value, at)
                        self._tunings.setdefault(name, {})["attention_processor"] = processor

    # --- components.<name or dotted.path> --------------------------------------------------------

    def _read_component(self, key: str, settings: ComponentSettings, at: Place) -> None:
        if DOTTED_PATH.fullmatch(key) is None:
            self._reader.note(at, f"'{shortened(key)}' is not the path of a component.")
            return
        name, _, path = key.partition(".")
        if not self._is_there(name, at):
            return
        layers = {_joined(path, below): count for below, count in settings.truncate_layers.items()}
        removed = tuple(_joined(path, module) for module in settings.remove_modules)
        compiled = {} if settings.compile is None else {path: settings.compile}
        if (layers or removed or compiled) and self._is_changeable(name, at):
            found = self._changes.setdefault(name, {})
            found["kept_layers"] = {**found.get("kept_layers", {}), **layers}
            found["removed"] = (*found.get("removed", ()), *removed)
            found["compiled"] = {**found.get("compiled", {}), **compiled}
        backend = self._backend(settings.attention_backend, (*at, "attention_backend"))
        if backend is not None:
            self._tunings.setdefault(key, {})["attention_backend"] = backend
        if settings.enable_tiling is not False:
            if key == "vae":
                # The memory estimate of the decoder depends on it.
                self._vae_tiling = True
            if settings.enable_tiling is not True or key != "vae":
                arguments = {} if settings.enable_tiling is True else settings.enable_tiling
                self._tunings.setdefault(key, {})["tiling"] = arguments

    def _backend(self, named: str | None, at: Place) -> str | None:
        """Returns the backend of this name, or None for torch's own."""
        if named in get_args(HubBackend):
            self._reader.warnings.append(
                f"{place(at)}: '{named}' would run code of the model hub: torch's own attention"
                " is used, which computes the same."
            )
            return None
        if named in BACKEND_PACKAGES:
            self._reader.needs(BACKEND_PACKAGES[named], f"'{named}'", at, "Leave it out. ")
        return named

    def _is_there(self, name: str, at: Place) -> bool:
        """Returns False, and notes it, if the pipeline will lack this component; True where
        unknown."""
        if self._known is None or self._known.get(name):
            return True
        if name in self._known:
            self._reader.warnings.append(
                f"The pipeline of '{self._step.name}' runs without its {name}:"
                " what is set for it decides nothing."
            )
        else:
            self._reader.note(
                at,
                f"The pipeline of '{self._step.name}' has no component '{name}'.",
                nearest(name, self._known),
            )
        return False

    def _is_changeable(self, name: str, at: Place) -> bool:
        """Returns True if this component is loaded for the step, not reused from an earlier one."""
        if name not in self._step.reused:
            return self._is_there(name, at)
        self._reader.warnings.append(
            f"The {name} of '{self._step.name}' is that of an earlier step: what is set for it"
            " decides nothing. Set it there."
        )
        return False

    # --- placement and precision -----------------------------------------------------------------

    def _castings(self) -> Iterator[tuple[str, LayerwiseCasting]]:
        for name, _, component in self._block.all_component_blocks:
            casting = component.configuration.enable_layerwise_casting
            casting = casting or component.enable_layerwise_casting
            if casting is not None:
                yield name, casting

    def _placed(self, configuration: Configuration) -> Iterator[object]:
        """Yields the document's placement settings; falsy where there is none."""
        yield configuration.device
        for settings in configuration.components.values():
            yield settings.device or settings.residency == "on_demand"
        for _, _, component in self._block.all_component_blocks:
            yield component.configuration.device or component.configuration.offload
        yield from self._grouped(configuration)

    def _grouped(self, configuration: Configuration) -> Iterator[object]:
        yield configuration.group_offload
        for settings in configuration.components.values():
            yield settings.group_offload
        for _, _, component in self._block.all_component_blocks:
            yield component.configuration.group_offload or component.group_offload

    def _never_offloaded(self, configuration: Configuration, where: Place) -> tuple[str, ...]:
        excluded = configuration.exclude_from_cpu_offload
        at = (*where, "exclude_from_cpu_offload")
        if excluded and configuration.offload != "sequential":
            self._reader.warnings.append(
                "'exclude_from_cpu_offload' has no effect without sequential offload."
            )
        return tuple(
            name for index, name in enumerate(excluded) if self._is_there(name, (*at, index))
        )


def _joined(path: str, below: str) -> str:
    return f"{path}.{below}" if path else below
