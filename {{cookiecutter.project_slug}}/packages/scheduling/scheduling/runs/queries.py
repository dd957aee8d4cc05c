"""What ran, when, and how late: the queries of the run history."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import or_

from celery import states
from django.db.models import F, Max, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_results.models import TaskResult

from scheduling.conf import conf
from scheduling.models import FAILED, FINISHED, Heartbeat, Run
from scheduling.timing import EPOCH

TICKS_WITHIN = timedelta(seconds=30)  # a beat that did not is away
# How a run went, in one word that charts, filters and style sheets share.
KINDS = {
    "succeeded": "succeeded",
    "late": "succeeded, but started late",
    "failed": "failed",
    "running": "is running",
    "retrying": "waits for its next try",
    "revoked": "was not started: it had expired or was revoked",
}
KINDS_BY_STATE = {"FAILURE": "failed", "RETRY": "retrying", "REVOKED": "revoked"}
# What ``summaries`` reads: not what is long, such as arguments, results and tracebacks.
SUMMARY_COLUMNS = (
    "pk",
    "schedule",
    "scheduled_for",
    "queued_at",
    "started_at",
    "finished_at",
    "retries",
    "result__task_id",
    "result__status",
    "result__worker",
)


def late_after() -> timedelta:
    """How late a run may be sent or started: beyond it, it is overdue or late."""
    return timedelta(seconds=conf.LATE_AFTER)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run, as the history has it."""

    pk: int  # of its result
    task_id: str
    schedule: str
    scheduled_for: datetime  # when it was due
    queued_at: datetime | None
    started_at: datetime | None  # of its first try; None if it never started
    finished_at: datetime | None  # None while it goes on
    state: str  # Celery's: STARTED, SUCCESS, FAILURE, RETRY or REVOKED
    retries: int
    worker: str
    kind: str  # one of KINDS

    @property
    def late(self) -> timedelta | None:
        """From its due time to its start. Never negative: host clocks may disagree."""
        return max(self.started_at - self.scheduled_for, timedelta()) if self.started_at else None

    @property
    def took(self) -> timedelta | None:
        """From its first start to its end, with its retries and the pauses between them."""
        if not self.started_at or not self.finished_at:
            return None
        return self.finished_at - self.started_at


def summaries(runs: QuerySet[Run]) -> Iterator[RunSummary]:
    """The runs of a query, in its order."""
    limit = late_after()
    for run in runs.values_list(*SUMMARY_COLUMNS, named=True):
        kind = KINDS_BY_STATE.get(run.result__status, "running")
        if run.result__status == states.SUCCESS:
            is_late = run.started_at and run.started_at - run.scheduled_for > limit
            kind = "late" if is_late else "succeeded"
        yield RunSummary(
            pk=run.pk,
            task_id=run.result__task_id,
            schedule=run.schedule,
            scheduled_for=run.scheduled_for,
            queued_at=run.queued_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            state=run.result__status,
            retries=run.retries,
            worker=run.result__worker or "",
            kind=kind,
        )


def last_runs(names: Collection[str], count: int) -> dict[str, list[RunSummary]]:
    """The last runs of each of some schedules, newest first. Two queries for all of them."""
    newest_first = Run.objects.filter(schedule=OuterRef("name")).order_by("-scheduled_for")
    oldest = Subquery(newest_first.values("scheduled_for")[count - 1 : count])
    rows = PeriodicTask.objects.filter(name__in=names).order_by().values_list("name", oldest)
    # Each part is a look into the index; a window function would read all runs.
    parts = [Q(schedule=name, scheduled_for__gte=since or EPOCH) for name, since in rows]
    found: dict[str, list[RunSummary]] = defaultdict(list)
    if parts:
        newest = Run.objects.filter(reduce(or_, parts)).order_by("-scheduled_for", "-queued_at")
        for run in summaries(newest):
            found[run.schedule].append(run)
    return {name: found[name][:count] for name in names}


def runs_since(names: Collection[str], start: datetime, limit: int) -> dict[str, list[RunSummary]]:
    """The runs of some schedules that were due since ``start``, newest first: ``limit`` in all."""
    found: dict[str, list[RunSummary]] = defaultdict(list)
    recent = Run.objects.filter(schedule__in=names, scheduled_for__gte=start)
    for run in summaries(recent.order_by("-scheduled_for")[:limit]):
        found[run.schedule].append(run)
    return found


def errors(runs: Iterable[RunSummary]) -> dict[str, str]:
    """Why runs failed, in one line each, by task id. One query."""
    failed = [run.pk for run in runs if run.kind in ("failed", "retrying")]
    stored = TaskResult.objects.filter(pk__in=failed).values_list("task_id", "result")
    return {task_id: _error(text) for task_id, text in stored}


def _error(text: str | None) -> str:
    """The line of an exception, from what Celery stored of it."""
    with suppress(ValueError, TypeError, KeyError):
        error = json.loads(text or "")
        message = error["exc_message"]
        words = " ".join(map(str, message)) if isinstance(message, list) else str(message)
        return f"{error['exc_type']}: {words}"
    return text or ""


def failing() -> dict[str, datetime]:
    """The enabled schedules whose last HEALTH_FAILING_AFTER runs all failed, by name.

    The value is when the last run failed. One query, which reads only the runs of schedules that
    have failed within the history.
    """
    count = conf.HEALTH_FAILING_AFTER
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


def heartbeats() -> dict[str, datetime]:
    """When each beat of the last day ticked last, by host and process, the latest first."""
    recent = Heartbeat.objects.filter(ticked_at__gt=timezone.now() - timedelta(days=1))
    return dict(recent.order_by("-ticked_at").values_list("beat", "ticked_at"))


def ticking_beats(now: datetime) -> dict[str, datetime]:
    """The beats that tick, as ``heartbeats``; without any, the last one that did."""
    beats = heartbeats()
    ticking = {beat: at for beat, at in beats.items() if now - at < TICKS_WITHIN}
    return ticking or dict(list(beats.items())[:1])


def last_heartbeat() -> datetime | None:
    """When any beat ticked last, however long ago; None if none ever has."""
    ticked_at: datetime | None = Heartbeat.objects.aggregate(last=Max("ticked_at"))["last"]
    return ticked_at
