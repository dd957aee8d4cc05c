"""Schedule: one periodic task, declared in code."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NoReturn
from zoneinfo import available_timezones

from celery import Task
from celery.schedules import ParseException, crontab, solar
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    SolarSchedule,
)

PERIODS = {  # django-celery-beat's, in microseconds
    "days": 86_400_000_000,
    "hours": 3_600_000_000,
    "minutes": 60_000_000,
    "seconds": 1_000_000,
    "microseconds": 1,
}
LONGEST = 2**31 - 1  # seconds: an integer column holds no more
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Schedule:
    """A task and when it runs, as an app's ``schedules.py`` declares it.

    ``name`` is unique in the service. ``task`` is a Celery task or its dotted name. ``when`` is
    a ``timedelta`` of whole seconds (every so often), a ``crontab`` or ``solar`` of Celery's, or
    an aware ``datetime`` (once). ``timezone``, for crontabs, is ``CELERY_TIMEZONE`` by default.
    ``expires`` is how long a run may wait for a worker: by default until the next run, an hour at
    most, and for ever if it comes once; ``None`` is for ever. ``enabled`` is how it starts; from
    then on that is the operator's. ``renamed_from`` is its name when it was last seeded.

    Raises ``TypeError`` or ``ValueError``, naming the schedule, for what cannot work.
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
        """Refuse what cannot work; what passes is stored and read back as it is."""
        if not 0 < len(self.name) <= 200 or self.name != self.name.strip():
            self._refuse("write a name of 1 to 200 characters, without space around it")
        if not isinstance(self.task, str | Task):
            self._refuse(f"{self.task!r} is no task; decorate it with @shared_task", TypeError)
        if not 0 < len(self.task_name) <= 200:
            self._refuse("write a task name of 1 to 200 characters")
        if self.queue and len(self.queue) > 200:
            self._refuse("write a queue name of at most 200 characters")
        if self.priority is not None and self.priority not in range(256):
            self._refuse(f"priority {self.priority!r} is no whole number from 0 to 255")
        if isinstance(self.expires, timedelta):
            self._refuse_duration("expires", self.expires)
        elif self.expires not in ("period", None):
            self._refuse(f"expires {self.expires!r} is no timedelta; take one or None", TypeError)
        if self.timezone and not isinstance(self.when, crontab):
            self._refuse("only a crontab has a timezone; leave it out")
        if self.timezone and self.timezone not in available_timezones():
            self._refuse(
                f"{self.timezone!r} is no time zone; take an IANA name, such as Europe/Berlin"
            )
        self._refuse_when()
        self._refuse_arguments("args", Sequence, list)
        self._refuse_arguments("kwargs", Mapping, dict)

    @property
    def task_name(self) -> str:
        return self.task if isinstance(self.task, str) else self.task.name

    @cached_property
    def values(self) -> dict[str, Any]:
        """What is declared, field by field, in the form of ``seed.stored_values``."""
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
        """The row, not saved, of the table of django-celery-beat's that says when."""
        match self.when:
            case timedelta():
                return IntervalSchedule(**_every(self.when // timedelta(microseconds=1)))
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

    def _refuse(self, reason: str, error: type[Exception] = ValueError) -> NoReturn:
        raise error(f"Schedule {self.name!r}: {reason}")

    def _refuse_duration(self, what: str, duration: timedelta) -> None:
        seconds, fraction = divmod(duration, timedelta(seconds=1))
        if fraction or not 1 <= seconds <= LONGEST:
            self._refuse(f"{what} {duration} is no whole number of seconds from 1 to {LONGEST}")

    def _refuse_when(self) -> None:
        match self.when:
            case timedelta():
                self._refuse_duration("interval", self.when)
            case crontab():  # Celery itself has refused numbers out of range, and 30 February
                columns = _crontab_columns(self.when)
                for part, text in columns.items():
                    if len(text) > CrontabSchedule._meta.get_field(part).max_length:
                        self._refuse(f"{part} is too long for its column; write it with ranges")
                try:
                    comes = _numbers(crontab(**columns)) == _numbers(self.when)
                except (ValueError, ParseException):
                    comes = False
                if not comes:
                    self._refuse(
                        f"crontab {columns} never comes; give each part a whole number, a list of "
                        "them, or cron's text"
                    )
            case datetime(tzinfo=None):
                self._refuse(f"{self.when} has no time zone; add one, such as tzinfo=UTC")
            case solar() | datetime():
                pass
            case _:
                self._refuse(
                    f"{self.when!r} is no timedelta, crontab, solar or datetime", TypeError
                )

    def _refuse_arguments(self, what: str, kind: type, json_kind: Callable[[Any], Any]) -> None:
        value = getattr(self, what)
        if not isinstance(value, kind) or isinstance(value, str | bytes):
            self._refuse(f"{what} {value!r} is no {json_kind.__name__}; take one", TypeError)
        try:
            same = json.loads(canonical(json_kind(value))) == json_kind(value)
        except (TypeError, ValueError) as error:
            self._refuse(f"{what} {value!r} is not JSON: {error}")
        if not same:
            self._refuse(f"{what} {value!r} is not JSON: take lists, and text as keys")

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


def describe(timing: Any) -> str:
    """When, in words that are the same for all rows that say the same, saved or not."""
    match timing:
        case IntervalSchedule(period=period) if period in PERIODS:
            every = _every(timing.every * PERIODS[period])
            if every["every"] == 1:
                return f"every {every['period'].removesuffix('s')}"
            return f"every {every['every']} {every['period']}"
        case CrontabSchedule():
            parts = (
                timing.minute,
                timing.hour,
                timing.day_of_month,
                timing.month_of_year,
                timing.day_of_week,
            )
            return f"{' '.join(parts)} {timing.timezone}"
        case SolarSchedule():
            return f"{timing.event} at {timing.latitude:.6f}, {timing.longitude:.6f}"
        case ClockedSchedule():
            return f"once at {timing.clocked_time.astimezone(UTC)}"
        case _:
            return str(timing)


def _every(microseconds: int) -> dict[str, Any]:
    period = next(name for name, length in PERIODS.items() if microseconds % length == 0)
    return {"every": microseconds // PERIODS[period], "period": period}


def _numbers(when: crontab) -> dict[str, set[int]]:
    parts = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    return {part: getattr(when, part) for part in parts}


def _crontab_columns(when: crontab) -> dict[str, str]:
    columns = {}
    for part, numbers in _numbers(when).items():
        written = getattr(when, f"_orig_{part}")  # cron's text, or one or several numbers
        columns[part] = written if isinstance(written, str) else ",".join(map(str, sorted(numbers)))
    return columns


def _shortest_gap(when: crontab) -> timedelta:
    """Between two of its runs; an hour at most."""
    minutes, hours = sorted(_numbers(when)["minute"]), _numbers(when)["hour"]
    gaps = [60, *(later - earlier for earlier, later in pairwise(minutes))]
    if any((hour + 1) % 24 in hours for hour in hours):
        gaps.append(60 - minutes[-1] + minutes[0])
    return timedelta(minutes=min(gaps))


def canonical(value: Any) -> str:
    """The one JSON text for a value. Raises ``TypeError`` or ``ValueError`` if there is none."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
