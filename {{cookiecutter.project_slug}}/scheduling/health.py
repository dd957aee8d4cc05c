"""What monitors ask: are the schedules kept?"""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django_celery_beat.models import PeriodicTask

from scheduling import history
from scheduling.metrics import may_read

FIRST = 20  # schedules that are named


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
    told, is_well = kept(timezone.now(), with_names=may_read(request))
    return JsonResponse(told, status=200 if is_well else 503)


urlpatterns = [path("schedules", schedules)]
