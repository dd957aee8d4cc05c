"""/metrics for Prometheus, computed from the database: every process gives the same answer."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from celery import states
from django.conf import settings
from django.db.models import Avg, Count, DurationField, F, Max, OuterRef, Q, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django_celery_beat.models import PeriodicTask
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from scheduling import history
from scheduling.due import EPOCH
from scheduling.models import Run

WINDOW = timedelta(hours=1)
STATES = (states.STARTED, states.RETRY, *history.FINISHED)
LATE = F("result__date_started") - F("scheduled_for")
TOOK = F("result__date_done") - F("result__date_started")


def may_read(request: HttpRequest) -> bool:
    """Whether a request has the ``METRICS_TOKEN``, or comes from one of the ``METRICS_NETWORKS``.

    What counts is the address of the connection: what a header says of it anybody can say.
    """
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if _token() and scheme.lower() == "bearer" and constant_time_compare(given, _token()):
        return True
    try:
        address = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:  # a Unix socket has none
        return False
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return any(address in ip_network(network.strip()) for network in _networks())


def _token() -> str:
    return getattr(settings, "METRICS_TOKEN", "")


def _networks() -> list[str]:
    return getattr(settings, "METRICS_NETWORKS", [])


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """404 unless a setting says who may read it; 401 or 403 for everybody else."""
    if not _token() and not _networks():
        raise Http404
    if not may_read(request):
        if _token():
            return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
        return HttpResponse(status=403)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(Schedules(timezone.now())), content_type=content_type)


class Schedules(Collector):
    """What Prometheus is told of the schedules at a moment: a handful of queries for all of them.

    The history is cleaned up, and what is counted in it would fall: hence gauges, of now and of
    the last hour. Only beat's own count of what it has sent is a counter.
    """

    def __init__(self, now: datetime) -> None:
        self.now = now

    def collect(self) -> Iterator[Metric]:
        rows, overdue = list(_rows()), history.overdue(self.now)
        paused = set(history.paused().values_list("name", flat=True))
        waits = {row.name: self.now - overdue[row.pk] for row in rows if row.pk in overdue}
        enabled = sum(row.enabled for row in rows)
        yield GaugeMetricFamily("schedules_enabled", "Schedules that are enabled.", enabled)
        yield GaugeMetricFamily("schedules_paused", "Schedules that are paused.", len(paused))
        yield GaugeMetricFamily("schedules_overdue", "Schedules that are overdue.", len(waits))
        if history.has_heartbeat():
            text = "When a beat ticked last; 0 if none ever has."
            ticked_at = history.last_heartbeat() or EPOCH
            yield GaugeMetricFamily("beat_last_tick_timestamp_seconds", text, _number(ticked_at))
        sent = CounterMetricFamily(
            "schedule_sent_runs", "Runs that beat sent.", labels=["schedule"]
        )
        for row in rows:
            sent.add_metric([row.name], row.total_run_count)
        yield sent
        yield _gauge(
            "schedule_paused",
            "1 if it is paused, else 0.",
            ((row.name, row.name in paused) for row in rows),
        )
        yield _gauge(
            "schedule_overdue_seconds",
            "Since when beat should have sent its run, in seconds; 0 if it is not overdue.",
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
        finished = Q(result__status__in=history.FINISHED)
        recent = Run.objects.filter(result__date_done__gt=self.now - WINDOW).order_by()
        summaries = recent.values("schedule").annotate(
            late_mean=Avg(LATE, output_field=DurationField()),
            late_max=Max(LATE, output_field=DurationField()),
            took_mean=Avg(TOOK, filter=finished, output_field=DurationField()),
            took_max=Max(TOOK, filter=finished, output_field=DurationField()),
            **{state: Count("pk", filter=Q(result__status=state)) for state in STATES},
        )
        found: dict[str, Any] = defaultdict(dict)
        found.update((summary["schedule"], summary) for summary in summaries)
        runs = GaugeMetricFamily(
            "schedule_last_hour_runs",
            "Runs of the last hour, by the state that they came to.",
            labels=["schedule", "state"],
        )
        for name in names:
            for state in STATES:
                runs.add_metric([name, state], found[name].get(state, 0))
        yield runs
        for metric, column, text in (
            ("lateness_mean", "late_mean", "From when runs were due to their start: the mean"),
            ("lateness_max", "late_max", "From when runs were due to their start: the longest"),
            ("duration_mean", "took_mean", "From the first start of runs to their end: the mean"),
            ("duration_max", "took_max", "From the first start of runs to their end: the longest"),
        ):
            yield _gauge(
                f"schedule_last_hour_{metric}_seconds",
                f"{text} of the last hour.",
                ((name, found[name].get(column)) for name in names),
            )


def _rows() -> QuerySet[PeriodicTask, Any]:
    """The schedules, with when the last run of each was started and the last good one was done."""
    runs = Run.objects.filter(schedule=OuterRef("name")).order_by("-scheduled_for")
    started = runs.filter(result__date_started__isnull=False).values("result__date_started")
    succeeded = runs.filter(result__status=states.SUCCESS).values("result__date_done")
    last = {"started_at": Subquery(started[:1]), "succeeded_at": Subquery(succeeded[:1])}
    rows: QuerySet[PeriodicTask, Any] = PeriodicTask.objects.order_by("name").annotate(**last)
    return rows.values_list("pk", "name", "enabled", "total_run_count", *last, named=True)


def _gauge(
    name: str, text: str, values: Iterable[tuple[str, bool | datetime | timedelta | None]]
) -> Metric:
    """A value of each schedule, in seconds if it is a time; None is left out."""
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
