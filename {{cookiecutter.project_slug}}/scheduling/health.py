"""What containers, load balancers and monitors ask of the web: is it alive, is it ready, are the
schedules kept?"""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Thread
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path, resolve
from django.utils import timezone
from django.utils.deprecation import MiddlewareMixin
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django_celery_beat.models import PeriodicTask

from scheduling import history
from scheduling.metrics import may_read

SECONDS = 3.0  # for an answer, whatever hangs
FIRST = 20  # schedules that are named
logger = logging.getLogger(__name__)


class NotReadyError(Exception):
    """What is missing, in words that anybody may read."""


def database() -> None:
    """Raise unless the database answers, and has all migrations of this code."""
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        raise NotReadyError(f"migrations not applied: {len(missing)}")


def broker() -> None:
    """Raise unless the broker takes a new connection."""
    with current_app.connection_for_write() as connected:
        connected.ensure_connection(
            max_retries=1, interval_start=0, interval_step=0, reraise_as_library_errors=False
        )


class Look(Thread):
    """A check that runs, in a thread, as not all that may hang can be given a time limit.
    ``answer`` is "ok", or why not without names of hosts and users, which
    ``error`` may have."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.check = check
        self.answer = self.error = f"no answer within {SECONDS:g} s"
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
            connection.close()  # this thread's


looks: dict[str, Look] = {}  # the last of each; one that hangs is not joined by more


def look(*checks: Callable[[], None]) -> dict[str, str]:
    """The answer of each check, by its name, within ``SECONDS``."""
    deadline = time.monotonic() + SECONDS
    for check in checks:
        name = check.__name__
        if name not in looks or not looks[name].is_alive():
            looks[name] = Look(check)
    answers = {}
    for check in checks:
        last = looks[check.__name__]
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
    """200 if the database and the broker can be used, else 503, within ``SECONDS``."""
    answers = look(database, broker)
    return JsonResponse(answers, status=200 if set(answers.values()) == {"ok"} else 503)


def kept(now: datetime, with_names: bool) -> tuple[dict[str, Any], bool]:
    """What a monitor is told, with names of schedules and hosts or without; whether all is well.

    What is well is in the settings ``HEALTH_BEAT_MAX_AGE``, in seconds, ``HEALTH_MAX_OVERDUE`` and
    ``HEALTH_MAX_FAILING``, in schedules. A scheduler that has no heartbeat is not judged by it.
    """
    overdue, failing = history.overdue(now), history.failing()
    ticked_at = history.last_heartbeat() if history.has_heartbeat() else None
    age = _seconds(now - ticked_at) if ticked_at else None
    told: dict[str, dict[str, Any]] = {
        "beat": {"age": age},
        "overdue": {"count": len(overdue)},
        "failing": {"count": len(failing)},
        "paused": {"count": history.paused().count()},
    }
    if with_names:
        told["beat"]["beats"] = {
            beat: _seconds(now - ticked_at) for beat, ticked_at in history.heartbeats().items()
        }
        rows = PeriodicTask.objects.in_bulk(list(overdue)[:FIRST])
        told["overdue"]["first"] = [
            {"name": rows[pk].name, "due": due, "seconds": _seconds(now - due)}
            for pk, due in list(overdue.items())[:FIRST]
            if pk in rows
        ]
        told["failing"]["first"] = [
            {"name": name, "failed_at": failed_at}
            for name, failed_at in list(failing.items())[:FIRST]
        ]
    beat_is_well = (
        age <= getattr(settings, "HEALTH_BEAT_MAX_AGE", 60)
        if age is not None
        else not history.has_heartbeat()
    )
    is_well = (
        beat_is_well
        and len(overdue) <= getattr(settings, "HEALTH_MAX_OVERDUE", 0)
        and len(failing) <= getattr(settings, "HEALTH_MAX_FAILING", 0)
    )
    return told, is_well


def _seconds(length: timedelta) -> float:
    return round(length.total_seconds(), 1)


@never_cache
@require_safe
def schedules(request: HttpRequest) -> HttpResponse:
    """200 if the schedules are kept, else 503. Whoever may read the metrics is told names too."""
    answers = look(database)
    if answers["database"] != "ok":
        return JsonResponse(answers, status=503)
    told, is_well = kept(timezone.now(), with_names=may_read(request))
    return JsonResponse(told, status=200 if is_well else 503)


urlpatterns = [path("live", live), path("ready", ready), path("schedules", schedules)]


class Middleware(MiddlewareMixin):
    """Put first, it answers /health/ and /metrics before all others: probes come by IP address and
    plain HTTP, which ALLOWED_HOSTS and the redirect to HTTPS refuse, and need no session."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        if not request.path_info.startswith(("/health/", "/metrics")):
            return None
        view, args, kwargs = resolve(request.path_info)
        response: HttpResponse = view(request, *args, **kwargs)
        return response
