"""The quantisers: their arguments in documents, names and configurations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, JsonValue, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from app.dialect.installed import names
from app.errors import nearest
from app.frozen import Frozen
from app.packages import Package
from app.tasks.task import Arguments

QuantiserKind = str
"""The `kind` of a quantiser."""
Given = Mapping[str, JsonValue]
BITSANDBYTES = Package("bitsandbytes", "bitsandbytes")
TORCHAO = Package("torchao", "torchao")
GGUF = Package("gguf", "gguf")
SDNQ = Package("sdnq", "sdnq")
QUANTO = Package("optimum.quanto", "optimum-quanto")
MSLK = Package("mslk", "mslk")
INT4_SCHEMES = ("Int4WeightOnlyConfig", "Float8DynamicActivationInt4WeightConfig")
"""The torchao schemes whose packing needs mslk."""

TorchAoScheme = Literal[
    "Int8WeightOnlyConfig",
    "Int8DynamicActivationInt8WeightConfig",
    "Int4WeightOnlyConfig",
    "IntxWeightOnlyConfig",
    "Int8DynamicActivationIntxWeightConfig",
    "Float8WeightOnlyConfig",
    "Float8DynamicActivationFloat8WeightConfig",
    "Float8DynamicActivationInt4WeightConfig",
]
"""The torchao schemes that need no arguments."""
TORCHAO_SHORTHANDS: dict[str, TorchAoScheme] = {
    "int8wo": "Int8WeightOnlyConfig",
    "int8_weight_only": "Int8WeightOnlyConfig",
    "int8dq": "Int8DynamicActivationInt8WeightConfig",
    "int8_dynamic_activation_int8_weight": "Int8DynamicActivationInt8WeightConfig",
    "int4wo": "Int4WeightOnlyConfig",
    "int4_weight_only": "Int4WeightOnlyConfig",
    "float8wo": "Float8WeightOnlyConfig",
    "float8_weight_only": "Float8WeightOnlyConfig",
    "float8dq": "Float8DynamicActivationFloat8WeightConfig",
}
"""The names older versions of diffusers took."""


def sdnq_types() -> frozenset[str]:
    """Returns the weight types of SDNQ: `int8`, `uint4`, `float8_e4m3fn`, `fp6` …; the first number
    in a name is its bits."""
    bits = range(1, 17)
    found = {f"{kind}{n}" for kind in ("int", "uint", "fp", "ufp") for n in bits}
    found |= {"int32", "uint32", "float32", "fp32", "float16", "bfloat16", "bf16", "bool"}
    found |= {"float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3fn_sdnq"}
    found |= {"float8_e8m0fnu"}
    for n, exponent in itertools.product(bits, range(1, 6)):
        if n > exponent:
            found.add(f"float{n}_e{exponent}m{n - 1 - exponent}fn")
        if n >= exponent:
            found.add(f"float{n}_e{exponent}m{n - exponent}fnu")
    return frozenset(found)


def _unescaped(value: Any) -> Any:
    """Removes the braces that keep the dialect's type rule from resolving a text."""
    text = names.unbraced(value) if isinstance(value, str) else None
    return value if text is None else text


def _bare(value: Any) -> Any:
    value = _unescaped(value)
    return value.removeprefix("torch.") if isinstance(value, str) else value


def _scheme(value: Any) -> Any:
    value = _unescaped(value)
    if not isinstance(value, str):
        return value
    return TORCHAO_SHORTHANDS.get(value, value.removeprefix("torchao.quantization."))


_SDNQ_TYPES = sdnq_types()


def _sdnq_type(value: Any) -> Any:
    value = _unescaped(value)
    if isinstance(value, str) and value in _SDNQ_TYPES:
        return value
    hint = nearest(str(value), _SDNQ_TYPES) or "Common ones: int8, uint4, float8_e4m3fn."
    raise PydanticCustomError("sdnq_type", "{given} is no type of SDNQ's weights",
                              {"given": repr(value), "hint": hint})  # fmt: skip


ComputeDType = Annotated[Literal["float32", "float16", "bfloat16"], BeforeValidator(_bare)]
StorageDType = Annotated[
    Literal["uint8", "int8", "float16", "bfloat16", "float32", "float64"], BeforeValidator(_bare)
]
SdnqType = Annotated[str, PlainValidator(_sdnq_type)]
MatmulType = Annotated[Literal["int8", "float8_e4m3fn", "float16"], BeforeValidator(_unescaped)]
Modules = list[str] | None
WhereItIs = Annotated[str | int | None, BeforeValidator(_unescaped)]


class BitsAndBytes(Arguments):
    """Arguments of `BitsAndBytesConfig`; the defaults are the library's."""

    load_in_8bit: bool = False
    load_in_4bit: bool = False
    llm_int8_threshold: float = 6.0
    llm_int8_skip_modules: Modules = None
    llm_int8_enable_fp32_cpu_offload: bool = False
    llm_int8_has_fp16_weight: bool = False
    bnb_4bit_compute_dtype: ComputeDType = "float32"
    bnb_4bit_quant_type: Annotated[Literal["fp4", "nf4"], BeforeValidator(_unescaped)] = "fp4"
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_quant_storage: StorageDType = "uint8"

    @model_validator(mode="after")
    def _has_one_width(self) -> BitsAndBytes:
        if self.load_in_8bit == self.load_in_4bit:
            raise ValueError("exactly one of 'load_in_4bit' and 'load_in_8bit' has to be true")
        return self


