"""DatabaseScheduler: django-celery-beat's, claiming each due run in the database.

One idea keeps the promises: a due run is claimed in the transaction that publishes it. Beat locks
the rows of a batch, publishes those that are still as it read them, marks them with their run time,
and commits. So with any number of beats and no leader:

- no run is sent twice, unless a beat dies, or loses the database to another, between publishing and
  commit: then at most one batch;
- what could not be published was never marked, and is tried again;
- ``last_run_at`` is always true.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from celery.utils.log import get_logger
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import Case, F, Q, When
from django.utils import timezone
from django_celery_beat import schedulers
from django_celery_beat.models import PeriodicTask
from kombu.exceptions import OperationalError

from scheduling.beat.due_queue import POLL_EVERY, DueEntry, DueQueue
from scheduling.messages import RunMessage, run_id
from scheduling.models import Heartbeat
from scheduling.timing import celery_schedule, next_due

CLAIM_BATCH_SIZE = 100  # the most runs that a dying beat may send twice
LOCKED_ROW_RETRY = timedelta(milliseconds=100)
REFUSED_RUN_RETRY = timedelta(minutes=1)  # Celery refused the run, not the broker
COLUMNS = [field.attname for field in PeriodicTask._meta.concrete_fields]
LONGEST_PAUSE = 5.0  # seconds between two tries while the broker or the database is away
HEARTBEAT_EVERY = 5.0  # seconds
runs_of = attrgetter("last_run_at", "total_run_count")  # only a claim changes them

logger = get_logger(__name__)


@dataclass
class Batch:
    """What became of the runs that were claimed together."""

    published: list[tuple[DueEntry, Any]] = field(default_factory=list)  # each with its row
    broker_error: OperationalError | None = None  # why the broker took no more


class DatabaseScheduler(schedulers.DatabaseScheduler):  # type: ignore[misc]  # it has no types
    """Sends each due run of the enabled rows once.

    tests/beat/test_scheduler.py lists what it overrides of Celery and django-celery-beat.
    """

    Entry = RunMessage
    has_heartbeat = True  # monitors ask for it: other schedulers have none
    schedule: dict[str, Any] = {}  # entries stay in the database; Celery wants a place for its own

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.failures = 0  # of the broker or the database, in a row
        self.is_prepared = False
        self.last_rejected_pk: int | None = None  # the row at which the broker failed last
        self.next_heartbeat = 0.0
        super().__init__(*args, **kwargs)
        self.queue = DueQueue(self.app.conf.beat_cron_starting_deadline)

    def setup_schedule(self) -> None:
        """Do nothing yet: the first tick reads the database, so beat may start before migrate."""

    def sync(self) -> None:
        """Do nothing: each claim writes its run times."""

    def tick(self) -> float:
        """Publish a batch of what is due. Return the number of seconds to wait before the next.

        While the broker or the database is away, try again after longer and longer pauses.
        """
        try:
            self.is_prepared = self.is_prepared or self._prepare()
            if not self.is_prepared:
                return POLL_EVERY
            self.queue.poll_changes()
            self._claim(self.queue.pop_due(CLAIM_BATCH_SIZE))
            self._write_heartbeat()
        except (DatabaseError, InterfaceError, OperationalError) as error:
            self.failures += 1
            pause: float = min(0.125 * 2**self.failures, LONGEST_PAUSE)
            logger.error("beat: %s Trying again in %s s.", str(error).strip(), pause)
            self._disconnect()
            return pause
        self.failures = 0
        return self.queue.seconds_until_next()

    def _prepare(self) -> bool:
        """Write the entries of Celery's settings. Returns False while there are no tables."""
        if self.Model._meta.db_table not in connection.introspection.table_names():
            logger.warning("beat: There are no tables yet: waiting for manage.py migrate.")
            return False
        self.install_default_entries({})
        self.update_from_dict(self.app.conf.beat_schedule)
        return True

    def _write_heartbeat(self) -> None:
        """Tell operators and monitors that this beat ticks."""
        if time.monotonic() < self.next_heartbeat:
            return
        self.next_heartbeat = time.monotonic() + HEARTBEAT_EVERY
        Heartbeat.objects.bulk_create(
            [Heartbeat(f"{socket.gethostname()}:{os.getpid()}", timezone.now())],
            update_conflicts=True,
            unique_fields=["beat"],
            update_fields=["ticked_at"],
        )

    def _claim(self, due: list[DueEntry]) -> None:
        """In one transaction, publish and mark the runs that are still as they were read.

        The rest is queued again. Raises kombu's ``OperationalError`` if the broker is away, after
        the commit of what it has taken.
        """
        if not due:
            return
        now = timezone.now()
        try:
            self._ensure_connected()  # before anything is locked
            with defer_signals(), transaction.atomic():
                batch = self._publish_batch(self._lock(due), now)
                self._mark([entry for entry, _ in batch.published])
            for entry, row in batch.published:
                self._advance(entry, row, entry.published_at or now)
        finally:
            self.queue.requeue(due)
        if batch.broker_error:
            raise batch.broker_error

    def _lock(self, due: list[DueEntry]) -> list[tuple[DueEntry, Any]]:
        """Lock the rows of a batch until the end of the transaction. Wait for none.

        Returns those that nobody has claimed, changed or paused since they were read.
        """
        keys = [entry.pk for entry in due]
        locked = self.Model.objects.select_for_update(skip_locked=True).filter(pk__in=keys)
        rows = {row.pk: row for row in locked.values_list("pk", *COLUMNS, named=True)}
        others = self.Model.objects.filter(pk__in=[pk for pk in keys if pk not in rows])
        locked_elsewhere = set(others.values_list("pk", flat=True))  # no query if there are none
        mine = []
        for entry in due:
            row = rows.get(entry.pk)
            if entry.pk in locked_elsewhere:
                self.queue.push(entry, retry_at=timezone.now() + LOCKED_ROW_RETRY)
            elif row is None or not row.enabled:
                self.queue.discard(entry)
            elif runs_of(row) == runs_of(entry) and self.queue.is_known(row):
                mine.append((entry, row))
            else:  # claimed or changed; a pause by update() leaves no date, and no last run
                self.queue.add(row, since=None if row.last_run_at else self.queue.read_at)
        return mine

    def _publish_batch(self, claimed: list[tuple[DueEntry, Any]], now: datetime) -> Batch:
        """Publish until the broker fails. If it fails at one row twice, put off that row and go on."""
        batch = Batch()
        for entry, row in claimed:
            try:
                if entry.published_at or self._publish(entry, row, self.producer, now):
                    batch.published.append((entry, row))
            except OperationalError as error:
                if self.last_rejected_pk != row.pk:
                    self.last_rejected_pk, batch.broker_error = row.pk, error
                    return batch
                self._put_off(entry, row, error)
                self.close()  # it may have hung up on this row: the next one connects anew
        return batch

    def _publish(self, entry: DueEntry, row: Any, producer: Any, now: datetime) -> bool:
        """Publish a run in Celery's own way. Returns whether it was published.

        Raises kombu's ``OperationalError`` if the broker did not take it, or hung up.
        """
        try:
            message = self.Entry(row, app=self.app)
        except ValueError as error:
            self.queue.complain(row, error)
            self.queue.discard(entry)
            return False
        message.schedule = celery_schedule(entry.timing)
        message.say_which_run(entry.due, now)
        message.options["task_id"] = run_id(row, entry.due)
        self.apply_entry(message, producer=producer)
        if isinstance(message.failure, (OperationalError, *self.connection.connection_errors)):
            raise OperationalError(str(message.failure)) from message.failure
        if message.failure:
            self._put_off(entry, row, message.failure)
            return False
        self.queue.complaints.pop(row.pk, None)
        entry.published_at, self.last_rejected_pk = now, None
        return True

    def _put_off(self, entry: DueEntry, row: Any, error: Exception) -> None:
        """Retry later a run that cannot be sent, so that the others do not wait for it."""
        self.queue.complain(row, error)
        self.queue.push(entry, retry_at=timezone.now() + REFUSED_RUN_RETRY)

    def _mark(self, published: list[DueEntry]) -> None:
        """Write beat's columns and disable what runs once, in one query except after an outage."""
        once = Q(one_off=True) | Q(clocked__isnull=False)
        for published_at in {entry.published_at for entry in published}:
            keys = [entry.pk for entry in published if entry.published_at == published_at]
            self.Model.objects.filter(pk__in=keys).update(
                last_run_at=published_at,
                total_run_count=F("total_run_count") + 1,
                enabled=Case(When(once, then=False), default=F("enabled")),
            )

    def _advance(self, entry: DueEntry, row: Any, ran_at: datetime) -> None:
        """Queue a row, whose run was committed, for its next run."""
        if row.one_off or row.clocked_id:
            return self.queue.discard(entry)
        entry.last_run_at, entry.published_at = ran_at, None
        entry.total_run_count += 1
        try:
            entry.due = next_due(entry.timing, ran_at)
        except Exception as error:
            self.queue.complain(row, error)
            return self.queue.discard(entry)
        self.queue.push(entry)

    def apply_async(self, entry: Any, **kwargs: Any) -> Any:
        """Record the failure: ``apply_entry()`` only logs it."""
        try:
            return super().apply_async(entry, **kwargs)
        except Exception as error:
            entry.failure = error.__context__ or error  # Celery wraps it
            raise

    def _ensure_connected(self) -> Any:
        """Connect at once or fail: Celery's own would hold beat up until the broker is back."""
        return self.connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)

    def _disconnect(self) -> None:
        """Close connections that may be broken. The next use connects anew."""
        self.close()
        with suppress(DatabaseError, InterfaceError):
            connection.close()


@contextmanager
def defer_signals() -> Iterator[None]:
    """Hold back the signals that end beat, so that it commits what it has published."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs handlers in the main thread only
        return
    received: list[int] = []
    handlers = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        handlers[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in received:
            signal.raise_signal(late)
