"""Base of plain immutable data: errors, settings of a document, parts of a plan."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable plain data that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
