"""The type of a field that names an entry of a table."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class OneOf:
    """In `Annotated[str, OneOf(TABLE)]`, makes pydantic accept only the table's keys."""

    def __init__(self, words: Collection[str]) -> None:
        self._words = words

    def __get_pydantic_core_schema__(
        self, _source: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.literal_schema([*self._words])
