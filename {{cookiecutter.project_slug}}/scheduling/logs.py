"""Logs as JSON, a line each, that say in which run of which schedule they were written."""

import logging
from typing import Any

from billiard.util import get_logger as get_pool_logger
from celery import current_task
from celery.signals import after_setup_logger, after_setup_task_logger
from django.conf import settings
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter


class RunFilter(logging.Filter):
    """Lets all pass; what is logged inside a task gets ``task``, ``schedule`` and ``run``."""

    def filter(self, record: logging.LogRecord) -> bool:
        if current_task:
            request = current_task.request
            record.task, record.run = current_task.name, request.id
            record.schedule = (request.headers or {}).get("periodic_task_name")
        return True


class Formatter(JsonFormatter):
    """One JSON object a line: time (UTC), level, logger, message, what ``extra`` has, exception."""

    def __init__(self) -> None:
        super().__init__(
            ["time", "levelname", "name", "message"],
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            # Of Celery's lines and Django's: a task's arguments, and a URL with its query.
            reserved_attrs=[*RESERVED_ATTRS, "data", "request"],
        )


@after_setup_logger.connect
@after_setup_task_logger.connect
def format_celerys_lines(logger: logging.Logger, **kwargs: Any) -> None:
    """Beat and workers make handlers of their own, as their command line says."""
    if getattr(settings, "LOG_FORMAT", "plain") != "json":
        return
    for handler in (*logger.handlers, *get_pool_logger().handlers):
        handler.setFormatter(Formatter())
        handler.addFilter(RunFilter())
