"""What ran, when and how late, and what runs next: queries, no views."""

import json
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
from django.db.models import CharField, Count, F, Max, Min, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Cast, Coalesce
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_results.models import TaskResult
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
TIMES = {
    f"{name}_{column}": (
        Cast(f"{name}__{column}", CharField()) if column == "timezone" else F(f"{name}__{column}")
    )
    for name, column in COLUMNS
}
READ = list(TIMES.values())
ENDS = list(accumulate(len(columns(name)) for name in TIMINGS))
SLICES = list(zip(TIMINGS, [0, *ENDS], ENDS, strict=False))


def late_after() -> timedelta:
    """How late a run may be sent or started; beyond it is overdue or late."""
    return timedelta(seconds=getattr(settings, "LATE_AFTER", 60))


def kept() -> timedelta:
    """For how long the history is kept."""
    return timedelta(days=getattr(settings, "RUN_HISTORY_DAYS", 14))


# How a run went, in one word that pictures, filters and style sheets share.
KINDS = {
    "succeeded": "succeeded",
    "late": "succeeded, but started late",
    "failed": "failed",
    "running": "is running",
    "retrying": "waits to be tried again",
    "revoked": "was not started: it had expired or was revoked",
}
STATES = {"FAILURE": "failed", "RETRY": "retrying", "REVOKED": "revoked"}


@dataclass(frozen=True, slots=True)
class Ran:
    """A run, as the history has it."""

    pk: int  # of its result
    task_id: str
    schedule: str
    scheduled_for: datetime  # when it was due
    queued_at: datetime | None
    started_at: datetime | None  # of its first try; None if it never was
    finished_at: datetime | None  # None while it goes on
    state: str  # Celery's: STARTED, SUCCESS, FAILURE, RETRY or REVOKED
    retries: int
    worker: str
    kind: str  # one of ``KINDS``

    @property
    def late(self) -> timedelta | None:
        """From when it was due until it was started; not less, where clocks differ."""
        return max(self.started_at - self.scheduled_for, timedelta()) if self.started_at else None

    @property
    def took(self) -> timedelta | None:
        """From its first start until it was done, retries and the waiting for them included."""
        if not self.started_at or not self.finished_at:
            return None
        return self.finished_at - self.started_at


def read(runs: QuerySet[Run]) -> Iterator[Ran]:
    """Runs without what is long: arguments, results and tracebacks."""
    limit = late_after()
    times = ("scheduled_for", "queued_at", "started_at", "finished_at")
    columns = ("pk", "result__task_id", "schedule", *times, "retries")
    for (
        key,
        task_id,
        name,
        due,
        queued,
        started,
        finished,
        retries,
        state,
        worker,
    ) in runs.values_list(*columns, "result__status", "result__worker"):
        kind = STATES.get(state, "running")
        if state == "SUCCESS":
            kind = "late" if started and started - due > limit else "succeeded"
        times_of = (due, queued, started, finished)
        yield Ran(key, task_id, name, *times_of, state, retries, worker or "", kind)


def last_runs(names: Collection[str], count: int) -> dict[str, list[Ran]]:
    """The last runs of each of some schedules, newest first. Two queries for all of them."""
    newest_first = Run.objects.filter(schedule=OuterRef("name")).order_by("-scheduled_for")
    oldest = Subquery(newest_first.values("scheduled_for")[count - 1 : count])
    rows = PeriodicTask.objects.filter(name__in=names).order_by().values_list("name", oldest)
    # Each part is a look into the index; a window function would read all runs.
    parts = [Q(schedule=name, scheduled_for__gte=since or EPOCH) for name, since in rows]
    found: dict[str, list[Ran]] = defaultdict(list)
    if parts:
        newest = Run.objects.filter(reduce(or_, parts)).order_by("-scheduled_for", "-queued_at")
        for run in read(newest):
            found[run.schedule].append(run)
    return {name: found[name][:count] for name in names}


