"""Options of AUTOMATIC1111's interface: the workflow that each sender has chosen for its requests.

There they hold for everybody; here one sender cannot choose for another.
"""

from __future__ import annotations

from collections import OrderedDict

from app.api.image_workflows import ImageWorkflow, chosen
from app.catalog.catalog import Catalog

CHECKPOINT = "sd_model_checkpoint"
MAX_SENDERS = 1000
"""The oldest choice is forgotten."""


class Choices:
    """The choices, until the server ends. The methods read the disk."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._named: OrderedDict[str, str] = OrderedDict()

    def choose(self, owner: str, name: str) -> None:
        """Notes the workflow; the one that is used anyway ends a choice. Raises UnknownWorkflow."""
        found = chosen(self._catalog, name).entry.name
        self._named.pop(owner, None)
        if found == self.current(owner):
            return
        self._named[owner] = found
        while len(self._named) > MAX_SENDERS:
            self._named.popitem(last=False)

    def current(self, owner: str) -> str:
        """Returns the name of the workflow that draws from a prompt. Raises UnknownWorkflow."""
        return self._named.get(owner) or chosen(self._catalog, None).entry.name

    def workflow(
        self, owner: str, name: str | None, *, image: bool, mask: bool
    ) -> tuple[ImageWorkflow, list[str]]:
        """Returns the workflow of a request, and a note where the sender's choice does not take
        what it sends. Raises UnknownWorkflow."""
        own = None if name else self._named.get(owner)
        if own is None:
            return chosen(self._catalog, name, image=image, mask=mask), []
        found = chosen(self._catalog, own)
        if found.takes(image=image, mask=mask):
            return found, []
        sent = " and ".join(["a prompt", *["an image"] * image, *["a mask"] * mask])
        note = f"{CHECKPOINT} is not followed: '{own}' does not draw from {sent}."
        return chosen(self._catalog, None, image=image, mask=mask), [note]
