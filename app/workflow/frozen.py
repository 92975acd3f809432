"""What plans are made of."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable plain data that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
