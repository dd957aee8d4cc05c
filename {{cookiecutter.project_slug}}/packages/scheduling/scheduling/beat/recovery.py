"""What beat does about runs that nobody works on any more. Any beat does it; they share the rows.

- A run that no worker began in time has expired, also if there is no worker to say so.
- A run whose worker has gone is lost, until another worker begins it.
- A run that is lost, or whose message has vanished, is sent again: no worker that lives holds it,
  and its queue is empty. A worker was killed as it took the message, or the broker lost its memory.

A run keeps its id, so that of several messages one begins it (``worker.ledger``).
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from celery import Celery
from celery.utils.log import get_logger
from django.db.models import Q, Value
from django.db.models.functions import Concat
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from scheduling import database
from scheduling.beat.batch import Batch
from scheduling.messages import RunMessage
from scheduling.models import Run, State
from scheduling.runs.nodes import live_workers, living
from scheduling.runs.queries import late_after

RECOVER_EVERY = 10.0  # seconds
MAX_SENDS = 5  # of one run, with a pause before each that is twice the one before
BATCH_SIZE = 100
NOT_BEGUN = Q(state__in=(State.SENT, State.RETRYING, State.LOST))

logger = get_logger(__name__)


def recover(app: Celery, connection: Any) -> bool:
    """Mark what has expired or is lost; send a batch again. Returns whether there may be more."""
    now = timezone.now()
    mark_expired(now)
    mark_lost(now)
    empty = [queue for queue in _queues_waited_for(now) if not _depth(connection, queue)]
    if not empty:
        return False
    with database.atomic():
        runs = list(_vanished(empty, now))
        _send_again(app, connection, runs, now)
    return len(runs) == BATCH_SIZE


def mark_expired(now: datetime) -> None:
    """End the runs that no worker began in time."""
    Run.objects.filter(state=State.SENT, attempts=0, expires_at__lt=now).update(
        state=State.EXPIRED, finished_at=now, reason="no worker began it in time"
    )


def mark_lost(now: datetime) -> None:
    """Mark the runs whose worker has gone."""
    begun = Run.objects.filter(state=State.STARTED).exclude(worker__in=live_workers())
    begun.update(
        state=State.LOST, ready_at=now, reason=Concat(Value("its worker has gone: "), "worker")
    )


def _queues_waited_for(now: datetime) -> Iterable[str]:
    waiting = Run.objects.filter(NOT_BEGUN, ready_at__lte=now, sends__lte=MAX_SENDS)
    return waiting.order_by("queue").values_list("queue", flat=True).distinct()


def _depth(connection: Any, queue: str) -> int:
    """How many messages wait in a queue; 0 if there is none."""
    try:
        with connection.channel() as channel:  # RabbitMQ closes it if there is no such queue
            count: int = channel.queue_declare(queue=queue, passive=True).message_count
            return count
    except connection.channel_errors:
        return 0


def _vanished(queues: list[str], now: datetime) -> Iterator[Run]:
    """Lock runs that are in none of these empty queues, and that no worker holds."""
    held = {UUID(key) for node in living(is_worker=True, now=now) for key in node.holds}
    rows = Run.objects.select_for_update(skip_locked=True).filter(NOT_BEGUN, queue__in=queues)
    for sends in range(1, MAX_SENDS + 1):
        pause = late_after() * 2 ** (sends - 1)
        waited = Q(ready_at__lt=now - pause) | Q(state=State.LOST, ready_at__lte=now)
        yield from rows.filter(waited, sends=sends).exclude(pk__in=held)[:BATCH_SIZE]


def _send_again(app: Celery, connection: Any, runs: list[Run], now: datetime) -> None:
    """Publish runs again, under their ids, or say why not."""
    rows = PeriodicTask.objects.in_bulk({run.periodic_task_id for run in runs})
    with connection.channel() as channel:
        batch = Batch(app, channel)
        for run in runs:
            row = rows.get(run.periodic_task_id)
            run.reason = _why_given_up(app, run, row)
            if run.reason:
                run.state, run.sends = State.LOST, MAX_SENDS + 1
            else:
                run.state, run.sends, run.ready_at = State.SENT, run.sends + 1, now
                _build(app, batch, run, row)
            logger.warning("beat: %s %s", run, run.reason or "vanished: sent again")
        for error in batch.send():
            if error:
                logger.error("beat: A run was not sent again: %s", error)
    Run.objects.bulk_update(runs, ["state", "reason", "sends", "ready_at"])


def _why_given_up(app: Celery, run: Run, row: PeriodicTask | None) -> str:
    """Why a run is not sent again; an empty text if it is."""
    if row is None:
        return "its message has vanished, and its schedule was deleted"
    if run.sends >= MAX_SENDS:
        return f"sent {run.sends} times, and no worker began it"
    task = app.tasks.get(run.task)
    if run.attempts and not getattr(task, "acks_late", app.conf.task_acks_late):
        return "its worker has gone, and its task must not run twice: it has acks_late=False"
    return ""


def _build(app: Celery, batch: Batch, run: Run, row: PeriodicTask) -> None:
    message = RunMessage(row, app=app)
    message.name_run(run.pk, run.scheduled_for, run.queued_at or run.scheduled_for, run.trigger)
    # A run that has begun does not expire.
    options = message.options | {"expires": None if run.attempts else run.expires_at}
    app.send_task(run.task, message.args, message.kwargs, producer=batch.producer, **options)
