"""The queues that schedules and tasks send to, and those that a worker consumes by default."""

from typing import Any

from celery import current_app
from django.conf import settings
from django.core.checks import CheckMessage, Warning, register
from django.utils.module_loading import autodiscover_modules

from scheduling.declare import discovery


def named() -> dict[str, list[str]]:
    """Each queue that a declared schedule, a task or CELERY_TASK_ROUTES names, and who names it."""
    autodiscover_modules("tasks")
    routes = current_app.conf.task_routes
    found = [(s.queue, f"the schedule {s.name!r}") for s in discovery.declared()]
    found += [
        (getattr(task, "queue", None), f"the task {name!r}")
        for name, task in sorted(current_app.tasks.items())
    ]
    if isinstance(routes, dict):  # what a routing function answers is not known
        found += [
            (route.get("queue") if isinstance(route, dict) else route, f"the route {pattern!r}")
            for pattern, route in routes.items()
        ]
    queues: dict[str, list[str]] = {}
    for queue, who in found:
        if queue:
            queues.setdefault(getattr(queue, "name", queue), []).append(who)
    return queues


def consumed() -> set[str]:
    """The queues that a worker without ``-Q`` consumes in production."""
    queues = current_app.conf.task_queues or [current_app.conf.task_default_queue]
    return {getattr(queue, "name", queue) for queue in queues}


@register
def check_queues(**kwargs: Any) -> list[CheckMessage]:
    """In development: a worker without ``-Q`` consumes each queue, also in production."""
    if not settings.DEBUG:
        return []
    return [
        Warning(
            f"Only a worker with -Q {queue} consumes the queue {queue!r} in production. What "
            f"sends to it: {', '.join(who)}.",
            hint="Declare it, and all workers consume it: CELERY_TASK_QUEUES = "
            f"{{CELERY_TASK_DEFAULT_QUEUE: {{}}, {queue!r}: {{}}}}. Then -Q {queue} makes a "
            f"worker for it alone, and -X {queue} keeps a worker off it.",
            id="scheduling.W007",
        )
        for queue, who in named().items()
        if queue not in consumed()
    ]
