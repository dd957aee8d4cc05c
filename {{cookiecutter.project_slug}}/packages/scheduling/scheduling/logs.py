"""JSON logs: one line each, which names the schedule and the run that wrote it."""

import logging
from typing import Any

from billiard.util import get_logger as get_pool_logger
from celery import current_task
from celery.signals import after_setup_logger, after_setup_task_logger
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from scheduling.conf import conf


class RunFilter(logging.Filter):
    """Add ``task``, ``schedule`` and ``run`` to records from inside a task. Drops nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        if current_task:
            request = current_task.request
            record.task, record.run = current_task.name, request.id
            record.schedule = (request.headers or {}).get("periodic_task_name")
        return True


class Formatter(JsonFormatter):
    """A JSON object a line: time (UTC), level, logger, message, ``extra`` fields, exception."""

    def __init__(self) -> None:
        super().__init__(
            ["time", "levelname", "name", "message"],
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            # Leave out what Celery and Django add: a task's arguments, a URL with its query.
            reserved_attrs=[*RESERVED_ATTRS, "data", "request"],
        )


@after_setup_logger.connect
@after_setup_task_logger.connect
def format_celery_lines(logger: logging.Logger, **kwargs: Any) -> None:
    """Set the format of the handlers that beat and workers make for their command line."""
    if conf.LOG_FORMAT != "json":
        return
    for handler in (*logger.handlers, *get_pool_logger().handlers):
        handler.setFormatter(Formatter())
        handler.addFilter(RunFilter())
