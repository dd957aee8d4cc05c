"""What a worker adds to each task: its due time, how late it starts, a working connection."""

import logging
from datetime import datetime
from threading import current_thread, main_thread
from typing import Any

from celery import current_app
from celery.signals import (
    before_task_publish,
    task_postrun,
    task_prerun,
    task_revoked,
    worker_init,
)
from django.db import close_old_connections, connections
from django.utils import timezone

from scheduling.conf import conf
from scheduling.messages import RUN_HEADERS
from scheduling.worker import ledger

logger = logging.getLogger(__name__)


@worker_init.connect
def hand_on_runs(**kwargs: Any) -> None:
    """Only in workers: beat copies messages while nobody else has a say in them."""
    before_task_publish.connect(hand_on_run)


def hand_on_run(headers: dict[str, Any], **kwargs: Any) -> None:
    """Let all that replaces a run's task (``self.replace``) know the run.

    Celery gives the run's id to the last task of a replacement, which so ends the run.
    """
    parent: Any = current_app.current_worker_task
    if not parent or not headers.get("replaced_task_nesting"):
        return
    known = parent.request.headers or {}
    if "scheduled_for" in known:
        headers.update({name: known[name] for name in RUN_HEADERS if name in known})
        headers["run_id"] = known.get("run_id", parent.request.id)
        parent.request.handed_on = True
        ledger.hand_on(parent.request)


@task_prerun.connect
def note_due_time(task: Any, **kwargs: Any) -> None:
    """Set ``self.request.scheduled_for``: when the run was due; None if beat did not send it.

    Log a run that starts more than LATE_AFTER seconds late.
    """
    text = (task.request.headers or {}).get("scheduled_for")
    due = task.request.scheduled_for = text and datetime.fromisoformat(text)
    if not due or task.request.retries or task.request.replaced_task_nesting:
        return
    late = (timezone.now() - due).total_seconds()
    if late > conf.LATE_AFTER:
        name = task.request.headers.get("periodic_task_name")
        logger.warning("%s, due at %s, starts %.0f s late (%s)", name, due, late, task.request.id)


@task_revoked.connect
def log_expiry(request: Any, expired: bool, **kwargs: Any) -> None:
    """Log a run that expired before a worker took it up."""
    headers = request.headers or {}
    if expired and "scheduled_for" in headers:
        name, due = headers.get("periodic_task_name"), headers["scheduled_for"]
        logger.warning("%s, due at %s, was not started: it had expired (%s)", name, due, request.id)


@task_prerun.connect
@task_postrun.connect
def close_connections(task: Any, signal: Any, **kwargs: Any) -> None:
    """Close database connections that are too old or broken, as Django does around each request.

    CELERY_DB_REUSE_MAX in ``defaults`` lets a worker's process keep the others. A pool of threads
    or greenlets would keep one for each, so there a task closes its own.
    """
    if task.request.is_eager:
        return
    if signal is task_postrun and current_thread() is not main_thread():
        connections.close_all()
    else:
        close_old_connections()
