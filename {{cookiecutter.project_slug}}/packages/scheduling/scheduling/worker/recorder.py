"""Tells the ledger how runs go: hears Celery's signals, and writes many runs at once."""

import logging
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any

from celery import signals, states
from celery.exceptions import InvalidTaskError, NotRegistered
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils import timezone

from scheduling import database
from scheduling.models import ENDED, Run, State
from scheduling.worker import ledger
from scheduling.worker.ledger import Event, line, run_of, run_of_request, storable

WRITE_BATCH_SIZE = 500
WRITE_EVERY = 0.1  # seconds between two batches
IDLE_SECONDS = 10  # then the connection is closed
DATABASE_RETRY = 5.0  # seconds between two tries while the database is away
MAX_PENDING = 100_000  # events that wait for the database

logger = logging.getLogger(__name__)


class Recorder(Thread):
    """Writes the events of a worker process in batches. No run waits for it.

    While the database is away, events wait for it. A killed process loses those of the last tenth
    of a second.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True, name="ledger")
        self.events: SimpleQueue[Event | None] = SimpleQueue()
        self.ending = Flag()
        self.starting = Lock()

    def put(self, event: Event) -> None:
        with self.starting:  # tasks may be threads
            if not self.ident:
                self.start()  # only now: a thread does not survive a fork
        if self.events.qsize() < MAX_PENDING:
            self.events.put(event)
        else:
            logger.error("ledger: %s is not recorded: too many wait", event.run.pk)

    def end(self) -> None:
        """Write what waits, and end."""
        self.ending.set()
        if self.ident:
            self.events.put(None)
            self.join(DATABASE_RETRY)

    def run(self) -> None:
        try:
            while first := self.wait():
                batch = [first]
                while not self.events.empty() and len(batch) < WRITE_BATCH_SIZE:
                    if not (event := self.events.get()):
                        return self.write(batch)
                    batch.append(event)
                self.write(batch)
                self.ending.wait(WRITE_EVERY)
        finally:
            database.connection().close()  # this thread's

    def wait(self) -> Event | None:
        """The next event; None at the end."""
        try:
            return self.events.get(timeout=IDLE_SECONDS)
        except Empty:
            database.connection().close()
            return self.events.get()

    def write(self, batch: list[Event]) -> None:
        while True:
            try:
                close_old_connections()
                return ledger.write(batch)
            except (OperationalError, InterfaceError) as error:
                database.connection().close()
                if self.ending.is_set():
                    return logger.error("ledger: %s are not recorded: %s", len(batch), error)
                logger.error("ledger: %s wait for the database: %s", len(batch), error)
                self.ending.wait(DATABASE_RETRY)
            except Exception:  # one of them cannot be written; the others can
                if len(batch) == 1:
                    return logger.exception("ledger: %s is not recorded", batch[0].run.pk)
                for event in batch:
                    self.write([event])
                return


recorder: Recorder | None = None  # of a worker process


@signals.worker_init.connect
@signals.worker_process_init.connect
def start_recorder(**kwargs: Any) -> None:
    global recorder
    recorder = Recorder()


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def end_recorder(**kwargs: Any) -> None:
    if recorder:
        recorder.end()


def record(
    run: Run | None, state: State, error: Any = None, einfo: Any = None, **values: Any
) -> None:
    """Record what happened to a run, if it is one. ``error`` is an exception."""
    if not run:
        return
    values = {
        "state": state,
        "finished_at": timezone.now() if state in ENDED else None,
        "error": line(f"{type(error).__name__}: {error}") if error else "",
        "traceback": storable(str(getattr(einfo, "traceback", None) or "")),
    } | values
    event = Event(run, values, ledger.node)
    if recorder:
        recorder.put(event)
    else:
        ledger.write([event])


@signals.task_success.connect
def record_success(sender: Any, **kwargs: Any) -> None:
    record(run_of_request(sender.request), State.SUCCEEDED)


@signals.task_failure.connect
def record_failure(sender: Any, exception: BaseException, einfo: Any, **kwargs: Any) -> None:
    record(run_of_request(sender.request, with_parts=True), State.FAILED, exception, einfo)


@signals.task_retry.connect
def record_retry(request: Any, einfo: Any, reason: Any = None, **kwargs: Any) -> None:
    """Record that a run waits for its next try. Celery gives no reason when it cancels a task."""
    when = getattr(reason, "when", None) or 0
    ready_at = when if isinstance(when, datetime) else timezone.now() + timedelta(seconds=when)
    error = getattr(reason, "exc", None)
    record(run_of_request(request), State.RETRYING, error, einfo, ready_at=ready_at)


@signals.task_revoked.connect
def record_revocation(request: Any, expired: bool, terminated: bool, **kwargs: Any) -> None:
    state, reason = State.CANCELLED, "terminated" if terminated else "revoked"
    if expired:
        state, reason = State.EXPIRED, "no worker began it in time"
    record(run_of_request(request), state, reason=reason)


@signals.task_unknown.connect
def record_unknown_task(message: Any, name: str, id: str, **kwargs: Any) -> None:
    run = run_of(name, id, message.headers, message.delivery_info.get("routing_key") or "")
    record(run, State.FAILED, error=NotRegistered(name))


@signals.task_rejected.connect
def record_rejected_message(message: Any, exc: Exception | None, **kwargs: Any) -> None:
    headers = message.headers or {}
    queue = message.delivery_info.get("routing_key") or ""
    run = run_of(str(headers.get("task")), str(headers.get("id")), headers, queue)
    record(run, State.FAILED, error=exc or InvalidTaskError("no task's message"))


@signals.task_postrun.connect
def record_ignored(task: Any, state: str, **kwargs: Any) -> None:
    """Record that a task raised ``Ignore``: not the fence, nor Celery when it replaces the task."""
    request = task.request
    goes_on = getattr(request, "refused", False) or getattr(request, "handed_on", False)
    if state == states.IGNORED and not goes_on:
        record(run_of_request(task.request), State.SUCCEEDED, reason="the task raised Ignore")
