"""When a run is due: Celery's own schedules, asked on a clock that stands still."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from celery.schedules import crontab, schedule
from django.db.models import CharField, Model
from django.db.models.functions import Cast
from django_celery_beat.clockedschedule import clocked
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    SolarSchedule,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# PeriodicTask's foreign keys that say when, and the models that they lead to.
TIMINGS: dict[str, type[Model]] = {
    "interval": IntervalSchedule,
    "crontab": CrontabSchedule,
    "solar": SolarSchedule,
    "clocked": ClockedSchedule,
}
TIMING_KEYS = [f"{name}_id" for name in TIMINGS]
# A row that says when, as its foreign key and the values of its columns.
Timing = tuple[str, tuple[Any, ...]]


def columns(name: str) -> list[str]:
    """The columns of a timing's table that say when."""
    return [field.name for field in TIMINGS[name]._meta.concrete_fields if not field.primary_key]


def read_timings(name: str, **only: Any) -> dict[tuple[str, int], Timing]:
    """The rows of a timing's table. A time zone is read as text: an unknown one is an error there.

    Without the order of the model's Meta, which costs seconds for 10,000 crontabs.
    """
    rows = TIMINGS[name]._default_manager.filter(**only).order_by()
    read = [
        Cast(column, CharField()) if column == "timezone" else column for column in columns(name)
    ]
    return {(name, key): (name, tuple(values)) for key, *values in rows.values_list("pk", *read)}


@lru_cache(maxsize=2**17)
def schedule_of(timing: Timing) -> Any:
    """Celery's schedule for a timing; equal ones are parsed once and share one.

    Raises what Celery and django-celery-beat raise for what cannot work.
    """
    name, values = timing
    fields = dict(zip(columns(name), values, strict=True))
    if "timezone" in fields:
        fields["timezone"] = ZoneInfo(fields["timezone"])
    when: Any = TIMINGS[name](**fields).schedule  # type: ignore[attr-defined]
    when.nowfun = lambda: EPOCH
    return when


def next_due(when: Any, after: datetime) -> datetime:
    """The first due time after a moment, in UTC. Raises ``ValueError`` if there is none."""
    if isinstance(when, crontab):
        due = _next_minute(when, after.replace(second=0, microsecond=0))
    else:
        due = EPOCH + when.remaining_estimate(after)
    if due <= after and not isinstance(when, clocked):
        raise ValueError(f"{when!r} never comes")
    return due


def _next_minute(when: Any, after: datetime) -> datetime:
    """The first minute after another at which a crontab comes.

    When clocks go back, a crontab of every hour goes on with what it would have done without;
    Celery's arithmetic, which is on the wall clock, leaves out the hour that comes twice, or
    answers with a time in the past. Other crontabs run at the first of two equal times.
    """
    if getattr(when, "asked", None) == after:  # by another row, just now
        return when.answer  # type: ignore[no-any-return]
    due: datetime = EPOCH + when.remaining_estimate(after)
    offset = after.astimezone(when.tz).utcoffset() or timedelta()
    every_hour = len(when.hour) == 24
    if due <= after or (every_hour and due.astimezone(when.tz).utcoffset() != offset):
        start, delta, _ = when.remaining_delta(after, timezone(offset))
        unchanged = (start + delta).astimezone(UTC)
        if due <= after or (unchanged < due and _comes_at(when, unchanged)):
            due = unchanged
    when.asked, when.answer = after, due
    return due


def catch_up(when: Any, due: datetime, oldest: datetime) -> datetime | None:
    """The first due time that is not before the oldest to be made up; None if there is none."""
    if due >= oldest:
        return due
    if isinstance(when, clocked):
        return None
    if not isinstance(when, schedule):
        return next_due(when, oldest - timedelta(microseconds=1))
    every: timedelta = when.run_every  # type: ignore[attr-defined]
    return due - (due - oldest) // every * every  # an interval stays in step


def first_due(
    when: Any,
    last_run_at: datetime | None,
    since: datetime,
    start_time: datetime | None,
) -> datetime | None:
    """When a row is due next, which may be in the past; None for a clocked one that is done.

    ``since`` is from when on it counts: its last run or, before the first, when it was saved. A
    time that somebody gave, such as "now", and that had passed a minute before is meant.
    """
    given = since if last_run_at else since - timedelta(minutes=1)
    if isinstance(when, clocked):
        return when.clocked_time if when.clocked_time > given else None
    if start_time and start_time > since and not isinstance(when, schedule):
        since = start_time - timedelta(microseconds=1)
    due = next_due(when, since)
    return start_time if start_time and start_time > given and isinstance(when, schedule) else due


def _comes_at(when: Any, moment: datetime) -> bool:
    local = moment.astimezone(when.tz)
    parts: Sequence[tuple[int, set[int]]] = (
        (local.minute, when.minute),
        (local.hour, when.hour),
        (local.isoweekday() % 7, when.day_of_week),
        (local.day, when.day_of_month),
        (local.month, when.month_of_year),
    )
    return all(part in allowed for part, allowed in parts)
