"""The part of a plan that sets how a step's components are loaded and run.

Changes are made when a component is loaded and make a different component: they are part of its
key. Tunings are for one step's calls and are undone after them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, StrictBool

from app.frozen import Frozen

DType = Literal["float32", "float16", "bfloat16"]
StorageDType = Literal["float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32"]

DENOISERS = ("unet", "transformer", "transformer_2", "transformer_ref", "prior")


def bare(name: Any) -> Any:
    """Returns the bare name: `bfloat16` for `torch.bfloat16` and `{bfloat16}`."""
    if not isinstance(name, str):
        return name
    return name.removeprefix("{").removesuffix("}").removeprefix("torch.")


NamedDType = Annotated[DType, BeforeValidator(bare)]
NamedStorageDType = Annotated[StorageDType, BeforeValidator(bare)]


class LayerwiseCasting(Frozen):
    """Weights are stored in one dtype, and each layer computes in another."""

    storage_dtype: NamedStorageDType
    compute_dtype: NamedDType


class CompileBlock(Frozen):
    """Arguments of `torch.compile`."""

    repeated_blocks: StrictBool = False
    """Compiles only the component's repeated block, once; this is faster."""
    mode: (
        Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None
    ) = None
    fullgraph: StrictBool = False
    dynamic: StrictBool | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that are given."""
        return self.model_dump(
            exclude={"repeated_blocks"}, exclude_defaults=True, exclude_none=True
        )


class ComponentChanges(Frozen):
    """Changes of a component when it is loaded; paths start at the component, "" is itself."""

    kept_layers: dict[str, int] = Field(default_factory=dict)
    """Number of leading layers kept of the list at this path."""
    removed: tuple[str, ...] = ()
    """Paths of modules replaced by the identity."""
    casting: LayerwiseCasting | None = None
    channels_last: bool = False
    compiled: dict[str, CompileBlock] = Field(default_factory=dict)

    @property
    def words(self) -> str:
        """`cut, stored as float8_e4m3fn`."""
        words = []
        if self.kept_layers or self.removed:
            words.append("cut")
        if self.casting is not None:
            words.append(f"stored as {self.casting.storage_dtype}")
        if self.channels_last:
            words.append("channels last")
        if self.compiled:
            words.append("compiled")
        return ", ".join(words)

    def leaves_out(self, tensor: str) -> bool:
        """Returns True if the tensor of this name in the component's files is dropped.

        Some libraries give tensors other names in files than in modules; those count as kept.
        """
        if any(tensor == path or tensor.startswith(f"{path}.") for path in self.removed):
            return True
        for path, count in self.kept_layers.items():
            if tensor.startswith(f"{path}."):
                index = tensor.removeprefix(f"{path}.").partition(".")[0]
                return index.isdecimal() and int(index) >= count
        return False


def with_casting(changes: ComponentChanges | None, casting: LayerwiseCasting) -> ComponentChanges:
    """Returns the changes with this casting where they have none."""
    changes = changes or ComponentChanges()
    return changes.model_copy(update={"casting": changes.casting or casting})


class Tuning(Frozen):
    """Settings of a component, or a module in it, during one step."""

    tiling: dict[str, JsonValue] | None = None
    """The arguments of its `enable_tiling`; None where it is not called."""
    attention_backend: str | None = None
    attention_processor: str | None = None
    """Qualified: `diffusers.models.attention_processor.AttnProcessor2_0`."""
    forward_chunking: bool = False


class SchedulerChange(Frozen):
    """Replaces the model's own scheduler for this step."""

    class_name: str | None = None
    """Qualified; None keeps the class."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    shift: float | None = None