class TorchAo(Arguments):
    """Arguments of `TorchAoConfig`."""

    quant_type: Annotated[TorchAoScheme, BeforeValidator(_scheme)]
    modules_to_not_convert: Modules = None


class Gguf(Arguments):
    """Arguments of `GGUFQuantizationConfig`."""

    compute_dtype: ComputeDType = "float32"


class Sdnq(Arguments):
    """Arguments of `SDNQConfig` without those for training; the defaults are the library's."""

    weights_dtype: SdnqType = "int8"
    scale_dtype: SdnqType | None = None
    zero_point_dtype: SdnqType | None = None
    quantized_matmul_dtype: MatmulType | None = None
    hadamard_group_size: int = 256
    group_size: int = 0
    svd_rank: int = 32
    svd_steps: int = 8
    codebook_steps: int = 24
    dynamic_loss_threshold: float | None = None
    use_svd: bool = False
    use_hadamard: bool = False
    use_codebook: bool = False
    use_codebook_scale: bool = False
    quant_conv: bool = False
    quant_embedding: bool = False
    use_quantized_matmul: bool = False
    use_quantized_matmul_conv: bool = False
    use_static_quantization: bool = True
    use_dynamic_quantization: bool = False
    use_stochastic_rounding: bool = False
    dequantize_fp32: bool = True
    add_skip_keys: bool = True
    minimum_allowed_numel: int = 16384
    minimum_allowed_channel_size: int = 32
    modules_to_not_convert: Modules = None
    modules_to_not_use_matmul: Modules = None
    modules_dtype_dict: dict[SdnqType, list[str]] | None = None
    quantization_device: WhereItIs = None
    return_device: WhereItIs = None
    non_blocking: bool = False


class Quanto(Arguments):
    """Arguments of `QuantoConfig`: diffusers' `weights_dtype` is transformers' `weights`."""

    weights_dtype: Annotated[
        Literal["float8", "int8", "int4", "int2"], BeforeValidator(_unescaped)
    ] = "int8"
    modules_to_not_convert: Modules = None

    @model_validator(mode="before")
    @classmethod
    def _as_in_diffusers(cls, values: Any) -> Any:
        if isinstance(values, dict) and "weights" in values and "weights_dtype" not in values:
            return {**{k: v for k, v in values.items() if k != "weights"},
                    "weights_dtype": values["weights"]}  # fmt: skip
        return values


class Quantiser(NamedTuple):
    """One quantisation method."""

    kind: QuantiserKind
    package: Package
    arguments: type[Arguments]
    label: Callable[[Given], str]
    """Label of these arguments for people: `nf4`, `SDNQ uint4`."""
    configuration: str
    """The worker's function that makes the library's configuration."""
    told: tuple[str, ...] = ()
    """Arguments a plan holds even at their defaults: for people, and for sizes."""
    also_needs: Callable[[Given], Package | None] = lambda _: None
    """Returns a further package that these arguments need."""


MAKERS = "app.worker.loading.quantising"
QUANTISERS: dict[str, Quantiser] = {
    "BitsAndBytesConfig": Quantiser(
        "bitsandbytes", BITSANDBYTES, BitsAndBytes, lambda given: (
            "int8" if "load_in_8bit" in given else str(given["bnb_4bit_quant_type"])
        ), f"{MAKERS}:bitsandbytes", ("bnb_4bit_quant_type",)
    ),
    "TorchAoConfig": Quantiser(
        "torchao", TORCHAO, TorchAo, lambda given: str(given["quant_type"]).removesuffix("Config"),
        f"{MAKERS}:torchao",
        also_needs=lambda given: MSLK if given["quant_type"] in INT4_SCHEMES else None,
    ),
    "GGUFQuantizationConfig": Quantiser("gguf", GGUF, Gguf, lambda _: "GGUF", f"{MAKERS}:gguf"),
    "SDNQConfig": Quantiser(
        "sdnq", SDNQ, Sdnq, lambda given: f"SDNQ {given['weights_dtype']}", f"{MAKERS}:sdnq",
        ("weights_dtype",),
    ),
    "QuantoConfig": Quantiser(
        "quanto", QUANTO, Quanto, lambda given: f"quanto {given['weights_dtype']}",
        f"{MAKERS}:quanto", ("weights_dtype",),
    ),
}  # fmt: skip
"""By the name of the configuration's class in documents."""
PLACEMENT = {"quantization_device", "return_device", "non_blocking"}
"""Where SDNQ computes and where its result lies: always the worker's device."""


class Quantisation(Frozen):
    """How a component's weights are quantised while it loads."""

    kind: QuantiserKind
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Checked arguments of the quantiser's configuration that differ from its defaults; dtypes and
    classes by their bare names."""

    @property
    def quantiser(self) -> Quantiser:
        """The entry in `QUANTISERS`."""
        return next(each for each in QUANTISERS.values() if each.kind == self.kind)

    @property
    def label(self) -> str:
        """For people: `nf4`, `SDNQ uint4`, `Int8WeightOnly`, `GGUF`."""
        return self.quantiser.label(self.arguments)


def quantisation(quantiser: Quantiser, arguments: Mapping[str, Any]) -> Quantisation:
    """Returns the quantisation for valid arguments: equal for equal quantisations."""
    read = quantiser.arguments.model_validate(dict(arguments))
    differing = read.model_dump(exclude_defaults=True, exclude=PLACEMENT)
    told = {name: getattr(read, name) for name in quantiser.told}
    return Quantisation(kind=quantiser.kind, arguments=dict(sorted({**told, **differing}.items())))
