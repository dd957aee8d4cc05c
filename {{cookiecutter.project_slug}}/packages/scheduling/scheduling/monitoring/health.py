"""What containers and monitors ask: is it alive, is it ready, are the schedules kept?"""

import logging
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from threading import Thread
from typing import Any

from celery import current_app
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.middleware.security import SecurityMiddleware
from django.urls import path, resolve
from django.utils import timezone
from django.utils.deprecation import MiddlewareMixin
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django_celery_beat.models import PeriodicTask

from scheduling.conf import conf
from scheduling.database import aliases
from scheduling.models import Node, Run, State
from scheduling.monitoring.access import may_read
from scheduling.monitoring.metrics import metrics
from scheduling.runs.nodes import last_heartbeat, living, why_waiting
from scheduling.runs.queries import failing, waiting
from scheduling.runs.status import has_heartbeat, overdue, paused

TIME_LIMIT = 3.0  # seconds for an answer, whatever hangs
MAX_NAMED = 20  # schedules that an answer names
logger = logging.getLogger(__name__)


class NotReadyError(Exception):
    """What is missing, in words that anybody may read."""


def database() -> None:
    """Raise unless each database answers, and has all migrations of this code."""
    for alias in aliases():
        executor = MigrationExecutor(connections[alias])
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if missing:
            raise NotReadyError(f"migrations not applied: {len(missing)}")


def broker() -> None:
    """Raise unless the broker accepts a new connection."""
    with current_app.connection_for_write() as connected:
        connected.ensure_connection(
            max_retries=1, interval_start=0, interval_step=0, reraise_as_library_errors=False
        )


class BoundedCheck(Thread):
    """Runs a check in a thread: not everything that may hang takes a time limit.

    ``answer`` is "ok", or the reason without the names of hosts and users that ``error`` may have.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.check = check
        self.answer = self.error = f"no answer within {TIME_LIMIT:g} s"
        self.start()

    def run(self) -> None:
        try:
            self.check()
            self.answer = "ok"
        except NotReadyError as error:
            self.answer = self.error = str(error)
        except Exception as error:
            self.answer, self.error = type(error).__name__, str(error)
        finally:
            connections.close_all()  # this thread's


last_checks: dict[str, BoundedCheck] = {}  # by name; while one hangs, no second one starts


def run_checks(*checks: Callable[[], None]) -> dict[str, str]:
    """The answer of each check, by its name, within TIME_LIMIT seconds for all."""
    deadline = time.monotonic() + TIME_LIMIT
    for check in checks:
        name = check.__name__
        if name not in last_checks or not last_checks[name].is_alive():
            last_checks[name] = BoundedCheck(check)
    answers = {}
    for check in checks:
        last = last_checks[check.__name__]
        last.join(max(0, deadline - time.monotonic()))
        answers[check.__name__] = last.answer
        if last.answer != "ok":
            logger.warning("health: %s: %s", check.__name__, last.error)
    return answers


@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """200 as long as this process answers."""
    return JsonResponse({"process": "ok"})


@never_cache
@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """200 if the database and the broker can be used, else 503, within TIME_LIMIT seconds."""
    answers = run_checks(database, broker)
    return JsonResponse(answers, status=200 if set(answers.values()) == {"ok"} else 503)


def schedule_status(now: datetime, with_names: bool) -> tuple[dict[str, Any], bool]:
    """What a monitor is told, and whether all is well.

    HEALTH_BEAT_MAX_AGE (seconds), HEALTH_MAX_OVERDUE, HEALTH_MAX_FAILING (schedules) and
    HEALTH_MAX_WAITING (runs) say what is well. A scheduler that writes no heartbeat is not judged
    by it.
    """
    due_since, failed_at, waits = overdue(now), failing(), waiting(now)
    beats, workers = living(is_worker=False, now=now), living(is_worker=True, now=now)
    last_tick = last_heartbeat() if has_heartbeat() else None
    age = _seconds(now - last_tick) if last_tick else None
    told: dict[str, dict[str, Any]] = {
        "beat": {"age": age},
        "workers": {"count": workers.count()},
        "overdue": {"count": len(due_since)},
        "waiting": {"count": waits.count()},
        "failing": {"count": len(failed_at)},
        "lost": {"count": Run.objects.filter(state=State.LOST).count()},
        "paused": {"count": paused(now).count()},
    }
    if with_names:
        told["beat"]["beats"] = _ages(beats, now)
        told["workers"]["workers"] = _ages(workers, now)
        told["overdue"]["first"] = _first_overdue(due_since, now)
        told["waiting"]["first"] = _first_waiting(waits, list(workers), now)
        told["failing"]["first"] = [
            {"name": name, "failed_at": moment}
            for name, moment in list(failed_at.items())[:MAX_NAMED]
        ]
    beat_is_well = age <= conf.HEALTH_BEAT_MAX_AGE if age is not None else not has_heartbeat()
    is_well = (
        beat_is_well
        and len(due_since) <= conf.HEALTH_MAX_OVERDUE
        and told["waiting"]["count"] <= conf.HEALTH_MAX_WAITING
        and len(failed_at) <= conf.HEALTH_MAX_FAILING
    )
    return told, is_well


def _ages(nodes: Iterable[Node], now: datetime) -> dict[str, float]:
    return {node.name: _seconds(now - node.seen_at) for node in nodes}


def _first_waiting(runs: QuerySet[Run], workers: list[Node], now: datetime) -> list[dict[str, Any]]:
    return [
        {
            "name": run.schedule,
            "due": run.scheduled_for,
            "seconds": _seconds(now - run.scheduled_for),
            "why": why_waiting(run.queue, workers),
        }
        for run in runs.order_by("scheduled_for")[:MAX_NAMED]
    ]


def _first_overdue(due_since: dict[int, datetime], now: datetime) -> list[dict[str, Any]]:
    first = list(due_since.items())[:MAX_NAMED]
    rows = PeriodicTask.objects.in_bulk([pk for pk, _ in first])
    return [
        {"name": rows[pk].name, "due": due, "seconds": _seconds(now - due)}
        for pk, due in first
        if pk in rows
    ]


def _seconds(length: timedelta) -> float:
    return round(length.total_seconds(), 1)


@never_cache
@require_safe
def schedules(request: HttpRequest) -> HttpResponse:
    """200 if the schedules are kept, else 503. Names them if the request may read the metrics."""
    answers = run_checks(database)
    if answers["database"] != "ok":
        return JsonResponse(answers, status=503)
    told, is_well = schedule_status(timezone.now(), with_names=may_read(request))
    return JsonResponse(told, status=200 if is_well else 503)


urlpatterns = [path("live", live), path("ready", ready), path("schedules", schedules)]


class Middleware(MiddlewareMixin):
    """Answers health checks and /metrics before all other middleware, if it comes first.

    Probes come by IP address and plain HTTP, which ALLOWED_HOSTS and the redirect to HTTPS refuse,
    and need no session. The answers have the headers that Django gives to all others.
    """

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        if not request.path_info.startswith(("/health/", "/metrics")):
            return None
        try:
            view, args, kwargs = resolve(request.path_info)
        except Http404:
            return None
        if view not in (live, ready, schedules, metrics):
            return None
        response: HttpResponse = view(request, *args, **kwargs)
        return SecurityMiddleware(self.get_response).process_response(request, response)
