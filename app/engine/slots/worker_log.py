"""Logs the worker's log lines in this process."""

from __future__ import annotations

import logging

from app.protocol import Logged


def log_worker_line(event: Logged, prefix: str = "") -> None:
    """Logs the worker's line with its own time and logger, after `prefix`."""
    logger = logging.getLogger(event.logger)
    if not logger.isEnabledFor(event.level):
        return
    text = prefix + event.text
    record = logger.makeRecord(event.logger, event.level, "", 0, text, (), None)
    record.relativeCreated += (event.time - record.created) * 1000
    record.created = event.time
    record.msecs = event.time % 1 * 1000
    logger.handle(record)
