"""Logs: as JSON, whose lines name the schedule and the run; or plain, which no name can forge."""

import logging
from copy import copy
from typing import Any

from billiard.util import get_logger as get_pool_logger
from celery import current_task
from celery.signals import after_setup_logger, after_setup_task_logger
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from scheduling.conf import conf
from scheduling.formatting import printable, printable_lines


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


class PlainFormatter(logging.Formatter):
    """A line for people: no name in it forges another or steers a terminal.

    Texts that fill a message stay in its line. A message or an error of several lines keeps them,
    indented.
    """

    def __init__(self, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self.inner = inner or logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record = copy(record)  # other handlers get it as it was
        match record.args:
            case dict() as named:
                record.args = {name: _in_one_line(value) for name, value in named.items()}
            case tuple() as values:
                record.args = tuple(map(_in_one_line, values))
        record.msg, record.args = printable_lines(record.getMessage()), None
        if record.exc_info:
            record.exc_text = printable_lines(self.formatException(record.exc_info))
        return self.inner.format(record)


def _in_one_line(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


@after_setup_logger.connect
@after_setup_task_logger.connect
def format_celery_lines(logger: logging.Logger, **kwargs: Any) -> None:
    """Set the format of the handlers that beat and workers make for their command line."""
    for handler in (*logger.handlers, *get_pool_logger().handlers):
        if conf.LOG_FORMAT == "json":
            handler.setFormatter(Formatter())
            handler.addFilter(RunFilter())
        elif not isinstance(handler.formatter, PlainFormatter):
            handler.setFormatter(PlainFormatter(handler.formatter))
