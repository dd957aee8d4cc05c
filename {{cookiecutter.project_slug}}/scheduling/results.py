"""DatabaseBackend: django-celery-results', storing what an operator asks of a run."""

import logging
from collections.abc import Iterable
from datetime import datetime
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

from celery import states
from celery.signals import (
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_shutdown,
)
from django.db import (
    InterfaceError,
    OperationalError,
    close_old_connections,
    connection,
    transaction,
)
from django.utils import timezone
from django_celery_results import backends
from django_celery_results.models import TaskResult

from scheduling.history import FINISHED
from scheduling.models import Run

BATCH = 500  # what is written at once
PAUSE = 0.1  # seconds between two batches: what comes meanwhile is the next
RETRY = 5.0  # seconds between two tries while the database is away
MOST = 100_000  # what waits for the database at most
Record = tuple[TaskResult, Run | None]

logger = logging.getLogger(__name__)


class DatabaseBackend(backends.DatabaseBackend):  # type: ignore[misc]  # it has no types
    """Stores results, and a ``Run`` beside that of a schedule's run, which does not wait for it."""

    def _store_result(
        self,
        task_id: str,
        result: Any,
        status: str,
        traceback: str | None = None,
        request: Any = None,
        using: str | None = None,
    ) -> Any:
        content_type, encoding, text = self.encode_content(result)
        stored = TaskResult(
            task_id=task_id,
            status=status,
            result=text,
            content_type=content_type,
            content_encoding=encoding,
            meta=self.encode_content({"children": self.current_task_children(request)})[2],
            date_started=timezone.now() if status == states.STARTED else None,
            **self._get_extended_properties(request, traceback and storable(traceback)),
        )
        run = run_of(request, status)
        if run and recorder:
            recorder.put((stored, run))
        else:
            write([(stored, run)])
        return text


def run_of(request: Any, status: str) -> Run | None:
    """The run that a task's request is for, by the headers of beat's message, in a state now."""
    headers = getattr(request, "headers", None) or {}
    if "scheduled_for" not in headers or "periodic_task_name" not in headers:
        return None
    queued_at, now = headers.get("queued_at"), timezone.now()
    try:
        due = datetime.fromisoformat(headers["scheduled_for"])
        queued_at = queued_at and datetime.fromisoformat(queued_at)
    except (TypeError, ValueError):  # somebody else's headers
        return None
    return Run(
        schedule=headers["periodic_task_name"],
        scheduled_for=due,
        queued_at=queued_at,
        started_at=now if status == states.STARTED else None,
        finished_at=now if status in FINISHED else None,
        retries=request.retries or 0,
    )


def storable(text: str) -> str:
    """A text as databases take it: without NUL, which is none of Postgres' characters, and halves
    of characters, which are no UTF-8."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def write(records: Iterable[Record]) -> None:
    """Write results, each as it is last, but for when it was created and first started.

    The state that ends a run stays: another process may write later that it tries again.
    """
    last: dict[str, Record] = {}
    for result, run in records:
        earlier, before = last.get(result.task_id, (None, None))
        if started := getattr(earlier, "date_started", None):
            result.date_started = started  # type: ignore[attr-defined]  # its stubs lack it
        if run and before and before.started_at:
            run.started_at = before.started_at
        last[result.task_id] = result, run
    found = [last[task_id] for task_id in sorted(last)]  # in an order: no two lock each other out
    kept = ("id", "task_id", "date_created", "date_started")
    changing = [field.name for field in TaskResult._meta.fields if field.name not in kept]
    with transaction.atomic():
        going = {result.task_id for result, _ in found if result.status not in FINISHED}
        if going:
            # Only a row that exists can be locked until it is written.
            TaskResult.objects.bulk_create([result for result, _ in found], ignore_conflicts=True)
            rows = TaskResult.objects.select_for_update().filter(task_id__in=last)
            stored = rows.order_by("task_id").values_list("task_id", "status")
            ended = {task_id for task_id, status in stored if status in FINISHED}
            found = [(result, run) for result, run in found if result.task_id not in going & ended]
        TaskResult.objects.bulk_create(
            [result for result, _ in found],
            update_conflicts=True,
            unique_fields=["task_id"],
            update_fields=changing,
        )
        runs = []
        for result, run in found:
            if run:
                run.result = result
                runs.append(run)
        Run.objects.bulk_create(
            runs,
            update_conflicts=True,
            unique_fields=["result"],
            update_fields=["finished_at", "retries"],
        )
        # A process that was killed before it wrote its start: the next try's is the first.
        started = {run.pk: run.started_at for run in runs if run.started_at}
        for run in Run.objects.filter(pk__in=started, started_at=None):
            run.started_at = started[run.pk]
            run.save(update_fields=["started_at"])


class Recorder(Thread):
    """Writes the runs of a worker's process, many at once: no run waits for its history, or fails
    with it. While the database is away, they wait for it. What the last tenth of a second brought
    is lost if the process is killed."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="history")
        self.records: SimpleQueue[Record | None] = SimpleQueue()
        self.ending = Event()
        self.starting = Lock()

    def put(self, record: Record) -> None:
        with self.starting:  # tasks may be threads
            if not self.ident:
                self.start()  # not before there is something to do: it does not survive a fork
        if self.records.qsize() < MOST:
            self.records.put(record)
        else:
            logger.error("history: %s is not kept: too many wait", record[0].task_id)

    def end(self) -> None:
        """Write what waits."""
        self.ending.set()
        if self.ident:
            self.records.put(None)
            self.join(RETRY)

    def run(self) -> None:
        try:
            while first := self.records.get():
                batch = [first]
                while not self.records.empty() and len(batch) < BATCH:
                    if not (record := self.records.get()):
                        return self.keep(batch)
                    batch.append(record)
                self.keep(batch)
                self.ending.wait(PAUSE)
        finally:
            connection.close()  # this thread's

    def keep(self, batch: list[Record]) -> None:
        while True:
            try:
                close_old_connections()
                return write(batch)
            except (OperationalError, InterfaceError) as error:
                connection.close()
                if self.ending.is_set():
                    return logger.error("history: %s are not kept: %s", len(batch), error)
                logger.error("history: %s wait for the database: %s", len(batch), error)
                self.ending.wait(RETRY)
            except Exception:  # of one that cannot be written: the others are
                if len(batch) == 1:
                    return logger.exception("history: %s is not kept", batch[0][0].task_id)
                for record in batch:
                    self.keep([record])
                return


recorder: Recorder | None = None  # of a worker's process


@worker_init.connect
@worker_process_init.connect
def start_recorder(**kwargs: Any) -> None:
    global recorder
    recorder = Recorder()


@worker_process_shutdown.connect
@worker_shutdown.connect
def end_recorder(**kwargs: Any) -> None:
    if recorder:
        recorder.end()
