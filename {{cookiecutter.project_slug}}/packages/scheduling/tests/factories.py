"""Rows, runs and moments that the tests of all rooms share."""

from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine
from celery import current_app
from celery.app.task import Context
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from scheduling.worker.results import DatabaseBackend

STOCK_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = (
    timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days")
)


def make(name: str, changed: datetime = NOON - DAY, **values: Any) -> PeriodicTask:
    """A row that was saved at a time, with the columns given."""
    row = PeriodicTask.objects.create(name=name, task="some.task", **values)
    PeriodicTask.objects.filter(pk=row.pk).update(
        date_changed=changed, last_run_at=values.get("last_run_at")
    )
    return PeriodicTask.objects.get(pk=row.pk)


def every(count: int, period: str = "minutes") -> dict[str, Any]:
    """The column of a row that runs every so often."""
    return {"interval": IntervalSchedule.objects.create(every=count, period=period)}


def at(hour: str, minute: str = "0", zone: str = "UTC") -> dict[str, Any]:
    """The column of a row that runs at a time of the day."""
    return {"crontab": CrontabSchedule.objects.create(hour=hour, minute=minute, timezone=zone)}


def request_of(
    name: str, due: datetime, queued: timedelta = timedelta(), retries: int = 0
) -> Context:
    """A task's request, as a worker makes it of beat's message."""
    headers = {"scheduled_for": due.isoformat(), "periodic_task_name": name}
    return Context(
        headers=headers | {"queued_at": (due + queued).isoformat()},
        task="some.task",
        retries=retries,
        hostname="celery@here",
        periodic_task_name=name,
        argsrepr="('x',)",
        children=[],
    )


def store(name: str, due: datetime, *states: str, retries: int = 0, **times: timedelta) -> None:
    """What a worker stores of a run, state by state, each a second after the one before."""
    request = request_of(name, due, times.get("queued", 0 * SECOND), retries)
    for number, state in enumerate(states):
        with time_machine.travel(
            due + times.get("late", timedelta()) + number * SECOND, tick=False
        ):
            DatabaseBackend(current_app).store_result(
                f"{name} {due}", None, state, request=request, traceback="Traceback …"
            )