def runs_since(names: Collection[str], start: datetime, most: int) -> dict[str, list[Ran]]:
    """The runs of some schedules that were due since a moment, newest first: ``most`` of all."""
    found: dict[str, list[Ran]] = defaultdict(list)
    recent = Run.objects.filter(schedule__in=names, scheduled_for__gte=start)
    for run in read(recent.order_by("-scheduled_for")[:most]):
        found[run.schedule].append(run)
    return found


def rename(old: str, new: str) -> None:
    """Let the runs of a schedule follow it to another name."""
    TaskResult.objects.filter(periodic_task_name=old).update(periodic_task_name=new)
    Run.objects.filter(schedule=old).update(schedule=new)


def errors(runs: Iterable[Ran]) -> dict[str, str]:
    """What went wrong with the runs that failed, in one line each, by task ids. One query."""
    failed = [run.pk for run in runs if run.kind in ("failed", "retrying")]
    stored = TaskResult.objects.filter(pk__in=failed).values_list("task_id", "result")
    return {task_id: _error(text) for task_id, text in stored}


def _error(text: str | None) -> str:
    """Of a stored exception, as Celery encodes it."""
    with suppress(ValueError, TypeError, KeyError):
        error = json.loads(text or "")
        message = error["exc_message"]
        words = " ".join(map(str, message)) if isinstance(message, list) else str(message)
        return f"{error['exc_type']}: {words}"
    return text or ""


def heartbeats() -> dict[str, datetime]:
    """When each beat of the last day ticked last, by host and process, the latest first."""
    recent = Heartbeat.objects.filter(ticked_at__gt=timezone.now() - timedelta(days=1))
    return dict(recent.order_by("-ticked_at").values_list("beat", "ticked_at"))


# Whether the schedules are kept

FAILED = (states.FAILURE, states.REVOKED)  # the last is what expired before a worker took it
FINISHED = (states.SUCCESS, *FAILED)
ENDED = Q(Q(one_off=True) | Q(clocked__isnull=False), total_run_count__gt=0)  # it ran, once
PAUSED = Q(enabled=False) & ~ENDED


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
        failed_at=Subquery(newest_first.values("finished_at")[:1]),
    )
    bad = rows.filter(oldest__gt=F("good")).order_by("name")
    return dict(bad.values_list("name", "failed_at"))


def paused() -> QuerySet[PeriodicTask]:
    """The schedules that are disabled, without those that have run once and are done."""
    rows: QuerySet[PeriodicTask] = PeriodicTask.objects.filter(PAUSED)
    return rows.order_by("name")


# What runs next


def upcoming(row: PeriodicTask, now: datetime) -> Iterator[datetime]:
    """When a row is due, were it enabled: first what beat has not sent yet, then what comes.

    Raises what Celery raises for a schedule that cannot work.
    """
    timing = timing_of(row)
    due, _ = _next(timing, row, now)
    while due and not (row.expires and due >= row.expires):
        yield due
        if row.one_off or row.clocked_id:
            return
        due = next_due(schedule_of(timing), max(due, now))


def overdue(now: datetime) -> dict[int, datetime]:
    """When the enabled rows were due that beat should have sent by now, by their keys.

    Of the rows with one timing, that which counts from the longest ago is due first, unless
    another says when it starts: only if that may be overdue are they looked at. A query for the
    timings, and one for those rows.
    """
    latest, enabled = now - late_after(), PeriodicTask.objects.filter(enabled=True).order_by()
    starts = Q(start_time__lt=latest) & Q(Q(last_run_at=None) | Q(start_time__gt=F("last_run_at")))
    groups = enabled.values_list(*TIMING_KEYS, *READ).annotate(
        oldest=Min(SINCE), starting=Count("pk", filter=starts)
    )
    suspects: dict[str, set[int]] = defaultdict(set)
    for *read, oldest, starting in groups:
        keys, timing = read[: len(TIMINGS)], _timing(read[len(TIMINGS) :])
        with suppress(Exception):  # whatever people have stored: its page says what is wrong
            due = timing and first_due(schedule_of(timing), None, oldest, None)
            if timing and (starting or (due and due < latest)):
                suspects[timing[0]].update(key for key in keys if key)
    if not suspects:
        return {}
    where = reduce(or_, (Q(**{f"{name}__in": keys}) for name, keys in suspects.items()))
    wanted = ("pk", "last_run_at", "date_changed", "start_time", "expires")
    found: dict[int, datetime] = {}
    for row in enabled.filter(where).annotate(**TIMES).values_list(*wanted, *TIMES, named=True):
        with suppress(Exception):
            timing = _timing(row[len(wanted) :])
            due = timing and _next(timing, row, now)[0]
            if due and due < latest:
                found[row.pk] = due
    return dict(sorted(found.items(), key=itemgetter(1)))


