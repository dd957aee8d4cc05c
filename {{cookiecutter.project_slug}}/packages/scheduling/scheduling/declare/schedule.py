"""Schedule: one periodic task, declared in code."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NoReturn
from zoneinfo import ZoneInfo, available_timezones

from celery import Task, current_app
from celery.schedules import ParseException, crontab, solar
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    SolarSchedule,
)

from scheduling.messages import check_destination, load_json
from scheduling.timing import Timing, describe, next_due, whole_period

LONGEST = 2**31 - 1  # seconds: the largest value of an integer column
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Schedule:
    """A task and when it runs, declared in an app's ``schedules.py``.

    - ``name`` is unique in the service.
    - ``task`` is a Celery task or its dotted name.
    - ``when`` is a ``timedelta`` of whole seconds, Celery's ``crontab`` or ``solar``, or an aware
      ``datetime`` for a single run.
    - ``timezone`` is for crontabs only. The default is ``CELERY_TIMEZONE``.
    - ``expires`` is how long a run may wait for a worker. By default it waits until the next run
      is due, for an hour at most; a single run waits without limit. ``None`` sets no limit.
    - ``enabled`` is the initial state. After the first seeding, operators pause and resume.
    - ``renamed_from`` is the name at the last seeding, if it was another one.

    Raises ``TypeError`` or ``ValueError``, naming the schedule, for values that cannot work.
    """

    name: str
    task: "Task[..., Any] | str"
    when: timedelta | crontab | solar | datetime
    _: KW_ONLY
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    timezone: str = ""
    queue: str | None = None
    priority: int | None = None
    expires: timedelta | Literal["period"] | None = "period"
    enabled: bool = True
    description: str = ""
    renamed_from: str = ""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; the database returns all others unchanged."""
        if not 0 < len(self.name) <= 200 or self.name != self.name.strip():
            self._refuse("write a name of 1 to 200 characters, without spaces around it")
        if not isinstance(self.task, str | Task):
            self._refuse(f"{self.task!r} is not a task; decorate it with @shared_task", TypeError)
        if not 0 < len(self.task_name) <= 200:
            self._refuse("write a task name of 1 to 200 characters")
        if self.queue and len(self.queue) > 200:
            self._refuse("write a queue name of at most 200 characters")
        try:
            check_destination(self.queue or "")
        except ValueError as error:
            self._refuse(f"queue {error}")
        if self.priority is not None and self.priority not in range(256):
            self._refuse(f"priority {self.priority!r} is not a whole number from 0 to 255")
        if isinstance(self.expires, timedelta):
            self._check_duration("expires", self.expires)
        elif self.expires not in ("period", None):
            self._refuse(
                f"expires {self.expires!r} is not a timedelta; use a timedelta or None", TypeError
            )
        if self.timezone and not isinstance(self.when, crontab):
            self._refuse("only a crontab takes a timezone; leave it out")
        if self.timezone and self.timezone not in available_timezones():
            self._refuse(
                f"{self.timezone!r} is not a time zone; use an IANA name, such as Europe/Berlin"
            )
        self._check_when()
        self._check_arguments("args", Sequence, list)
        self._check_arguments("kwargs", Mapping, dict)

    @property
    def task_name(self) -> str:
        return self.task if isinstance(self.task, str) else self.task.name

    @cached_property
    def values(self) -> dict[str, Any]:
        """The declared fields, in the form of ``sync.plan.stored_values``."""
        return {
            "name": self.name,
            "task": self.task_name,
            "when": describe(self.timing()),
            "args": canonical(list(self.args)),
            "kwargs": canonical(dict(self.kwargs)),
            "queue": self.queue or None,
            "priority": self.priority,
            "expires": self._expire_seconds(),
            "one_off": isinstance(self.when, datetime),
            "description": self.description,
            "enabled": self.enabled,
        }

    def timing(self) -> Any:
        """A new, unsaved row of django-celery-beat's table for this kind of timing."""
        match self.when:
            case timedelta():
                return IntervalSchedule(**whole_period(self.when // timedelta(microseconds=1)))
            case crontab():
                zone = self.timezone or str(self.when.tz)
                return CrontabSchedule(**_crontab_columns(self.when), timezone=zone)
            case solar():
                return SolarSchedule(
                    event=self.when.event,
                    latitude=round(Decimal(str(self.when.lat)), 6),
                    longitude=round(Decimal(str(self.when.lon)), 6),
                )
            case datetime():
                return ClockedSchedule(clocked_time=self.when)

    def times(self, after: datetime, count: int) -> list[datetime]:
        """The next ``count`` times, after a moment, at which it is due. Reads no database.

        They are in the crontab's time zone, else in ``CELERY_TIMEZONE``. An interval counts from
        ``after``, as from a run then. A single run has one time, or none. Raises ``ValueError`` if
        ``after`` has no time zone, and for what never comes.
        """
        if after.tzinfo is None:
            raise ValueError(f"{after} has no time zone; add one, such as tzinfo=UTC")
        if isinstance(self.when, datetime):
            found = [self.when] if self.when > after and count > 0 else []
        else:
            timing, found = Timing.of_timing(self.timing()), []
            for _ in range(count):
                found.append(next_due(timing, found[-1] if found else after))
        zone = ZoneInfo(self.timezone or str(current_app.timezone))
        if isinstance(self.when, crontab):
            zone = ZoneInfo(self.timezone or str(self.when.tz))
        return [due.astimezone(zone) for due in found]

    def _refuse(self, reason: str, error: type[Exception] = ValueError) -> NoReturn:
        raise error(f"Schedule {self.name!r}: {reason}")

    def _check_duration(self, what: str, duration: timedelta) -> None:
        seconds, fraction = divmod(duration, timedelta(seconds=1))
        if fraction or not 1 <= seconds <= LONGEST:
            self._refuse(f"{what} {duration} is not a whole number of seconds from 1 to {LONGEST}")

    def _check_when(self) -> None:
        match self.when:
            case timedelta():
                self._check_duration("interval", self.when)
            case crontab():
                self._check_crontab(self.when)
            case datetime(tzinfo=None):
                self._refuse(f"{self.when} has no time zone; add one, such as tzinfo=UTC")
            case solar() | datetime():
                pass
            case _:
                self._refuse(
                    f"{self.when!r} is not a timedelta, crontab, solar or datetime; use one",
                    TypeError,
                )

    def _check_crontab(self, when: crontab) -> None:
        """Refuse a crontab whose text means something else, or does not fit.

        Celery itself refuses numbers out of range, and 30 February.
        """
        columns = _crontab_columns(when)
        for part, text in columns.items():
            if len(text) > CrontabSchedule._meta.get_field(part).max_length:
                self._refuse(f"{part} is too long for its column; use ranges, such as 1-5")
        try:
            is_same = _numbers(crontab(**columns)) == _numbers(when)
        except (ValueError, ParseException):
            is_same = False
        if not is_same:
            self._refuse(
                f"crontab {columns} never runs; give each part a whole number, a list of whole "
                "numbers, or cron's text"
            )

    def _check_arguments(self, what: str, kind: type, json_kind: Callable[[Any], Any]) -> None:
        value = getattr(self, what)
        if not isinstance(value, kind) or isinstance(value, str | bytes):
            name = json_kind.__name__
            self._refuse(f"{what} {value!r} is not a {name}; use a {name}", TypeError)
        try:
            is_same = load_json(canonical(json_kind(value))) == json_kind(value)
        except (TypeError, ValueError) as error:
            self._refuse(
                f"{what} {value!r} is not JSON: {error}; use text, numbers, True, False, None, "
                "lists and dicts"
            )
        if not is_same:
            self._refuse(f"{what} {value!r} is not JSON; use lists, and text as keys")

    def _expire_seconds(self) -> int | None:
        expires = self.expires
        if expires == "period":
            match self.when:
                case timedelta():
                    expires = min(self.when, HOUR)
                case crontab():
                    expires = _shortest_gap(self.when)
                case solar():
                    expires = HOUR
                case datetime():
                    expires = None
        return None if expires is None else expires // timedelta(seconds=1)


def canonical(value: Any) -> str:
    """The one JSON text for a value. Raises ``TypeError`` or ``ValueError`` if there is none."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _numbers(when: crontab) -> dict[str, set[int]]:
    parts = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    return {part: getattr(when, part) for part in parts}


def _crontab_columns(when: crontab) -> dict[str, str]:
    columns = {}
    for part, numbers in _numbers(when).items():
        given = getattr(when, f"_orig_{part}")  # cron's text, a number or several numbers
        columns[part] = given if isinstance(given, str) else ",".join(map(str, sorted(numbers)))
    return columns


def _shortest_gap(when: crontab) -> timedelta:
    """The shortest time between two runs; an hour at most."""
    minutes, hours = sorted(_numbers(when)["minute"]), _numbers(when)["hour"]
    gaps = [60, *(later - earlier for earlier, later in pairwise(minutes))]
    if any((hour + 1) % 24 in hours for hour in hours):
        gaps.append(60 - minutes[-1] + minutes[0])
    return timedelta(minutes=min(gaps))
