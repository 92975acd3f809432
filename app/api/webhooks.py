"""Reports the end of a run to an address that its request names: signed, to allowed servers only.

The signature has the form of https://www.standardwebhooks.com: `v1,` and the base64 of the
HMAC-SHA256 of `ID.TIMESTAMP.BODY`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from typing import TYPE_CHECKING

from app.api.reports import RunReport
from app.api.runs import ApiRuns
from app.errors import EngineError, FetchError, InvalidInputs, Problem
from app.media.fetch import Unreachable, send, shown
from app.media.urls import RefusedURLError, checked_url, is_listed, port_of
from app.settings import UiSettings

if TYPE_CHECKING:
    from app.engine import Engine

log = logging.getLogger(__name__)

RETRY_AFTER_S = (1.0, 10.0, 60.0)
"""Before each further try."""


class Webhooks:
    """Sends reports of runs; failures are only logged."""

    def __init__(self, engine: Engine, runs: ApiRuns, settings: UiSettings) -> None:
        self._engine = engine
        self._runs = runs
        self._hosts = settings.webhook_hosts
        self._secret = settings.webhook_secret
        self._waiting: set[asyncio.Task[None]] = set()

    def check(self, url: str) -> None:
        """Raises InvalidInputs where reports are not sent to this URL."""
        wrong, hint = self._problem(url)
        if wrong:
            problem = Problem(place="webhook", message=wrong, hint=hint)
            raise InvalidInputs("The run cannot be reported to its webhook.", [problem])

    def watch(self, run_id: str, url: str) -> None:
        """Reports the run to the URL once it has ended. Returns at once; for an event loop."""
        waiting = asyncio.ensure_future(self._report(run_id, url))
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)

    def _problem(self, url: str) -> tuple[str, str]:
        if not (self._hosts and self._secret):
            hint = "DW_WEBHOOK_HOSTS and DW_WEBHOOK_SECRET turn them on."
            return "This server sends no webhooks.", hint
        try:
            parsed = checked_url(url, self._hosts)
        except RefusedURLError as error:
            return str(error), ""
        named = parsed.host.lower() in {each.lower() for each in self._hosts}
        if not (named or is_listed(parsed.host, port_of(parsed), self._hosts)):
            return f"'{parsed.host}' is not an allowed server.", "DW_WEBHOOK_HOSTS lists them."
        return "", ""

    async def _report(self, run_id: str, url: str) -> None:
        try:
            report = await self._runs.ended(run_id, None)
        except EngineError as error:
            log.warning("Run %s is not reported to %s: %s", run_id, shown(url), error.message)
            return
        if self._engine.is_started:
            # Not in a thread of the event loop, whose end would wait for it.
            threading.Thread(
                target=self._send, args=(report, url), name="webhook", daemon=True
            ).start()

    def _send(self, report: RunReport, url: str) -> None:
        body = json.dumps({"run": report.model_dump(mode="json")}).encode()
        for delay_s in (*RETRY_AFTER_S, None):
            try:
                status = send(url, body, self._headers(report.run_id, body), hosts=self._hosts)
                failed = "" if 200 <= status < 300 else f"the answer is {status}"
                lasting = status < 500 and status != 429
            except FetchError as error:
                failed, lasting = error.message, not isinstance(error, Unreachable)
            if not failed:
                return
            log.warning("Run %s could not be reported to %s: %s",
                        report.run_id, shown(url), failed)  # fmt: skip
            if lasting or delay_s is None:
                return
            time.sleep(delay_s)

    def _headers(self, run_id: str, body: bytes) -> dict[str, str]:
        sent_at = str(int(time.time()))
        return {
            "Accept": "*/*",
            "Content-Type": "application/json",
            "Webhook-Id": run_id,
            "Webhook-Timestamp": sent_at,
            "Webhook-Signature": signature(self._secret or "", run_id, sent_at, body),
        }


def signature(secret: str, run_id: str, sent_at: str, body: bytes) -> str:
    """Returns the signature of a report."""
    signed = b".".join((run_id.encode(), sent_at.encode(), body))
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
