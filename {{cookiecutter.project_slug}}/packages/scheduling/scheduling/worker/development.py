"""What a worker does in development only: with DEBUG on."""

from typing import Any

from celery.signals import celeryd_init, task_prerun
from django.conf import settings
from django.db import DatabaseError, connections
from django.template.autoreload import reset_loaders
from django_celery_beat.models import PeriodicTask

from scheduling.declare import queues
from scheduling.messages import is_reserved


@celeryd_init.connect
def consume_all_queues(instance: Any, options: dict[str, Any], **kwargs: Any) -> None:
    """Let a worker without ``-Q`` and ``-X`` consume every queue that anything names.

    Declared schedules, rows of the database, tasks and CELERY_TASK_ROUTES name queues.
    """
    if not settings.DEBUG or options.get("queues") or options.get("exclude_queues"):
        return
    selection = instance.app.amqp.queues
    names = {*selection.consume_from, *queues.named(), *_queues_of_rows()}
    selection.select(sorted(names))


@task_prerun.connect
def read_templates_anew(**kwargs: Any) -> None:
    """Let a task render templates as they are now: no restart, as in the development server."""
    if settings.DEBUG:
        reset_loaders()


def _queues_of_rows() -> set[str]:
    """The queues that rows name; none if the database cannot say."""
    try:
        named = PeriodicTask.objects.exclude(queue=None).values_list("queue", flat=True)
        return {queue for queue in named.distinct() if queue and not is_reserved(queue)}
    except DatabaseError:  # a worker starts without a database too
        return set()
    finally:
        connections.close_all()  # the worker forks