def _next(timing: Timing, row: Any, now: datetime) -> tuple[datetime | None, datetime | None]:
    """When a row is due, in the past if beat is still to send it; and what beat skips, as it was
    missed for too long: as ``Heap.push``."""
    when, deadline = schedule_of(timing), current_app.conf.beat_cron_starting_deadline
    since = row.last_run_at or row.date_changed or now
    first = due = first_due(when, row.last_run_at, since, row.start_time)
    if first and deadline is not None:
        due = catch_up(when, first, now - timedelta(seconds=deadline))
    missed = first if first != due else None
    return (None if due and row.expires and due >= row.expires else due), missed


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


# What an operator looks for, and in the runs of how long.
STATES_OF_ROWS = {
    "overdue": "Overdue",
    "failed": "Failed in 12 hours",
    "late": "Started late in 12 hours",
    "paused": "Paused",
}
TICKS_WITHIN = timedelta(seconds=30)  # a beat that did not is away
TAKEN_UP_WITHIN = timedelta(seconds=10)  # what no worker has by then waits for one
LOOK_BACK = timedelta(hours=12)
MOST = 10_000  # keys in a query: SQLite takes 32,766


def in_state(rows: QuerySet[PeriodicTask], state: str, now: datetime) -> QuerySet[PeriodicTask]:
    """The rows in one of ``STATES_OF_ROWS``; all of them for another word."""
    recent = Run.objects.filter(scheduled_for__gt=now - LOOK_BACK, scheduled_for__lte=now)
    match state:
        case "overdue":
            return rows.filter(pk__in=list(overdue(now))[:MOST])
        case "failed":
            return rows.filter(name__in=recent.filter(result__status="FAILURE").values("schedule"))
        case "late":
            late = Q(started_at__gt=F("scheduled_for") + late_after())
            return rows.filter(name__in=recent.filter(late).values("schedule"))
        case "paused":
            return rows.filter(PAUSED)
        case _:
            return rows


# For people


@dataclass
class Overview:
    """What is known of a schedule at a moment."""

    row: PeriodicTask
    runs: list[Ran]  # the last ones, newest first
    due: datetime | None = None  # its next run; in the past while beat is still to send it
    missed: datetime | None = None  # a run that was skipped, as beat was away for too long
    is_overdue: bool = False
    problem: str = ""  # why it cannot run
    waits_since: datetime | None = None  # when a run was sent that no worker has taken up


def overview(rows: Iterable[PeriodicTask], now: datetime, count: int = 20) -> list[Overview]:
    """What is known of some rows, with their last runs: two queries for all of them."""
    rows = list(rows)
    found = last_runs([row.name for row in rows], count)
    return [view_of(row, found[row.name], now) for row in rows]


def view_of(row: PeriodicTask, its_runs: list[Ran], now: datetime) -> Overview:
    """What is known of a row, given its last runs."""
    view = Overview(row, its_runs)
    try:
        view.due, missed = _next(timing_of(row), row, now)
        view.missed = missed if row.enabled else None
    except Exception as error:  # whatever libraries raise for what people have stored
        view.problem = f"{type(error).__name__}: {error}"
    view.is_overdue = bool(row.enabled and view.due and view.due < now - late_after())
    # Of a row without runs only what was sent of late: beat's and workers' code may be younger.
    young = now - timedelta(days=1)
    known = max((run.queued_at for run in its_runs if run.queued_at), default=young)
    if row.last_run_at and row.last_run_at > known and has_heartbeat():
        view.waits_since = row.last_run_at
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
