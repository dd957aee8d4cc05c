"""How each schedule is doing: what runs next, what is overdue, what is paused."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, reduce
from operator import itemgetter, or_
from typing import Any

from celery import current_app
from cron_descriptor import (
    FormatException,
    MissingFieldException,
    Options,
    WrongArgumentException,
    get_description,
)
from django.db.models import Count, F, Min, Q, QuerySet
from django.db.models.functions import Coalesce
from django_celery_beat.models import PeriodicTask
from kombu.utils.imports import symbol_by_name

from scheduling.models import BAD, Node, Run, State
from scheduling.runs.nodes import living, why_waiting
from scheduling.runs.queries import RunSummary, last_runs, late_after, waiting
from scheduling.timing import (
    TIMING_COLUMNS,
    TIMING_KEYS,
    TIMINGS,
    Timing,
    catch_up,
    describe,
    first_due,
    next_due,
    only_one,
    read_timings,
)

DAY_OF_24_HOURS = Options()
DAY_OF_24_HOURS.use_24hour_time_format = True
COUNTS_FROM = Coalesce("last_run_at", "date_changed")
ENDED = Q(Q(one_off=True) | Q(clocked__isnull=False), total_run_count__gt=0)  # it ran, once
ROW_STATES = {  # what an operator filters by
    "overdue": "Overdue",
    "waiting": "Waits for a worker",
    "failed": "Failed in 12 hours",
    "late": "Started late in 12 hours",
    "paused": "Paused",
}
LOOK_BACK = timedelta(hours=12)
TAKEN_UP_WITHIN = timedelta(seconds=10)  # later, a run counts as not taken up
MAX_FILTER_KEYS = 10_000  # SQLite takes 32,766


@dataclass
class ScheduleStatus:
    """What is known of a schedule at a moment."""

    row: PeriodicTask
    runs: list[RunSummary]  # the last ones, newest first
    due: datetime | None = None  # its next run; in the past while beat has not sent it
    missed: datetime | None = None  # a run that beat skips: it was away for too long
    is_overdue: bool = False
    has_expired: bool = False  # beat sends no more runs, and disables it
    problem: str = ""  # why it cannot run
    waiting: RunSummary | None = None  # the last run, if no worker has begun it in time
    why_waiting: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether its only run was sent, as ENDED says in SQL."""
        runs_once = self.row.one_off or self.row.clocked_id
        return bool(runs_once and self.row.total_run_count)


def statuses(rows: Iterable[PeriodicTask], now: datetime, count: int = 20) -> list[ScheduleStatus]:
    """What is known of some rows, with their last runs. Three queries for all of them."""
    rows = list(rows)
    runs, workers = (
        last_runs([row.pk for row in rows], count),
        list(living(is_worker=True, now=now)),
    )
    return [status_of(row, runs[row.pk], workers, now) for row in rows]


def status_of(
    row: PeriodicTask, runs: list[RunSummary], workers: Sequence[Node], now: datetime
) -> ScheduleStatus:
    """What is known of a row, given its last runs and the workers that live."""
    status = ScheduleStatus(row, runs)
    try:
        status.due, missed = _next(Timing.of(row), row, now)
        status.missed = missed if row.enabled else None
    except Exception as error:  # whatever libraries raise for what people have stored
        status.problem = f"{type(error).__name__}: {error}"
    status.has_expired = bool(row.expires and row.expires <= now)
    goes_on = row.enabled and not status.has_expired
    status.is_overdue = bool(goes_on and status.due and status.due < now - late_after())
    last = runs[0] if runs else None
    if last and last.state == State.SENT and now - (last.queued_at or now) > TAKEN_UP_WITHIN:
        status.waiting, status.why_waiting = last, why_waiting(last.queue, workers)
    return status


def has_heartbeat() -> bool:
    """Whether the scheduler of Celery's settings is the engine's: others write no heartbeats."""
    return getattr(symbol_by_name(current_app.conf.beat_scheduler), "has_heartbeat", False)


def paused(now: datetime) -> QuerySet[PeriodicTask]:
    """The schedules that are disabled, without those that are done: they ran once, or expired."""
    rows: QuerySet[PeriodicTask] = PeriodicTask.objects.filter(_is_paused(now))
    return rows.order_by("name")


def _is_paused(now: datetime) -> Q:
    return Q(enabled=False) & ~ENDED & ~Q(expires__lte=now)


def in_state(rows: QuerySet[PeriodicTask], state: str, now: datetime) -> QuerySet[PeriodicTask]:
    """The rows in one of ROW_STATES; all of them for any other word."""
    recent = Run.objects.filter(scheduled_for__gt=now - LOOK_BACK, scheduled_for__lte=now)
    match state:
        case "overdue":
            return rows.filter(pk__in=list(overdue(now))[:MAX_FILTER_KEYS])
        case "waiting":
            return rows.filter(pk__in=waiting(now).values("periodic_task"))
        case "failed":
            return rows.filter(pk__in=recent.filter(BAD).values("periodic_task"))
        case "late":
            late = Q(started_at__gt=F("scheduled_for") + late_after())
            return rows.filter(pk__in=recent.filter(late).values("periodic_task"))
        case "paused":
            return rows.filter(_is_paused(now))
        case _:
            return rows


