"""The one rule that turns a row into a message for workers."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from celery import current_app
from django_celery_beat.schedulers import ModelEntry

# What says which run a message is of.
RUN_HEADERS = ("periodic_task_name", "periodic_task_id", "scheduled_for", "queued_at", "trigger")


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
            "headers": headers | {"periodic_task_name": model.name, "periodic_task_id": model.pk},
            "ignore_result": True,  # the ledger has how it went
            "retry": False,  # the scheduler tries again, without holding up the rest
        }
        self.options = {name: value for name, value in options.items() if value is not None}
        self.failure: Exception | None = None  # of publishing it

    def name_run(self, run_id: UUID, due: datetime, sent_at: datetime, trigger: str) -> None:
        """Add the id and the headers by which workers know the run, and the moment it expires."""
        self.options["task_id"] = str(run_id)
        self.options["headers"] |= {
            "scheduled_for": due.astimezone(UTC).isoformat(),
            "queued_at": sent_at.astimezone(UTC).isoformat(),
            "trigger": trigger,
        }
        if isinstance(seconds := self.options.get("expires"), int):
            self.options["expires"] = sent_at + timedelta(seconds=seconds)


def run_id(key: int, due: datetime) -> UUID:
    """The id of a run of the row with a key. A run that is sent twice has one id, as its mail."""
    return uuid5(NAMESPACE_URL, f"{key}/{due.astimezone(UTC).isoformat()}")


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
