"""What ran, when and how late, and what runs next: queries, no views."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, reduce
from itertools import accumulate
from operator import itemgetter, or_
from typing import Any

from celery import current_app, states
from cron_descriptor import (
    FormatException,
    MissingFieldException,
    Options,
    WrongArgumentException,
    get_description,
)
from django.conf import settings
from django.db.models import CharField, F, Max, Min, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Cast, Coalesce
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from kombu.utils.imports import symbol_by_name

from scheduling.due import (
    EPOCH,
    TIMING_KEYS,
    TIMINGS,
    Timing,
    catch_up,
    columns,
    first_due,
    next_due,
    schedule_of,
)
from scheduling.models import Heartbeat, Run
from scheduling.schedule import describe
from scheduling.scheduler import DatabaseScheduler

DAY_OF_24_HOURS = Options()
DAY_OF_24_HOURS.use_24hour_time_format = True
SINCE = Coalesce("last_run_at", "date_changed")  # from when on a row counts
# The columns of all timings, as `due.read_timings` reads them, and where those of each are.
COLUMNS = [(name, column) for name in TIMINGS for column in columns(name)]
READ = [
    Cast(f"{name}__{column}", CharField()) if column == "timezone" else F(f"{name}__{column}")
    for name, column in COLUMNS
]
ENDS = list(accumulate(len(columns(name)) for name in TIMINGS))
SLICES = list(zip(TIMINGS, [0, *ENDS], ENDS, strict=False))


def late_after() -> timedelta:
    """How late a run may be sent or started; beyond it is overdue or late."""
    return timedelta(seconds=getattr(settings, "LATE_AFTER", 60))


def is_late(run: Run) -> bool:
    return run.late is not None and run.late > late_after()


# What ran


def runs() -> QuerySet[Run]:
    """All runs, without what is long: arguments, results and tracebacks."""
    wanted = ("task_id", "status", "date_started", "date_done", "worker")
    return Run.objects.select_related("result").only(
        "schedule", "scheduled_for", "queued_at", "retries", *(f"result__{name}" for name in wanted)
    )


def last_runs(names: Collection[str], count: int) -> dict[str, list[Run]]:
    """The last runs of each of some schedules, newest first. Two queries for all of them."""
    newest_first = Run.objects.filter(schedule=OuterRef("name")).order_by("-scheduled_for")
    oldest = Subquery(newest_first.values("scheduled_for")[count - 1 : count])
    rows = PeriodicTask.objects.filter(name__in=names).order_by().values_list("name", oldest)
    # Each part is a look into the index; a window function would read all runs.
    parts = [Q(schedule=name, scheduled_for__gte=since or EPOCH) for name, since in rows]
    found: dict[str, list[Run]] = defaultdict(list)
    if parts:
        for run in runs().filter(reduce(or_, parts)).order_by("-scheduled_for", "-queued_at"):
            found[run.schedule].append(run)
    return {name: found[name][:count] for name in names}


def heartbeats() -> dict[str, datetime]:
    """When each beat of the last day ticked last, by host and process, the latest first."""
    recent = Heartbeat.objects.filter(ticked_at__gt=timezone.now() - timedelta(days=1))
    return dict(recent.order_by("-ticked_at").values_list("beat", "ticked_at"))


# Whether the schedules are kept

FAILED = (states.FAILURE, states.REVOKED)  # the last is what expired before a worker took it
FINISHED = (states.SUCCESS, *FAILED)
ENDED = Q(Q(one_off=True) | Q(clocked__isnull=False), total_run_count__gt=0)  # it ran, once


def has_heartbeat() -> bool:
    """Whether the scheduler that is set is this app's: others have none."""
    return issubclass(symbol_by_name(current_app.conf.beat_scheduler), DatabaseScheduler)


def last_heartbeat() -> datetime | None:
    """When a beat ticked last, however long ago; None if none ever has."""
    ticked_at: datetime | None = Heartbeat.objects.aggregate(last=Max("ticked_at"))["last"]
    return ticked_at


def failing() -> dict[str, datetime]:
    """The enabled schedules whose last runs all failed, and when the last one did, by name.

    The setting ``HEALTH_FAILING_AFTER`` says how many runs. One query, which looks at the runs of
    those schedules only that have failed within the history.
    """
    count = getattr(settings, "HEALTH_FAILING_AFTER", 2)
    finished = Run.objects.filter(schedule=OuterRef("name"), result__status__in=FINISHED)
    newest_first = finished.order_by("-scheduled_for")
    succeeded = newest_first.filter(result__status=states.SUCCESS)
    has_failed = Run.objects.filter(result__status__in=FAILED).values("schedule")
    rows = PeriodicTask.objects.filter(enabled=True, name__in=has_failed).annotate(
        oldest=Subquery(newest_first.values("scheduled_for")[count - 1 : count]),
        good=Coalesce(Subquery(succeeded.values("scheduled_for")[:1]), EPOCH),
        failed_at=Subquery(newest_first.values("result__date_done")[:1]),
    )
    bad = rows.filter(oldest__gt=F("good")).order_by("name")
    return dict(bad.values_list("name", "failed_at"))


def paused() -> QuerySet[PeriodicTask]:
    """The schedules that are disabled, without those that have run once and are done."""
    rows: QuerySet[PeriodicTask] = PeriodicTask.objects.filter(enabled=False).exclude(ENDED)
    return rows.order_by("name")


# What runs next


def upcoming(row: PeriodicTask, now: datetime) -> Iterator[datetime]:
    """When a row is due, were it enabled: first what beat has not sent yet, then what comes.

    Raises what Celery raises for a schedule that cannot work.
    """
    when = schedule_of(timing_of(row))
    counts_from = row.last_run_at or row.date_changed or now
    due = first_due(when, row.last_run_at, counts_from, row.start_time)
    while due and not (row.expires and due >= row.expires):
        yield due
        if row.one_off or row.clocked_id:
            return
        due = next_due(when, max(due, now))


