"""Removes from Gradio's login page what strangers should not see.

It lists every endpoint with its parameters and defaults. Behind a proxy's path it also looks for
its manifest and icon at the root. Needed with gradio 6.31.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROOT_URLS = b'<link rel="manifest" href="/manifest.json" />'
RELATIVE_URLS = (
    b'<link rel="manifest" href="./manifest.json" /><link rel="icon" href="./favicon.ico" />'
)
NOTHING: dict[str, Any] = {"named_endpoints": {}, "unnamed_endpoints": {}}


def hide_endpoints() -> None:
    """Makes Gradio leave the endpoints out of its login page."""
    from gradio import routes

    routes.templates = _Templates(routes.templates)


class _Templates:
    """Gradio's templates, without endpoints on the login page and with URLs below a proxy's
    path."""

    def __init__(self, templates: Any) -> None:
        self._templates = templates

    def TemplateResponse(self, *, context: Mapping[str, Any], **options: Any) -> Any:
        """See starlette.templating.Jinja2Templates."""
        if context["config"].get("auth_required"):
            context = {**context, "gradio_api_info": NOTHING}
        answer = self._templates.TemplateResponse(context=context, **options)
        answer.body = answer.body.replace(ROOT_URLS, RELATIVE_URLS)
        answer.headers["content-length"] = str(len(answer.body))
        return answer
