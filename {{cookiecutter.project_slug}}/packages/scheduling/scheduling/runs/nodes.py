"""Which beats and workers live: processes that write heartbeats."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Max, QuerySet
from django.utils import timezone

from scheduling.models import Node

HEARTBEAT_EVERY = 5.0  # seconds
GONE_AFTER = timedelta(seconds=30)  # without a heartbeat


def living(is_worker: bool, now: datetime | None = None) -> QuerySet[Node]:
    """The beats or workers that live, the latest heartbeat first."""
    since = (now or timezone.now()) - GONE_AFTER
    nodes = Node.objects.filter(is_worker=is_worker, seen_at__gt=since)
    return nodes.order_by("-seen_at", "name")


def live_workers() -> QuerySet[Node, Any]:
    """The names of the workers that live."""
    return living(is_worker=True).order_by().values("name")


def last_heartbeat(is_worker: bool = False) -> datetime | None:
    """When any beat, or any worker, was seen last, however long ago; None if none ever was."""
    nodes = Node.objects.filter(is_worker=is_worker)
    seen_at: datetime | None = nodes.aggregate(last=Max("seen_at"))["last"]
    return seen_at


def shown_beats(now: datetime) -> dict[str, datetime]:
    """When each beat that lives was seen last; without any, the last one of the last day."""
    beats = Node.objects.filter(is_worker=False, seen_at__gt=now - timedelta(days=1))
    found = dict(beats.order_by("-seen_at").values_list("name", "seen_at"))
    living = {name: seen_at for name, seen_at in found.items() if now - seen_at < GONE_AFTER}
    return living or dict(list(found.items())[:1])


def why_waiting(queue: str, workers: Sequence[Node]) -> str:
    """Why none of the workers that live begins what waits in a queue."""
    consumers = [node for node in workers if queue in node.queues]
    if not consumers:
        return f"no worker consumes the queue {queue!r}"
    if all(node.busy >= node.slots for node in consumers):
        names = ", ".join(node.name for node in consumers)
        return f"all workers of the queue {queue!r} are busy: {names}"
    return f"the queue {queue!r} has a free worker, which has not begun it yet"
