"""Schedule: one periodic task, declared in code."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from celery import Task
from celery.schedules import crontab, solar
from django.conf import settings
from django.db.models import Model
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    SolarSchedule,
)


@dataclass(frozen=True)
class Schedule:
    """A task and when it runs, as an app's ``schedules.py`` declares it.

    ``name`` is unique in the service. ``task`` is a Celery task or its dotted name. ``when`` is
    a ``timedelta`` of whole seconds (every so often), a ``crontab`` or ``solar`` of Celery's, or
    an aware ``datetime`` (once). ``timezone``, for crontabs, is ``CELERY_TIMEZONE`` by default.
    Raises ``TypeError`` or ``ValueError`` where ``when`` cannot be stored.
    """

    name: str
    task: "Task[..., Any] | str"
    when: timedelta | crontab | solar | datetime
    _: KW_ONLY
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    timezone: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        self.timing()

    def fields(self) -> dict[str, Any]:
        """The columns of django-celery-beat's ``PeriodicTask``, its schedule left out."""
        return {
            "name": self.name,
            "task": self.task if isinstance(self.task, str) else self.task.name,
            "args": json.dumps(list(self.args)),
            "kwargs": json.dumps(dict(self.kwargs)),
            "one_off": isinstance(self.when, datetime),
            "description": self.description,
        }

    def timing(self) -> tuple[str, type[Model], dict[str, Any]]:
        """Where "when" is stored: the foreign key of ``PeriodicTask``, its model, the columns."""
        match self.when:
            case timedelta():
                return "interval", IntervalSchedule, self._interval(self.when)
            case crontab():
                return "crontab", CrontabSchedule, self._crontab(self.when)
            case solar():
                place = {"latitude": self.when.lat, "longitude": self.when.lon}
                return "solar", SolarSchedule, {"event": self.when.event, **place}
            case datetime() if self.when.tzinfo:
                return "clocked", ClockedSchedule, {"clocked_time": self.when}
            case datetime():
                raise ValueError(f"Schedule {self.name!r}: {self.when} has no time zone; add one")
            case _:
                raise TypeError(
                    f"Schedule {self.name!r}: {self.when!r} is no timedelta, crontab, solar or "
                    "datetime"
                )

    def _interval(self, when: timedelta) -> dict[str, Any]:
        seconds, fraction = divmod(when, timedelta(seconds=1))
        if seconds < 1 or fraction:
            raise ValueError(
                f"Schedule {self.name!r}: {when} is no interval; take a whole number of seconds, "
                "at least 1"
            )
        periods = ("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1)
        period, length = next((name, size) for name, size in periods if seconds % size == 0)
        return {"every": seconds // length, "period": period}

    def _crontab(self, when: crontab) -> dict[str, Any]:
        parts = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
        columns = {part: str(getattr(when, f"_orig_{part}")) for part in parts}
        return {**columns, "timezone": self.timezone or settings.CELERY_TIMEZONE}