def overdue(now: datetime) -> dict[int, datetime]:
    """When the enabled rows were due that beat should have sent by now, by their keys.

    Of the rows with one timing, that which counts from the longest ago is due first: only if it
    is overdue are the others looked at. A query for the timings, and one for those rows.
    """
    enabled = PeriodicTask.objects.filter(enabled=True).order_by()
    suspects: dict[str, dict[int, Timing]] = defaultdict(dict)
    for *read, oldest in enabled.values_list(*TIMING_KEYS, *READ).annotate(oldest=Min(SINCE)):
        keys, timing = read[: len(TIMINGS)], _timing(read[len(TIMINGS) :])
        if timing and _overdue_since(timing, None, oldest, None, now):
            suspects[timing[0]].update((key, timing) for key in keys if key)
    if not suspects:
        return {}
    where = (Q(**{f"{name}__in": list(found)}) for name, found in suspects.items())
    wanted = ("pk", "name", *TIMING_KEYS, "last_run_at", "date_changed", "start_time", "expires")
    found: dict[int, datetime] = {}
    for row in enabled.filter(reduce(or_, where)).values_list(*wanted, named=True):
        timing = next(
            suspects[name][key]
            for name, key in zip(TIMINGS, (getattr(row, key) for key in TIMING_KEYS), strict=True)
            if key
        )
        since = row.last_run_at or row.date_changed
        due = _overdue_since(timing, row.last_run_at, since, row.start_time, now)
        if due and not (row.expires and due >= row.expires):
            found[row.pk] = due
    return dict(sorted(found.items(), key=itemgetter(1)))


def _overdue_since(
    timing: Timing,
    last_run_at: datetime | None,
    since: datetime,
    start_time: datetime | None,
    now: datetime,
) -> datetime | None:
    """When a run was due that beat is still to send; None for what it would skip, and bad rows."""
    try:
        due = first_due(schedule_of(timing), last_run_at, since, start_time)
        due = due and made_up(timing, due, now)
    except Exception:  # beat logs it, and the row's page says it
        return None
    return due if due and due < now - late_after() else None


def made_up(timing: Timing, due: datetime, now: datetime) -> datetime | None:
    """The run that beat sends in place of one that was missed: as ``Heap.push``."""
    deadline = current_app.conf.beat_cron_starting_deadline
    if deadline is None:
        return due
    return catch_up(schedule_of(timing), due, now - timedelta(seconds=deadline))


def _timing(values: Sequence[Any]) -> Timing | None:
    """What says when, of the columns of a row's timings; None unless it is exactly one."""
    given = [
        (name, tuple(values[start:end])) for name, start, end in SLICES if values[start] is not None
    ]
    return given[0] if len(given) == 1 else None


def timing_of(row: PeriodicTask) -> Timing:
    """What says when a row runs. Raises ``ValueError`` unless it is exactly one."""
    given = [(name, getattr(row, name)) for name in TIMINGS if getattr(row, f"{name}_id")]
    if len(given) != 1:
        raise ValueError("it has no schedule, or several")
    name, timing = given[0]
    values = ((column, getattr(timing, column)) for column in columns(name))
    return name, tuple(str(value) if column == "timezone" else value for column, value in values)


# For people


@dataclass
class Overview:
    """What is known of a schedule at a moment."""

    row: PeriodicTask
    runs: list[Run]  # the last ones, newest first
    due: datetime | None = None  # its next run; in the past while beat is still to send it
    missed: datetime | None = None  # a run that was skipped, as beat was away for too long
    is_overdue: bool = False
    problem: str = ""  # why it cannot run

    @property
    def waits_since(self) -> datetime | None:
        """When its last run was sent, if no worker has taken it up yet."""
        sent: datetime | None = self.row.last_run_at
        known = [run.queued_at for run in self.runs if run.queued_at]
        return sent if sent and (not known or max(known) < sent) else None


def overview(rows: Iterable[PeriodicTask], now: datetime, count: int = 20) -> list[Overview]:
    """What is known of some rows, with their last runs: two queries for all of them."""
    rows = list(rows)
    found = last_runs([row.name for row in rows], count)
    return [view_of(row, found[row.name], now) for row in rows]


def view_of(row: PeriodicTask, its_runs: list[Run], now: datetime) -> Overview:
    """What is known of a row, given its last runs."""
    view = Overview(row, its_runs)
    try:
        timing, due = timing_of(row), next(upcoming(row, now), None)
        view.due = due and made_up(timing, due, now)
        if due != view.due and row.enabled:
            view.missed = due
    except Exception as error:  # whatever libraries raise for what people have stored
        view.problem = f"{type(error).__name__}: {error}"
    view.is_overdue = bool(row.enabled and view.due and view.due < now - late_after())
    return view


def in_words(row: PeriodicTask) -> str:
    """When a row runs, such as "every 10 minutes" or "at 03:00, Europe/Berlin"."""
    if not (crontab := row.crontab):
        timing = row.interval or row.solar or row.clocked
        return describe(timing) if timing else "never"
    parts = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    text = _crontab_in_words(" ".join(getattr(crontab, part).replace(" ", "") for part in parts))
    return f"{text}, {crontab.timezone}"


@lru_cache(maxsize=4096)  # the library reads its translations anew each time, half a millisecond
def _crontab_in_words(text: str) -> str:
    with suppress(FormatException, MissingFieldException, WrongArgumentException):
        text = get_description(text, DAY_OF_24_HOURS)
    return text[:1].lower() + text[1:]
