"""The one rule that turns a row into a message for workers."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from celery import current_app
from django_celery_beat.schedulers import ModelEntry


class RunMessage(ModelEntry):  # type: ignore[misc]  # it has no types
    """A row as it is published. Raises ``ValueError`` if its JSON columns cannot be read."""

    def __init__(self, model: Any, app: Any = None) -> None:
        self.app = app or current_app
        self.model, self.name, self.task = model, model.name, model.task
        self.last_run_at, self.total_run_count = model.last_run_at, model.total_run_count
        self.schedule: Any = None
        self.args = _load(list, "args", model.args or "[]")
        self.kwargs = _load(dict, "kwargs", model.kwargs or "{}")
        headers = _load(dict, "headers", model.headers or "{}")
        options = {
            "queue": model.queue,
            "exchange": model.exchange,
            "routing_key": model.routing_key,
            "priority": model.priority,
            "expires": model.expires or model.expire_seconds,
            "headers": headers | {"periodic_task_name": model.name},
            "ignore_result": False,  # the run history is made of results
            "retry": False,  # the scheduler tries again, without holding up the rest
        }
        self.options = {name: value for name, value in options.items() if value is not None}
        self.failure: Exception | None = None  # of publishing it

    def say_which_run(self, due: datetime, sent_at: datetime) -> None:
        """Add the headers by which workers know the run: when it was due, and when it was sent."""
        self.options["headers"] |= {
            "scheduled_for": due.astimezone(UTC).isoformat(),
            "queued_at": sent_at.astimezone(UTC).isoformat(),
        }


def run_id(row: Any, due: datetime) -> str:
    """The task id of a row's run. A run that is sent twice has one id, and so has its mail."""
    text = f"{row.pk}/{row.total_run_count}/{due.astimezone(UTC).isoformat()}"
    return str(uuid5(NAMESPACE_URL, text))


def _load(kind: type, what: str, text: str) -> Any:
    """The JSON value of a column. Raises ``ValueError`` unless it is of a kind."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} {text!r} are not JSON: {error}") from None
    if not isinstance(value, kind):
        name = "list" if kind is list else "object"
        raise ValueError(f"{what} {text!r} are not a JSON {name}")
    return value
