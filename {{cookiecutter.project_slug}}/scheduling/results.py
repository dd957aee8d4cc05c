"""DatabaseBackend: django-celery-results', storing what an operator asks of a run."""

import logging
from datetime import datetime
from typing import Any

from celery import states
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.utils import timezone
from django_celery_results import backends
from django_celery_results.models import TaskResult

from scheduling.models import Run

logger = logging.getLogger(__name__)


class DatabaseBackend(backends.DatabaseBackend):  # type: ignore[misc]  # it has no types
    """Stores results in a statement or two, and a ``Run`` beside that of a schedule's run."""

    def _store_result(
        self,
        task_id: str,
        result: Any,
        status: str,
        traceback: str | None = None,
        request: Any = None,
        using: str | None = None,
    ) -> Any:
        """History must not decide over a run: one that cannot be stored is logged."""
        now = timezone.now()
        content_type, encoding, text = self.encode_content(result)
        stored = TaskResult(
            task_id=task_id,
            status=status,
            result=text,
            content_type=content_type,
            content_encoding=encoding,
            meta=self.encode_content({"children": self.current_task_children(request)})[2],
            date_started=now if status == states.STARTED else None,
            date_done=now,
            **self._get_extended_properties(request, traceback),
        )
        for last_try in (False, True):
            try:
                self._write(stored, request)
                break
            except (DatabaseError, InterfaceError):
                connection.close()  # it may have been broken since the last task
                if last_try:
                    logger.exception("%s of %s is not in the history", status, task_id)
        return text

    def _write(self, stored: TaskResult, request: Any) -> None:
        """As it is now, but for the times at which it was queued and first started.

        After this try's start, which has stored all the rest, that is one statement, not two in a
        transaction.
        """
        fields = [field.name for field in TaskResult._meta.fields if not field.primary_key]
        first = ("task_id", "date_created", "date_started")
        changing = [name for name in fields if name not in first]
        if getattr(request, "is_in_history", False):
            values = {name: getattr(stored, name) for name in changing}
            if TaskResult.objects.filter(task_id=stored.task_id).update(**values):
                return
        with transaction.atomic():
            TaskResult.objects.bulk_create(
                [stored],
                update_conflicts=True,
                unique_fields=["task_id"],
                update_fields=changing,
            )
            if run := run_of(request):
                run.result = stored
                Run.objects.bulk_create(
                    [run],
                    update_conflicts=True,
                    unique_fields=["result"],
                    update_fields=["retries"],
                )
        if request:
            request.is_in_history = True


def run_of(request: Any) -> Run | None:
    """The run that a task's request is for, by the headers of beat's message."""
    headers = getattr(request, "headers", None) or {}
    if "scheduled_for" not in headers or "periodic_task_name" not in headers:
        return None
    queued_at = headers.get("queued_at")
    return Run(
        schedule=headers["periodic_task_name"],
        scheduled_for=datetime.fromisoformat(headers["scheduled_for"]),
        queued_at=queued_at and datetime.fromisoformat(queued_at),
        retries=request.retries or 0,
    )
