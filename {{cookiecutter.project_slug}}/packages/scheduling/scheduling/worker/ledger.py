"""What a worker writes into the ledger: the fence before each run, and how the run went.

``begin`` is a compare-and-set on the run's row, so of several messages of one run one begins it.
All later events are written in batches, by a thread of ``worker.recorder``.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import DatabaseError, InterfaceError
from django.db.models import F, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from scheduling import database
from scheduling.models import ENDED, Run, State
from scheduling.runs.nodes import live_workers

MAY_BEGIN = Q(state__in=(State.SENT, State.RETRYING, State.LOST))
EVENT_FIELDS = ("state", "reason", "retries", "ready_at", "finished_at", "error", "traceback")
LONGEST_LINE = 500

node = ""  # this worker's name in the ledger: see worker.heartbeat
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Event:
    """What happened to a run."""

    run: Run  # as its message describes it: its row may be missing if a beat died
    values: dict[str, Any] = field(default_factory=dict)  # of EVENT_FIELDS
    worker: str = ""


def run_of(task: str, task_id: str, headers: Mapping[str, Any] | None, queue: str) -> Run | None:
    """The run that a message names; None unless beat or "run now" sent it."""
    headers = headers or {}
    try:
        return Run(
            id=UUID(task_id),
            periodic_task_id=headers["periodic_task_id"],
            schedule=headers["periodic_task_name"],
            task=task,
            scheduled_for=datetime.fromisoformat(headers["scheduled_for"]),
            queued_at=datetime.fromisoformat(headers["queued_at"]),
            trigger=headers["run_trigger"],
            queue=queue,
        )
    except (AttributeError, KeyError, TypeError, ValueError):  # somebody else's headers
        return None


def run_of_request(request: Any, with_parts: bool = False) -> Run | None:
    """The same for a task's request; ``with_parts``, also for a part of what replaced its task."""
    queue = (request.delivery_info or {}).get("routing_key") or ""
    task_id = (request.headers or {}).get("run_id", request.id)
    if task_id != request.id and not with_parts:
        return None
    return run_of(getattr(request, "task", ""), task_id, request.headers, queue)


def begin(request: Any) -> bool:
    """Whether a message may begin its run.

    It may not if the run has ended, or if another message has begun it at a worker that lives.
    While the database is away, each message begins: a run is rather begun twice than not at all.
    """
    run = None if request.is_eager else run_of_request(request)
    if not run:
        return True
    try:
        begun = _set_started(run, request.retries or 0)
    except (DatabaseError, InterfaceError) as error:
        logger.error("ledger: %s begins without its row: %s", run, error)
        return True
    if not begun:
        logger.warning("ledger: %s has begun already or has ended: dropped %s", run, run.pk)
    return begun


def _set_started(run: Run, retries: int) -> bool:
    row = Run.objects.filter(pk=run.pk)
    started = {
        "state": State.STARTED,
        "worker": node,
        "attempts": F("attempts") + 1,
        "retries": retries,
        "reason": "",
        "started_at": Coalesce("started_at", timezone.now()),
    }
    may_begin = MAY_BEGIN | Q(state=State.STARTED, retries__lt=retries)
    if row.filter(may_begin).update(**started):
        return True
    # Beat has not committed the row yet, which this waits for, or was killed before it did.
    Run.objects.bulk_create([run], ignore_conflicts=True)
    its_worker_is_gone = Q(state=State.STARTED) & ~Q(worker__in=live_workers())
    return bool(row.filter(may_begin | its_worker_is_gone).update(**started))


def release(request: Any) -> None:
    """Let another message begin the run that this one began."""
    _give_up(request, state=State.SENT, ready_at=timezone.now())


def hand_on(request: Any) -> None:
    """Let what replaces the task go on with its run. Nobody knows when: beat must not resend it."""
    _give_up(request, state=State.RETRYING, ready_at=None, reason="replaced by other tasks")


def _give_up(request: Any, **values: Any) -> None:
    if not (run := run_of_request(request)):
        return
    try:
        Run.objects.filter(pk=run.pk, state=State.STARTED, worker=node).update(**values)
    except (DatabaseError, InterfaceError) as error:
        logger.error("ledger: %s still counts as started: %s", run, error)


def write(events: Iterable[Event]) -> None:
    """Bring the rows of some runs forward, to the last event of each.

    A final state stays, and so does a run that has begun anew at another worker.
    """
    latest = {event.run.pk: event for event in events}
    with database.atomic():
        rows = Run.objects.select_for_update().filter(pk__in=latest).order_by("pk")
        stored = {row.pk: row for row in rows}
        changed = []
        for key in sorted(latest):  # always in one order, to avoid deadlocks
            event = latest[key]
            row = stored.get(key, event.run)
            taken_over = row.state == State.STARTED and row.worker != event.worker
            if row.state in ENDED or taken_over:
                continue
            for name, value in event.values.items():
                setattr(row, name, value)
            changed.append(row)
        Run.objects.bulk_create(
            changed, update_conflicts=True, unique_fields=["id"], update_fields=EVENT_FIELDS
        )


def line(text: str) -> str:
    """The first line of a text, as databases store it."""
    return storable(text).partition("\n")[0][:LONGEST_LINE]


def storable(text: str) -> str:
    """Escape NUL (Postgres) and lone surrogates (UTF-8)."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
