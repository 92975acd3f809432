"""A word of a table: the type of a document's or a plan's field that names a line of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class OneOf:
    """In `Annotated[str, OneOf(TABLE)]`, has pydantic take the table's words and no others."""

    def __init__(self, words: Collection[str]) -> None:
        self._words = words

    def __get_pydantic_core_schema__(
        self, _source: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.literal_schema([*self._words])
