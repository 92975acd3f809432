"""How weights are quantised while they are loaded, as a plan has it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from app.workflow.frozen import Frozen

QuantiserKind = Literal["bitsandbytes", "torchao", "gguf", "sdnq", "quanto"]


class Quantisation(Frozen):
    """How a component's weights are quantised while it is loaded."""

    kind: QuantiserKind
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Of the quantiser's configuration, checked, and only what differs from its defaults; dtypes
    and classes by their bare names."""

    @property
    def label(self) -> str:
        """For people: `nf4`, `SDNQ uint4`, `Int8WeightOnly`, `GGUF`."""
        given = self.arguments
        match self.kind:
            case "bitsandbytes":
                return "int8" if "load_in_8bit" in given else str(given["bnb_4bit_quant_type"])
            case "torchao":
                return str(given["quant_type"]).removesuffix("Config")
            case "gguf":
                return "GGUF"
            case "sdnq":
                return f"SDNQ {given['weights_dtype']}"
            case "quanto":
                return f"quanto {given['weights_dtype']}"
