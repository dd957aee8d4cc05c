"""Rows, runs and moments that the tests of all rooms share."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from scheduling import database
from scheduling.models import ENDED, Run, State

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


def store(
    name: str,
    due: datetime,
    *states: str,
    retries: int = 0,
    late: timedelta = timedelta(),
    queued: timedelta = timedelta(),
    pk: UUID | None = None,
) -> Run:
    """A run of a schedule in the ledger, brought through states, each a second after the one before.

    ``late`` says when the first state came, and ``queued`` when beat sent it, after it was due.
    """
    row = PeriodicTask.objects.using(database.alias()).filter(name=name).first()
    run = Run.objects.using(database.alias()).filter(
        schedule=name, scheduled_for=due
    ).first() or Run(
        id=pk or uuid4(),
        periodic_task=row,
        schedule=name,
        task="some.task",
        scheduled_for=due,
        queued_at=due + queued,
        queue="celery",
        worker="celery@here/1234",
    )
    run.retries = retries
    for number, state in enumerate(states):
        run.state, moment = State(state), due + late + number * SECOND
        if state == State.STARTED:
            run.started_at = run.started_at or moment
            run.attempts += 1
        run.finished_at = moment if state in ENDED else None
    run.save()
    return run
