"""The one rule that turns a row into a message for workers."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from celery import current_app
from celery.app.task import Context
from django_celery_beat.schedulers import ModelEntry

# What says which run a message is of.
RUN_HEADERS = (
    "periodic_task_name",
    "periodic_task_id",
    "scheduled_for",
    "queued_at",
    "run_trigger",
)
MAX_NESTING = 300  # lists in lists: a worker cannot hand 470 to its processes (pickle's recursion)
# Headers that Celery's and kombu's own messages do not always have, and the engine's own.
OTHER_HEADERS = {
    *("compression", "groups", "meth", "redelivered"),
    *(*RUN_HEADERS, "run_id"),
}
# kombu's bindings and fanouts on Redis, RabbitMQ's own, and remote control.
OWN_NAMES = r"^_kombu\.|^/\d+\.|^amq\.|\.pidbox$"
CONTAINERS = (dict, list, tuple)
UNACKED_KEYS = ("unacked_key", "unacked_index_key", "unacked_mutex_key")  # kombu's options


class RunMessage(ModelEntry):  # type: ignore[misc]  # it has no types
    """A row as it is published. Raises ``ValueError`` for a row that no worker could take."""

    def __init__(self, model: Any, app: Any = None) -> None:
        self.app = app or current_app
        self.model, self.name, self.task = model, model.name, model.task
        self.last_run_at, self.total_run_count = model.last_run_at, model.total_run_count
        self.schedule: Any = None
        self.args = _load(list, "args", model.args or "[]")
        self.kwargs = _load(dict, "kwargs", model.kwargs or "{}")
        headers = _load(dict, "headers", model.headers or "{}")
        check_headers(headers)
        for name in filter(None, (model.queue, model.exchange, model.routing_key)):
            check_destination(name)
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
            "run_trigger": trigger,
        }
        if isinstance(seconds := self.options.get("expires"), int):
            self.options["expires"] = sent_at + timedelta(seconds=seconds)


def run_id(key: int, due: datetime) -> UUID:
    """The id of a run of the row with a key. A run that is sent twice has one id, as its mail."""
    return uuid5(NAMESPACE_URL, f"{key}/{due.astimezone(UTC).isoformat()}")


def check_headers(headers: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if a row names headers that have a meaning for Celery or the engine.

    They would replace Celery's: another ``task`` runs, or a worker cannot read the message. Refuse
    NaN and infinity too: RabbitMQ hangs up on who sends them in a header.
    """
    json.dumps(headers, allow_nan=False)
    if taken := sorted(own_headers() & set(headers)):
        raise ValueError(f"headers {', '.join(taken)} are Celery's or the scheduler's: rename them")


@cache
def own_headers() -> frozenset[str]:
    """The headers of each task, and those that Celery makes attributes of a task's request."""
    return frozenset({*current_app.amqp.as_task_v2("", "").headers, *vars(Context), *OTHER_HEADERS})


def check_destination(name: str) -> None:
    """Raise ``ValueError`` for a queue, exchange or routing key that is reserved."""
    if is_reserved(name):
        raise ValueError(
            f"{name!r} is a name that Celery or the broker uses itself: choose another"
        )


def is_reserved(name: str) -> bool:
    """Whether Celery or the broker uses a name itself.

    With a list in the place of one of its keys, kombu's Redis transport fails in each worker
    (WRONGTYPE); a task among the events of workers ends those that listen.
    """
    options: dict[str, Any] = current_app.conf.broker_transport_options
    keys = {options.get(option, option.removesuffix("_key")) for option in UNACKED_KEYS}
    separator = options.get("sep", "\x06\x16")  # between a queue and a priority
    events = rf"^{re.escape(current_app.conf.event_exchange)}(\.|$)"
    return name in keys or separator in name or bool(re.search(f"{OWN_NAMES}|{events}", name))


def load_json(text: str) -> Any:
    """The value of a JSON text. Raises ``ValueError`` if it is none, or nests too deep."""
    try:
        value = json.loads(text)
        is_too_deep = nests_too_deep(value)
    except RecursionError:
        is_too_deep = True
    if is_too_deep:
        raise ValueError(f"it nests deeper than {MAX_NESTING} levels")
    return value


def nests_too_deep(value: Any) -> bool:
    """Whether lists and dicts lie more than MAX_NESTING deep in each other."""
    level: list[Any] = [[value]]
    for _ in range(MAX_NESTING + 1):
        items = [each.values() if isinstance(each, dict) else each for each in level]
        level = [item for each in items for item in each if isinstance(item, CONTAINERS)]
        if not level:
            return False
    return True


def _load(kind: type, what: str, text: str) -> Any:
    """The JSON value of a column. Raises ``ValueError`` unless it is of a kind."""
    try:
        value = load_json(text)
    except ValueError as error:
        raise ValueError(f"{what} {text[:200]!r} are not JSON: {error}") from None
    if not isinstance(value, kind):
        name = "list" if kind is list else "object"
        raise ValueError(f"{what} {text[:200]!r} are not a JSON {name}")
    return value
