"""The one rule for when a run is due. It asks Celery's schedules, with a fixed clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from celery import schedules
from django.db.models import CharField, F, Model
from django.db.models.functions import Cast
from django_celery_beat.clockedschedule import clocked
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)

from scheduling import database

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# PeriodicTask's foreign keys to what says when, and their models.
TIMINGS: dict[str, type[Model]] = {
    "interval": IntervalSchedule,
    "crontab": CrontabSchedule,
    "solar": SolarSchedule,
    "clocked": ClockedSchedule,
}
TIMING_KEYS = [f"{kind}_id" for kind in TIMINGS]
PERIODS = {  # django-celery-beat's, in microseconds
    "days": 86_400_000_000,
    "hours": 3_600_000_000,
    "minutes": 60_000_000,
    "seconds": 1_000_000,
    "microseconds": 1,
}


def columns(kind: str) -> list[str]:
    """The columns of a timing's table that say when."""
    return [field.name for field in TIMINGS[kind]._meta.concrete_fields if not field.primary_key]


def readable(column: str) -> Any:
    """A column to read. A time zone is read as text: Django raises at an unknown one."""
    return Cast(column, CharField()) if column.endswith("timezone") else F(column)


# Annotations that read all timings of a PeriodicTask, for ``Timing.from_values``.
TIMING_COLUMNS = {
    f"{kind}_{column}": readable(f"{kind}__{column}")
    for kind in TIMINGS
    for column in columns(kind)
}
NOT_ONE_TIMING = "it has no schedule, or several"


