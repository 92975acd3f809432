"""What Gradio (6.31) would tell whoever has not logged in: endpoints, parameters, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTHING = {"named_endpoints": {}, "unnamed_endpoints": {}}


def tell_less() -> None:
    """Has Gradio keep what there is to call out of the page of the login."""
    from gradio import routes

    routes.templates = _Templates(routes.templates)


class _Templates:
    """Gradio's templates; the page of the login is told of no endpoint."""

    def __init__(self, templates: Any) -> None:
        self._templates = templates

    def TemplateResponse(self, *, context: Mapping[str, Any], **options: Any) -> Any:
        """See starlette.templating.Jinja2Templates."""
        if context["config"].get("auth_required"):
            context = {**context, "gradio_api_info": NOTHING}
        return self._templates.TemplateResponse(context=context, **options)
