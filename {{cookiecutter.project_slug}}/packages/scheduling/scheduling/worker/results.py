"""DatabaseBackend: django-celery-results', which also writes the history of schedules' runs."""

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
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils import timezone
from django_celery_results import backends
from django_celery_results.models import TaskResult

from scheduling import database
from scheduling.models import FINISHED, Run

WRITE_BATCH_SIZE = 500
WRITE_EVERY = 0.1  # seconds between two batches
DATABASE_RETRY = 5.0  # seconds between two tries while the database is away
MAX_PENDING = 100_000  # records that wait for the database
Record = tuple[TaskResult, Run | None]

logger = logging.getLogger(__name__)


class DatabaseBackend(backends.DatabaseBackend):  # type: ignore[misc]  # it has no types
    """Stores results. A schedule's run does not wait for its own result to be stored."""

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
        if not run and status in FINISHED and getattr(request, "called_directly", True):
            # Another task says it: one before it in a chain, or in a chord's header, has failed.
            runs = Run.objects.filter(result__task_id=task_id, finished_at=None)
            runs.update(finished_at=timezone.now())
        return text


def run_of(request: Any, status: str) -> Run | None:
    """The Run of a task's request, with the times that ``status`` sets; None unless beat sent it."""
    headers = getattr(request, "headers", None) or {}
    if "scheduled_for" not in headers or "periodic_task_name" not in headers:
        return None
    if headers.get("run_id", request.id) != request.id:  # a part of what replaced its task
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
    """Escape NUL (Postgres) and lone surrogates (UTF-8)."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def write(records: Iterable[Record]) -> None:
    """Upsert the latest state of each; keep the first created and started times.

    A final state stays: another process may write "retrying" after it.
    """
    latest = latest_records(records)
    with database.atomic():
        latest = without_ended(latest)
        write_results([result for result, _ in latest])
        runs = []
        for result, run in latest:
            if run:
                run.result = result
                runs.append(run)
        write_runs(runs)


def latest_records(records: Iterable[Record]) -> list[Record]:
    """The last record of each task, with its first start. Sorted by task id, to avoid deadlocks."""
    latest: dict[str, Record] = {}
    for result, run in records:
        earlier, earlier_run = latest.get(result.task_id, (None, None))
        if started_at := getattr(earlier, "date_started", None):
            result.date_started = started_at  # type: ignore[attr-defined]  # its stubs lack it
        if run and earlier_run and earlier_run.started_at:
            run.started_at = earlier_run.started_at
        latest[result.task_id] = result, run
    return [latest[task_id] for task_id in sorted(latest)]


def without_ended(records: list[Record]) -> list[Record]:
    """Lock the rows, and leave out what would write over a final state, except a missing run."""
    going = {result.task_id for result, _ in records if result.status not in FINISHED}
    if not going:
        return records
    # Only a row that exists can be locked until it is written.
    TaskResult.objects.bulk_create([result for result, _ in records], ignore_conflicts=True)
    task_ids = [result.task_id for result, _ in records]
    rows = TaskResult.objects.select_for_update().filter(task_id__in=task_ids)
    stored = rows.order_by("task_id").values_list("task_id", "status", "pk", "date_done")
    ended = {task_id: row for task_id, status, *row in stored if status in FINISHED}
    kept, missing = [], []
    for result, run in records:
        if result.task_id not in going & ended.keys():
            kept.append((result, run))
        elif run:
            run.result_id, run.finished_at = ended[result.task_id]
            missing.append(run)
    Run.objects.bulk_create(missing, ignore_conflicts=True)
    return kept


def write_results(results: list[TaskResult]) -> None:
    first_values = ("id", "task_id", "date_created", "date_started")
    TaskResult.objects.bulk_create(
        results,
        update_conflicts=True,
        unique_fields=["task_id"],
        update_fields=[
            field.name for field in TaskResult._meta.fields if field.name not in first_values
        ],
    )


def write_runs(runs: list[Run]) -> None:
    Run.objects.bulk_create(
        runs,
        update_conflicts=True,
        unique_fields=["result"],
        update_fields=["finished_at", "retries"],
    )
    # If a killed process did not write its start, the start of the next try is the first.
    started_at = {run.pk: run.started_at for run in runs if run.started_at}
    for run in Run.objects.using(database.alias()).filter(pk__in=started_at, started_at=None):
        run.started_at = started_at[run.pk]
        run.save(update_fields=["started_at"])


class Recorder(Thread):
    """Writes the runs of a worker process in batches. No run waits for its history.

    While the database is away, records wait for it. A killed process loses those of the last tenth
    of a second.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True, name="history")
        self.records: SimpleQueue[Record | None] = SimpleQueue()
        self.ending = Event()
        self.starting = Lock()

    def put(self, record: Record) -> None:
        with self.starting:  # tasks may be threads
            if not self.ident:
                self.start()  # only now: a thread does not survive a fork
        if self.records.qsize() < MAX_PENDING:
            self.records.put(record)
        else:
            logger.error("history: %s is not kept: too many wait", record[0].task_id)

    def end(self) -> None:
        """Write what waits, and end."""
        self.ending.set()
        if self.ident:
            self.records.put(None)
            self.join(DATABASE_RETRY)

    def run(self) -> None:
        try:
            while first := self.records.get():
                batch = [first]
                while not self.records.empty() and len(batch) < WRITE_BATCH_SIZE:
                    if not (record := self.records.get()):
                        return self.keep(batch)
                    batch.append(record)
                self.keep(batch)
                self.ending.wait(WRITE_EVERY)
        finally:
            database.connection().close()  # this thread's

    def keep(self, batch: list[Record]) -> None:
        while True:
            try:
                close_old_connections()
                return write(batch)
            except (OperationalError, InterfaceError) as error:
                database.connection().close()
                if self.ending.is_set():
                    return logger.error("history: %s are not kept: %s", len(batch), error)
                logger.error("history: %s wait for the database: %s", len(batch), error)
                self.ending.wait(DATABASE_RETRY)
            except Exception:  # one of them cannot be written; the others can
                if len(batch) == 1:
                    return logger.exception("history: %s is not kept", batch[0][0].task_id)
                for record in batch:
                    self.keep([record])
                return


recorder: Recorder | None = None  # of a worker process


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