def only_one(given: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The kind of timing that has a value, and the value; None unless exactly one has."""
    found = [(kind, value) for kind, value in given.items() if value is not None]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class Timing:
    """What says when a row runs: a kind of TIMINGS, and the values of its columns."""

    kind: str
    values: tuple[Any, ...]

    @classmethod
    def of(cls, row: PeriodicTask) -> "Timing":
        """A row's timing. Raises ``ValueError`` unless it has exactly one."""
        found = only_one({kind: getattr(row, f"{kind}_id") for kind in TIMINGS})
        if found is None:
            raise ValueError(NOT_ONE_TIMING)
        kind, _ = found
        return cls.of_timing(getattr(row, kind))

    @classmethod
    def of_timing(cls, timing: Any) -> "Timing":
        """The same for a row of a timing's table, saved or not."""
        kind = next(kind for kind, model in TIMINGS.items() if isinstance(timing, model))
        values = {column: getattr(timing, column) for column in columns(kind)}
        if "timezone" in values:
            values["timezone"] = str(values["timezone"])
        return cls(kind, tuple(values.values()))

    @classmethod
    def from_values(cls, row: Mapping[str, Any]) -> "Timing | None":
        """The timing of a row that was read with TIMING_COLUMNS; None unless it has exactly one."""
        found = only_one({kind: row[f"{kind}_id"] for kind in TIMINGS})
        if found is None:
            return None
        kind, _ = found
        return cls(kind, tuple(row[f"{kind}_{column}"] for column in columns(kind)))


def read_timings(kind: str, **only: Any) -> dict[tuple[str, int], Timing]:
    """The rows of a timing's table, by kind and primary key.

    Without the order of the model's Meta, which costs seconds for 10,000 crontabs.
    """
    rows = TIMINGS[kind]._default_manager.using(database.alias()).filter(**only).order_by()
    read = [readable(column) for column in columns(kind)]
    return {
        (kind, key): Timing(kind, tuple(values)) for key, *values in rows.values_list("pk", *read)
    }


@lru_cache(maxsize=2**17)
def celery_schedule(timing: Timing) -> Any:
    """Celery's schedule for a timing. Equal timings are parsed once.

    Raises what Celery and django-celery-beat raise for what cannot work.
    """
    fields = dict(zip(columns(timing.kind), timing.values, strict=True))
    if "timezone" in fields:
        fields["timezone"] = ZoneInfo(fields["timezone"])
    found: Any = TIMINGS[timing.kind](**fields).schedule  # type: ignore[attr-defined]
    found.nowfun = lambda: EPOCH  # Celery asks it, and no argument can replace it
    return found


def next_due(timing: Timing, after: datetime) -> datetime:
    """The first due time after a moment, in UTC. Raises ``ValueError`` if there is none."""
    schedule = celery_schedule(timing)
    if isinstance(schedule, schedules.crontab):
        due = _next_minute(timing, after.replace(second=0, microsecond=0))
    elif isinstance(schedule, schedules.solar):
        due = _next_event(timing, after)
    else:
        due = EPOCH + schedule.remaining_estimate(after)
    if due <= after and not isinstance(schedule, clocked):
        raise ValueError(f"{schedule!r} never comes")
    return due


@lru_cache(maxsize=2**14)  # rows that share a crontab ask for the same minute
def _next_minute(timing: Timing, after: datetime) -> datetime:
    """The first minute after ``after`` at which a crontab comes.

    When clocks go back, Celery's wall-clock arithmetic leaves out the hour that comes twice, or
    answers with a time in the past. So a crontab of every hour goes on as if the clocks did not
    change; others run at the first of two equal times.
    """
    schedule = celery_schedule(timing)
    due: datetime = EPOCH + schedule.remaining_estimate(after)
    offset = after.astimezone(schedule.tz).utcoffset() or timedelta()
    every_hour = len(schedule.hour) == 24
    if due <= after or (every_hour and due.astimezone(schedule.tz).utcoffset() != offset):
        start, delta, _ = schedule.remaining_delta(after, timezone(offset))
        unchanged: datetime = (start + delta).astimezone(UTC)
        if due <= after or (unchanged < due and _comes_at(schedule, unchanged)):
            due = unchanged
    return due


def _comes_at(schedule: Any, moment: datetime) -> bool:
    local = moment.astimezone(schedule.tz)
    parts: Sequence[tuple[int, set[int]]] = (
        (local.minute, schedule.minute),
        (local.hour, schedule.hour),
        (local.isoweekday() % 7, schedule.day_of_week),
        (local.day, schedule.day_of_month),
        (local.month, schedule.month_of_year),
    )
    return all(part in allowed for part, allowed in parts)


@lru_cache(maxsize=2**14)  # each page asks for all rows
def _next_event(timing: Timing, after: datetime) -> datetime:
    """The sun's first event after a moment, found as Celery finds it, but in strides.

    Where the sun stays up or down for months, Celery's search, day by day, takes 25 to 150 ms. No
    such season comes back within 77 days of its end, so strides up to that find the end in 2 ms.
    """
    schedule = celery_schedule(timing)
    sky, longest = schedule.ephem, schedule.max_search_days
    observer = schedule.cal.copy()  # threads share the schedule
    start = sky.Date(after.astimezone(UTC))
    options = {"use_center": True} if schedule.use_center else {}

    def event_or_season(day: int) -> Any:
        """The event that follows a day; else the class of ephem's error, which says up or down."""
        try:
            return getattr(observer, schedule.method)(sky.Sun(), start=start + day, **options)
        except sky.CircumpolarError as error:
            return type(error)

    day, found = 0, event_or_season(0)
    while isinstance(found, type):
        if day > longest:  # at a pole: as Celery, which looks again then
            return after + timedelta(days=longest)
        for stride in (64, 16, 4, 1):
            while event_or_season(day + stride) is found:
                day += stride
        day += 1
        found = event_or_season(day)
    event: datetime = found.datetime().replace(tzinfo=UTC)
    return event


def catch_up(timing: Timing, due: datetime, oldest: datetime) -> datetime | None:
    """The first due time, from ``due`` on, that is not before ``oldest``; None if there is none."""
    if due >= oldest:
        return due
    schedule = celery_schedule(timing)
    if isinstance(schedule, clocked):
        return None
    if not isinstance(schedule, schedules.schedule):
        return next_due(timing, oldest - timedelta(microseconds=1))
    every: timedelta = schedule.run_every  # type: ignore[attr-defined]
    return due - (due - oldest) // every * every  # an interval stays in step


def count_due(timing: Timing, after: datetime, until: datetime, limit: int = 1_000) -> int:
    """How many due times lie after one moment and not after another, at most ``limit``."""
    schedule = celery_schedule(timing)
    if timing.kind == "interval":
        every: timedelta = schedule.run_every
        return min(max((until - after) // every, 0), limit)
    if isinstance(schedule, clocked):
        return 0
    count, due = 0, next_due(timing, after)
    while due <= until and count < limit:
        count, due = count + 1, next_due(timing, due)
    return count


def first_due(
    timing: Timing,
    last_run_at: datetime | None,
    since: datetime,
    start_time: datetime | None,
) -> datetime | None:
    """When a row is due next, which may be in the past; None for a clocked row that is done.

    The row counts from ``since``: its last run or, before its first, when it was saved. Somebody
    who writes "now" as a time saves it up to a minute later, and still means that time.
    """
    schedule = celery_schedule(timing)
    given = since if last_run_at else since - timedelta(minutes=1)
    if isinstance(schedule, clocked):
        return schedule.clocked_time if schedule.clocked_time > given else None
    is_interval = isinstance(schedule, schedules.schedule)
    if start_time and start_time > since and not is_interval:
        since = start_time - timedelta(microseconds=1)
    due = next_due(timing, since)
    return start_time if start_time and start_time > given and is_interval else due


def describe(row: Any) -> str:
    """When a timing's row runs. Rows that mean the same have the same text, saved or not."""
    match row:
        case IntervalSchedule(period=period) if period in PERIODS:
            every = whole_period(row.every * PERIODS[period])
            if every["every"] == 1:
                return f"every {every['period'].removesuffix('s')}"
            return f"every {every['every']} {every['period']}"
        case CrontabSchedule():
            parts = (row.minute, row.hour, row.day_of_month, row.month_of_year, row.day_of_week)
            return f"{' '.join(parts)} {row.timezone}"
        case SolarSchedule():
            return f"{row.event} at {row.latitude:.6f}, {row.longitude:.6f}"
        case ClockedSchedule():
            return f"once at {row.clocked_time.astimezone(UTC)}"
        case _:
            return str(row)


def whole_period(microseconds: int) -> dict[str, Any]:
    """``every`` and ``period`` of an IntervalSchedule, in the longest period that is whole."""
    period = next(name for name, length in PERIODS.items() if microseconds % length == 0)
    return {"every": microseconds // PERIODS[period], "period": period}
