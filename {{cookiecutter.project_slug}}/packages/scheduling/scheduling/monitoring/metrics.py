"""/metrics for Prometheus, computed from the database, so every process gives the same answer."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Avg, DurationField, F, Max, OuterRef, Q, QuerySet, Subquery, Sum
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django_celery_beat.models import PeriodicTask
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from scheduling.conf import conf
from scheduling.models import Counter, Run, State
from scheduling.monitoring.access import may_read
from scheduling.runs.nodes import last_heartbeat, living
from scheduling.runs.queries import failing, waiting
from scheduling.runs.status import has_heartbeat, overdue, paused
from scheduling.timing import EPOCH

WINDOW = timedelta(hours=1)
LATE = F("started_at") - F("scheduled_for")
TOOK = F("finished_at") - F("started_at")


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """The metrics, as text. 404 unless a setting says who may read them; else 401 or 403."""
    if not conf.METRICS_TOKEN and not conf.METRICS_NETWORKS:
        raise Http404
    if not may_read(request):
        if conf.METRICS_TOKEN:
            return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
        return HttpResponse(status=403)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(Schedules(timezone.now())), content_type=content_type)


class Schedules(Collector):
    """The metrics of all schedules at a moment, in a handful of queries.

    They are gauges of now and of the last hour: a count of the history would fall when it is
    cleaned. Counters are beat's own count of the runs that it has sent, and the workers' count of
    the messages that they put aside.
    """

    def __init__(self, now: datetime) -> None:
        self.now = now

    def collect(self) -> Iterator[Metric]:
        rows, due_since = list(_rows()), overdue(self.now)
        all_paused = paused(self.now)
        is_paused = set(
            all_paused.filter(pk__in=[row.pk for row in rows]).values_list("pk", flat=True)
        )
        waits = {row.name: self.now - due_since[row.pk] for row in rows if row.pk in due_since}
        enabled = PeriodicTask.objects.filter(enabled=True).count()
        yield GaugeMetricFamily("schedules_enabled", "Schedules that are enabled.", enabled)
        yield GaugeMetricFamily(
            "schedules_paused", "Schedules that are paused.", all_paused.count()
        )
        yield GaugeMetricFamily("schedules_overdue", "Schedules that are overdue.", len(due_since))
        yield GaugeMetricFamily("schedules_failing", "Schedules that are failing.", len(failing()))
        text = "Runs that wait for a worker for longer than LATE_AFTER."
        yield GaugeMetricFamily("schedules_waiting", text, waiting(self.now).count())
        text = "Runs that are lost: their worker or their message has gone."
        yield GaugeMetricFamily(
            "schedules_lost", text, Run.objects.filter(state=State.LOST).count()
        )
        if has_heartbeat():
            text = "When a beat ticked last; 0 if none ever has."
            ticked_at = last_heartbeat() or EPOCH
            yield GaugeMetricFamily("beat_last_tick_timestamp_seconds", text, _number(ticked_at))
            text = "Workers that live."
            yield GaugeMetricFamily("workers", text, living(is_worker=True, now=self.now).count())
        unreadable = Counter.objects.filter(name=Counter.UNREADABLE).first()
        text = "Messages that workers could not read, and put aside."
        number = unreadable.value if unreadable else 0
        yield CounterMetricFamily("unreadable_messages", text, number)
        sent = CounterMetricFamily(
            "schedule_sent_runs", "Runs that beat sent.", labels=["schedule"]
        )
        for row in rows:
            sent.add_metric([row.name], row.total_run_count)
        yield sent
        yield _gauge(
            "schedule_paused",
            "1 if it is paused, else 0.",
            ((row.name, row.pk in is_paused) for row in rows),
        )
        yield _gauge(
            "schedule_overdue_seconds",
            "How long ago beat should have sent its run, in seconds; 0 if it is not overdue.",
            ((row.name, waits.get(row.name, timedelta())) for row in rows),
        )
        yield _gauge(
            "schedule_last_run_timestamp_seconds",
            "When its last run was started.",
            ((row.name, row.started_at) for row in rows),
        )
        yield _gauge(
            "schedule_last_success_timestamp_seconds",
            "When its last run that succeeded was done.",
            ((row.name, row.succeeded_at) for row in rows),
        )
        yield from self._last_hour([row.name for row in rows])

    def _last_hour(self, names: list[str]) -> Iterator[Metric]:
        recent = Run.objects.filter(scheduled_for__gt=self.now - WINDOW).order_by()
        summaries = recent.values("schedule").annotate(
            late_mean=Avg(LATE, output_field=DurationField()),
            late_max=Max(LATE, output_field=DurationField()),
            took_mean=Avg(TOOK, output_field=DurationField()),
            took_max=Max(TOOK, output_field=DurationField()),
            **{state: Sum("due_times", filter=Q(state=state), default=0) for state in State},
        )
        found: dict[str, Any] = defaultdict(dict)
        found.update((summary["schedule"], summary) for summary in summaries)
        runs = GaugeMetricFamily(
            "schedule_last_hour_runs",
            "Runs that were due in the last hour, by state.",
            labels=["schedule", "state"],
        )
        for name in names:
            for state in State:
                runs.add_metric([name, state.value], found[name].get(state, 0))
        yield runs
        for metric, column, text in (
            ("lateness_mean", "late_mean", "Mean time from due to start"),
            ("lateness_max", "late_max", "Longest time from due to start"),
            ("duration_mean", "took_mean", "Mean duration from the first start to the end"),
            ("duration_max", "took_max", "Longest duration from the first start to the end"),
        ):
            yield _gauge(
                f"schedule_last_hour_{metric}_seconds",
                f"{text} in the last hour.",
                ((name, found[name].get(column)) for name in names),
            )


def _rows() -> QuerySet[PeriodicTask, Any]:
    """METRICS_MAX_SCHEDULES, with the start of each last run and the end of each last good run."""
    runs = Run.objects.filter(periodic_task=OuterRef("pk")).order_by("-scheduled_for")
    started = runs.filter(started_at__isnull=False).values("started_at")
    succeeded = runs.filter(state=State.SUCCEEDED).values("finished_at")
    last = {"started_at": Subquery(started[:1]), "succeeded_at": Subquery(succeeded[:1])}
    declared_first = F("declaration").asc(nulls_last=True)
    rows = PeriodicTask.objects.order_by(declared_first, "name").annotate(**last)
    chosen: QuerySet[PeriodicTask, Any] = rows[: conf.METRICS_MAX_SCHEDULES]
    return chosen.values_list("pk", "name", "total_run_count", *last, named=True)


def _gauge(
    name: str, text: str, values: Iterable[tuple[str, bool | datetime | timedelta | None]]
) -> Metric:
    """A gauge with a value of each schedule, times in seconds. Leaves out None."""
    family = GaugeMetricFamily(name, text, labels=["schedule"])
    for schedule, value in values:
        if value is not None:
            family.add_metric([schedule], _number(value))
    return family


def _number(value: bool | datetime | timedelta) -> float:
    match value:
        case datetime():
            return value.timestamp()
        case timedelta():
            return value.total_seconds()
        case _:
            return value