def upcoming(row: PeriodicTask, now: datetime) -> Iterator[datetime]:
    """When a row is due, as if it were enabled: first what beat has not sent yet, then the rest.

    Raises what Celery raises for a schedule that cannot work.
    """
    timing = Timing.of(row)
    due, _ = _next(timing, row, now)
    while due and not (row.expires and due >= row.expires):
        yield due
        if row.one_off or row.clocked_id:
            return
        due = next_due(timing, max(due, now))


def overdue(now: datetime) -> dict[int, datetime]:
    """The enabled rows whose run beat should have sent by now, and when it was due, by key.

    The longest overdue comes first. Some queries for the timings, and one for the rows that may be
    overdue.
    """
    latest = now - late_after()
    enabled = PeriodicTask.objects.filter(enabled=True).exclude(expires__lte=now).order_by()
    maybe = _maybe_overdue(enabled, latest)
    if not maybe:
        return {}
    rows = enabled.filter(reduce(or_, (Q(**{f"{key}__in": pks}) for key, pks in maybe.items())))
    columns = ("pk", "last_run_at", "date_changed", "start_time", "expires", *TIMING_KEYS)
    found: dict[int, datetime] = {}
    for row in rows.annotate(**TIMING_COLUMNS).values_list(*columns, *TIMING_COLUMNS, named=True):
        with suppress(Exception):  # whatever people have stored: its page says what is wrong
            timing = Timing.from_values(row._asdict())
            due = timing and _next(timing, row, now)[0]
            if due and due < latest:
                found[row.pk] = due
    return dict(sorted(found.items(), key=itemgetter(1)))


def _maybe_overdue(enabled: QuerySet[PeriodicTask], latest: datetime) -> dict[str, set[int]]:
    """The keys of the timings that have rows that may be overdue, by foreign key.

    Of the rows with one timing, the one that counts from the longest ago is due first, except
    for those that have a start time.
    """
    starts = Q(start_time__lt=latest) & Q(Q(last_run_at=None) | Q(start_time__gt=F("last_run_at")))
    groups = list(
        enabled.values_list(*TIMING_KEYS).annotate(
            counts_from=Min(COUNTS_FROM), starting=Count("pk", filter=starts)
        )
    )
    # Not by a join: the database would compare all columns of the timings, row by row.
    timings: dict[tuple[str, int], Timing] = {}
    for kind, keys in zip(TIMINGS, zip(*groups, strict=True), strict=False):
        if any(keys):
            timings |= read_timings(kind)
    found: dict[str, set[int]] = defaultdict(set)
    for *keys, counts_from, starting in groups:
        with suppress(Exception):
            if which := only_one(dict(zip(TIMINGS, keys, strict=True))):
                due = first_due(timings[which], None, counts_from, None)
                if starting or (due and due < latest):
                    kind, key = which
                    found[f"{kind}_id"].add(key)
    return found


def _next(timing: Timing, row: Any, now: datetime) -> tuple[datetime | None, datetime | None]:
    """When a row is due, and the run that beat skips, as ``DueQueue.push`` decides it.

    The first is in the past while beat has not sent it; the second was missed for too long.
    """
    deadline = current_app.conf.beat_cron_starting_deadline
    since = row.last_run_at or row.date_changed or now
    first = due = first_due(timing, row.last_run_at, since, row.start_time)
    if first and deadline is not None:
        due = catch_up(timing, first, now - timedelta(seconds=deadline))
    missed = first if first != due else None
    return (None if due and row.expires and due >= row.expires else due), missed


def in_words(row: PeriodicTask) -> str:
    """When a row runs, such as "every 10 minutes" or "at 03:00, Europe/Berlin"."""
    if row.crontab:
        return crontab_in_words(row.crontab)
    timing = row.interval or row.solar or row.clocked
    return describe(timing) if timing else "never"


def crontab_in_words(crontab: Any) -> str:
    """When a crontab comes, as ``in_words``; its fields as they are if they cannot be read."""
    parts = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    text = _crontab_in_words(" ".join(getattr(crontab, part).replace(" ", "") for part in parts))
    return f"{text}, {crontab.timezone}"


@lru_cache(maxsize=4096)  # the library reads its translations anew each time: half a millisecond
def _crontab_in_words(text: str) -> str:
    with suppress(FormatException, MissingFieldException, WrongArgumentException):
        text = get_description(text, DAY_OF_24_HOURS)
    return text[:1].lower() + text[1:]
