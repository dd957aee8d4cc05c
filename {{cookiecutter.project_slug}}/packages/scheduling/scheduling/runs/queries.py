"""What ran, when, and how late: the queries of the ledger."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django_celery_beat.models import PeriodicTask

from scheduling.conf import conf
from scheduling.models import BAD, NOT_GOOD, OPEN, Run, State
from scheduling.timing import EPOCH

MAX_KEYS = 10_000  # in a query; SQLite takes 32,766
# How a run went, in one word that charts, filters and style sheets share.
KINDS = {
    "succeeded": "succeeded",
    "late": "succeeded, but started late",
    "failed": "failed",
    "lost": "is lost: its worker or its message has gone",
    "expired": "expired: no worker began it in time",
    "skipped": "was skipped",
    "cancelled": "was revoked",
    "waiting": "waits for a worker",
    "running": "is running",
    "retrying": "waits for its next try",
}
KINDS_BY_STATE = {State.SENT: "waiting", State.STARTED: "running"}  # others have their own name
# What ``summaries`` reads: not what is long.
SUMMARY_COLUMNS = (
    "pk",
    "periodic_task_id",
    "schedule",
    "scheduled_for",
    "due_times",
    "queued_at",
    "started_at",
    "finished_at",
    "state",
    "reason",
    "queue",
    "retries",
    "worker",
)


def late_after() -> timedelta:
    """How late a run may be sent or started: beyond it, it is overdue or late."""
    return timedelta(seconds=conf.LATE_AFTER)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run, as the ledger has it."""

    pk: UUID  # Celery's id of the task
    periodic_task_id: int | None  # None once the schedule is deleted
    schedule: str
    scheduled_for: datetime  # when it was due
    due_times: int  # more than one if it is a stretch that was skipped
    queued_at: datetime | None
    started_at: datetime | None  # of its first try; None if it never started
    finished_at: datetime | None  # None while it goes on
    state: str
    reason: str
    queue: str
    retries: int
    worker: str

    @property
    def kind(self) -> str:
        """One of KINDS."""
        if self.state == State.SUCCEEDED and (self.late or timedelta()) > late_after():
            return "late"
        return KINDS_BY_STATE.get(State(self.state), self.state)

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
    for values in runs.values_list(*SUMMARY_COLUMNS):
        yield RunSummary(*values)


def last_runs(keys: Collection[int], count: int) -> dict[int, list[RunSummary]]:
    """The last runs of each of some schedules, newest first. Two queries for all of them."""
    newest_first = Run.objects.filter(periodic_task=OuterRef("pk")).order_by("-scheduled_for")
    oldest = Subquery(newest_first.values("scheduled_for")[count - 1 : count])
    rows = PeriodicTask.objects.filter(pk__in=keys).order_by().values_list("pk", oldest)
    # Each part is a look into the index; a window function would read all runs.
    parts = [Q(periodic_task=key, scheduled_for__gte=since or EPOCH) for key, since in rows]
    found: dict[int, list[RunSummary]] = {key: [] for key in keys}
    if parts:
        for run in summaries(Run.objects.filter(reduce(or_, parts)).order_by("-scheduled_for")):
            found[run.periodic_task_id or 0].append(run)
    return found


def runs_since(keys: Collection[int], start: datetime, limit: int) -> dict[int, list[RunSummary]]:
    """The runs of some schedules that were due since ``start``, newest first: ``limit`` in all."""
    found: dict[int, list[RunSummary]] = defaultdict(list)
    recent = Run.objects.filter(periodic_task__in=keys, scheduled_for__gte=start)
    for run in summaries(recent.order_by("-scheduled_for")[:limit]):
        found[run.periodic_task_id or 0].append(run)
    return found


def errors(runs: Iterable[RunSummary]) -> dict[UUID, str]:
    """Why runs failed, in one line each, by id. One query."""
    failed = [run.pk for run in runs if run.kind in ("failed", "retrying")]
    return dict(Run.objects.filter(pk__in=failed).values_list("pk", "error"))


def waiting(now: datetime) -> QuerySet[Run]:
    """The runs that were sent more than LATE_AFTER seconds ago and that no worker has begun."""
    return Run.objects.filter(state=State.SENT, queued_at__lt=now - late_after())


def failing() -> dict[str, datetime]:
    """The enabled schedules that are failing, by name, and when their last run failed.

    Their last HEALTH_FAILING_AFTER runs failed, or their last run expired, was lost or missed. Two
    queries, which read only the runs of schedules that may be failing.
    """
    count = conf.HEALTH_FAILING_AFTER
    good = Q(state=State.SUCCEEDED)
    # First by looks into two indexes, not at the runs: most of these schedules have recovered. What
    # comes after the last run that is not good, and is not open, is good.
    its = Run.objects.filter(periodic_task=OuterRef("pk"))
    not_good = Run.objects.filter(state__in=NOT_GOOD)
    last = its.filter(state__in=NOT_GOOD).order_by("-scheduled_for").values("scheduled_for")
    is_open = Run.objects.filter(state__in=OPEN).values("periodic_task")
    suspects = (
        PeriodicTask.objects.filter(enabled=True, pk__in=not_good.values("periodic_task"))
        .annotate(last=Subquery(last[:1]))
        .filter(~Exists(its.filter(scheduled_for__gt=OuterRef("last"))) | Q(pk__in=is_open))
        .values_list("pk", flat=True)
    )
    newest_first = Run.objects.filter(good | BAD, periodic_task=OuterRef("pk"))
    newest_first = newest_first.order_by("-scheduled_for")
    # A query of its own: Postgres takes seconds to compile what it expects to be expensive.
    keys = list(suspects[: MAX_KEYS + 1])
    chosen = keys if len(keys) <= MAX_KEYS else suspects
    rows = PeriodicTask.objects.filter(pk__in=chosen).annotate(
        oldest=Subquery(newest_first.values("scheduled_for")[count - 1 : count]),
        good=Coalesce(Subquery(newest_first.filter(good).values("scheduled_for")[:1]), EPOCH),
        state=Subquery(newest_first.values("state")[:1]),
        due=Subquery(newest_first.values("scheduled_for")[:1]),
        failed_at=Coalesce(Subquery(newest_first.values("finished_at")[:1]), "due"),
    )
    at_once = Q(state__in=(State.EXPIRED, State.LOST, State.SKIPPED))
    bad = rows.filter(Q(oldest__gt=F("good")) | at_once).order_by("name")
    return dict(bad.values_list("name", "failed_at"))
