"""DatabaseScheduler: django-celery-beat's, claiming each due run in the database.

One idea keeps the promises: a due run is claimed in the transaction that publishes it. Beat locks
the schedules of a batch, inserts a row in the ledger for each run that is still as it read it, marks
the schedules, hands the batch to the broker in one call, and commits. So with any number of beats
and no leader:

- no run is sent twice, unless a beat dies, or loses the database, between that call and the commit:
  then at most one batch, under the same ids, and each run of it begins once;
- what could not be published was never marked, and is tried again;
- each due run is a row, and ``last_run_at`` is always true.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

from celery.utils.log import get_logger
from django.db import DatabaseError, InterfaceError
from django.db.models import Case, F, Q, When
from django.utils import timezone
from django_celery_beat import schedulers
from django_celery_beat.models import PeriodicTask
from kombu.exceptions import OperationalError

from scheduling import database
from scheduling.beat.batch import Batch
from scheduling.beat.claim import Claimed
from scheduling.beat.copies import Copies
from scheduling.beat.due_queue import POLL_EVERY, DueEntry, DueQueue
from scheduling.beat.insertion import insert
from scheduling.beat.recovery import RECOVER_EVERY, recover
from scheduling.messages import RunMessage
from scheduling.models import Node, Run
from scheduling.runs.nodes import GONE_AFTER, HEARTBEAT_EVERY
from scheduling.timing import celery_schedule, next_due

CLAIM_BATCH_SIZE = 500  # runs in one transaction, and in one call of the broker
LOCKED_ROW_RETRY = timedelta(milliseconds=100)
REFUSED_RUN_RETRY = timedelta(minutes=1)  # Celery refused the run, not the broker
COLUMNS = [field.attname for field in PeriodicTask._meta.concrete_fields]
LONGEST_PAUSE = 5.0  # seconds between two tries while the broker or the database is away

logger = get_logger(__name__)


class DatabaseScheduler(schedulers.DatabaseScheduler):  # type: ignore[misc]  # it has no types
    """Sends each due run of the enabled rows once.

    tests/beat/test_scheduler.py lists what it overrides of Celery and django-celery-beat.
    """

    Entry = RunMessage
    has_heartbeat = True  # monitors ask for it: other schedulers have none
    schedule: dict[str, Any] = {}  # entries stay in the database; Celery wants a place for its own

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.batch_size = CLAIM_BATCH_SIZE
        self.failures = 0  # of the broker or the database, in a row
        self.is_prepared = False
        self.last_rejected_pk: int | None = None  # the row at which the broker failed last
        self.next_heartbeat = 0.0
        self.next_recovery = time.monotonic() + GONE_AFTER.total_seconds()
        self.node = f"{socket.gethostname()}:{os.getpid()}"
        super().__init__(*args, **kwargs)
        self.queue = DueQueue(self.app.conf.beat_cron_starting_deadline)
        self.copies = Copies(self)

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
            self._claim(self.queue.pop_due(self.batch_size))
            self._write_heartbeat()
            self._recover()
        except (DatabaseError, InterfaceError, OperationalError) as error:
            self.failures += 1
            self.batch_size = max(
                1, self.batch_size // 2
            )  # until it finds the run that is to blame
            self._wait_for_workers()
            pause: float = min(0.125 * 2**self.failures, LONGEST_PAUSE)
            logger.error("beat: %s Trying again in %s s.", str(error).strip(), pause)
            self._disconnect()
            return pause
        self.failures = 0
        self.batch_size = min(2 * self.batch_size, CLAIM_BATCH_SIZE)
        return self.queue.seconds_until_next()

    def _prepare(self) -> bool:
        """Write the entries of Celery's settings. Returns False while there are no tables."""
        if self.Model._meta.db_table not in database.connection().introspection.table_names():
            logger.warning("beat: There are no tables yet: waiting for manage.py migrate.")
            return False
        if not self.app.backend.supports_autoexpire:
            self.install_default_entries({})  # a daily clean-up of the team's results
        self.update_from_dict(self.app.conf.beat_schedule)
        return True

    def _write_heartbeat(self) -> None:
        """Tell operators and monitors that this beat ticks."""
        if time.monotonic() < self.next_heartbeat:
            return
        self.next_heartbeat = time.monotonic() + HEARTBEAT_EVERY
        Node.objects.bulk_create(
            [Node(name=self.node, is_worker=False, seen_at=timezone.now())],
            update_conflicts=True,
            unique_fields=["name"],
            update_fields=["seen_at"],
        )

    def _recover(self) -> None:
        """Look after the runs that workers or the broker have lost."""
        if time.monotonic() >= self.next_recovery:
            self.next_recovery = time.monotonic() + RECOVER_EVERY
            if recover(self.app, self.producer.channel.connection.client):
                self.next_recovery = 0.0

    def _wait_for_workers(self) -> None:
        """Judge no worker before it could write a heartbeat: the database may have been away."""
        self.next_recovery = time.monotonic() + GONE_AFTER.total_seconds()

    def _claim(self, due: list[DueEntry]) -> None:
        """In one transaction, record, publish and mark the runs that are still as they were read.

        The rest is queued again. Raises kombu's ``OperationalError`` if the broker is away.
        """
        if not due:
            return
        try:
            producer = self.producer  # connects, before anything is locked
            with defer_signals(), database.atomic():
                claimed = self._lock(due, timezone.now())
                missed = [run for c in claimed for run in c.missed()]
                if missed:
                    Run.objects.bulk_create(missed, ignore_conflicts=True)
                self._disable([c for c in claimed if c.entry.has_expired])
                sent = self._send([c for c in claimed if c.is_due], producer)
            for run in missed:
                logger.warning("beat: Skipped %s: %s. Times: %s", run, run.reason, run.due_times)
            for c in claimed:
                c.entry.missed_from = None
                if c.entry.due is None or c.entry.has_expired:
                    self.queue.discard(c.entry)
            for c in sent:
                self.queue.complaints.pop(c.row.pk, None)
                self._advance(c)
        finally:
            self.queue.requeue(due)

    def _lock(self, due: list[DueEntry], now: datetime) -> list[Claimed]:
        """Lock the rows of a batch until the end of the transaction. Wait for none.

        Returns those that nobody has claimed, changed or paused since they were read.
        """
        keys = [entry.pk for entry in due]
        stored = self.Model.objects.using(database.alias())
        locked = stored.select_for_update(skip_locked=True).filter(pk__in=keys)
        rows = {row.pk: row for row in locked.values_list("pk", *COLUMNS, named=True)}
        others = stored.filter(pk__in=[pk for pk in keys if pk not in rows])
        locked_elsewhere = set(others.values_list("pk", flat=True))  # no query if there are none
        mine = []
        for entry in due:
            row = rows.get(entry.pk)
            if entry.pk in locked_elsewhere:
                self.queue.push(entry, retry_at=now + LOCKED_ROW_RETRY)
            elif row is None or not row.enabled:
                self.queue.discard(entry)
            elif is_unclaimed(entry, row) and self.queue.is_known(row):
                mine.append(Claimed(entry, row, now))
            else:  # claimed or changed; update() leaves no date, and maybe no last run
                self.queue.add(row, since=None if row.last_run_at else self.queue.read_at)
        return mine

    def _send(self, claimed: list[Claimed], producer: Any) -> list[Claimed]:
        """Record and publish runs. Returns those that the broker has.

        What the ledger has already is not published again: a beat that died before its commit
        published it, and a worker has begun it.
        """
        batch = Batch(self.app, producer.channel)
        known = self._known(claimed)
        sent = [c for c in claimed if c.run_id in known]
        built = [c for c in claimed if c.run_id not in known and self._build(c, batch)]
        self._record(sent, built, batch)
        # The last before the commit: a beat that dies in between doubles the batch.
        errors = self._publish(batch, built)
        for c in built:
            if error := errors[c.position]:
                self._take_back(c)
                self._put_off(c, error)
            else:
                sent.append(c)
        return sent

    def _record(self, sent: list[Claimed], built: list[Claimed], batch: Batch) -> None:
        """Insert the rows of runs that are about to be sent, and mark the schedules."""
        insert([c.values(batch.queue(c.position)) for c in built])
        if made_up := [run for c in sent + built for run in c.made_up]:
            Run.objects.bulk_create(made_up, ignore_conflicts=True)
        self._mark(sent + built)

    def _take_back(self, c: Claimed) -> None:
        """Record that the broker refused a run: it is due as before."""
        Run.objects.filter(pk__in=[c.run_id, *(run.pk for run in c.made_up)]).delete()
        before = {name: getattr(c.row, name) for name in ("last_run_at", "total_run_count")}
        self.Model.objects.filter(pk=c.row.pk).update(enabled=True, **before)

    def _known(self, claimed: list[Claimed]) -> set[UUID]:
        """The ids of the runs that the ledger has."""
        stored = Run.objects.using(database.alias()).filter(pk__in=[c.run_id for c in claimed])
        return set(stored.values_list("pk", flat=True)) if claimed else set()

    def _build(self, c: Claimed, batch: Batch) -> bool:
        """Build a run's message in Celery's own way, into the batch. Returns whether it is there.

        Raises kombu's ``OperationalError`` if the broker is away.
        """
        try:
            c.message = self.Entry(c.row, app=self.app)
        except ValueError as error:
            self.queue.complain(c.row, error)
            self.queue.discard(c.entry)
            return False
        c.message.schedule = celery_schedule(c.entry.timing)
        c.message.name_run(c.run_id, c.due, c.now, c.trigger)
        c.position = len(batch.messages)
        self.apply_entry(c.message, producer=batch.producer)
        failure = c.message.failure
        of_broker = (OperationalError, *self.connection.connection_errors)
        if failure and isinstance(failure, of_broker):
            self._reject(c, failure)
        if failure:
            self._put_off(c, failure)
        return failure is None

    def _publish(self, batch: Batch, built: list[Claimed]) -> list[Exception | None]:
        """Hand a batch to the broker. Returns why it refused each run, or None."""
        try:
            return batch.send()
        except OperationalError as error:
            if len(built) == 1:
                self._reject(built[0], error)
            raise  # the next batch is half as large

    def _reject(self, c: Claimed, error: Exception) -> NoReturn:
        """Give up the batch. When the broker fails at one run twice, put off that run."""
        if self.last_rejected_pk == c.row.pk:
            self._put_off(c, error)
        self.last_rejected_pk = c.row.pk
        raise OperationalError(str(error)) from error

    def _put_off(self, c: Claimed, error: Exception) -> None:
        """Retry later a run that cannot be sent, so that the others do not wait for it."""
        self.queue.complain(c.row, error)
        self.queue.push(c.entry, retry_at=c.now + REFUSED_RUN_RETRY)

    def _disable(self, expired: list[Claimed]) -> None:
        """Disable rows that send no more runs, as django-celery-beat does."""
        if expired:
            rows = self.Model.objects.filter(pk__in=[c.row.pk for c in expired])
            rows.update(enabled=False, last_run_at=None)

    def _mark(self, sent: list[Claimed]) -> None:
        """Write beat's columns, and disable what runs once."""
        once = Q(one_off=True) | Q(clocked__isnull=False)
        for now in {c.now for c in sent}:
            self.Model.objects.filter(pk__in=[c.row.pk for c in sent]).update(
                last_run_at=now,
                total_run_count=F("total_run_count") + 1,
                enabled=Case(When(once, then=False), default=F("enabled")),
            )

    def _advance(self, c: Claimed) -> None:
        """Queue a row, whose run was committed, for its next run."""
        entry = c.entry
        if c.row.one_off or c.row.clocked_id:
            return self.queue.discard(entry)
        entry.last_run_at = c.now
        entry.total_run_count += 1
        try:
            entry.due = next_due(entry.timing, c.now)
        except Exception as error:
            self.queue.complain(c.row, error)
            return self.queue.discard(entry)
        self.queue.push(entry)

    def apply_async(self, entry: Any, producer: Any = None, **kwargs: Any) -> Any:
        """Publish a copy, if possible. Record a failure: ``apply_entry()`` only logs it."""
        batch = producer.channel
        try:
            if self.copies.publish(entry, batch):
                return None
            result = super().apply_async(entry, producer=producer, **kwargs)
            self.copies.learn(entry, batch)
            return result
        except Exception as error:
            entry.failure = error.__context__ or error  # Celery wraps it
            raise

    def _ensure_connected(self) -> Any:
        """Connect at once or fail: Celery's own would hold beat up until the broker is back."""
        return self.connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)

    def _disconnect(self) -> None:
        """Close connections that may be broken. The next use connects anew."""
        self.close()
        self.copies = Copies(self)
        with suppress(DatabaseError, InterfaceError):
            database.connection().close()


def is_unclaimed(entry: DueEntry, row: Any) -> bool:
    """Whether nobody has sent an entry's run, or paused and resumed the row since it was due.

    Only a claim changes ``total_run_count``. ``last_run_at`` is also cleared by a resumption, which
    leaves a date, and by the reset of django-celery-beat's documentation, which does not.
    """
    if row.total_run_count != entry.total_run_count:
        return False
    if row.last_run_at is None:
        return entry.last_run_at is None or bool(row.date_changed < entry.due)
    return bool(row.last_run_at == entry.last_run_at)


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
