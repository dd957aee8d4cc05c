"""How late runs start, if at all: beat's messages say when they were due."""

import logging
from datetime import datetime
from typing import Any

from celery.signals import task_prerun, task_revoked
from django.conf import settings
from django.utils import timezone

logger = logging.getLogger(__name__)


@task_prerun.connect
def note_due_time(task: Any, **kwargs: Any) -> None:
    """Give a task ``self.request.scheduled_for``: when its run was due, None if it is no run.

    Logs a run that starts later than the setting ``LATE_AFTER`` says, in seconds.
    """
    text = (task.request.headers or {}).get("scheduled_for")
    due = task.request.scheduled_for = text and datetime.fromisoformat(text)
    if not due or task.request.retries:
        return
    late = (timezone.now() - due).total_seconds()
    if late > getattr(settings, "LATE_AFTER", 60):
        name = task.request.headers.get("periodic_task_name")
        logger.warning("%s, due at %s, starts %.0f s late (%s)", name, due, late, task.request.id)


@task_revoked.connect
def note_expiry(request: Any, expired: bool, **kwargs: Any) -> None:
    """Log a run that no worker took up before it expired."""
    headers = request.headers or {}
    if expired and "scheduled_for" in headers:
        name, due = headers.get("periodic_task_name"), headers["scheduled_for"]
        logger.warning("%s, due at %s, was not started: it had expired (%s)", name, due, request.id)
