"""DatabaseScheduler: django-celery-beat's, claiming each due run in the database.

One idea keeps the promises: a due run is claimed in the transaction that publishes it. The rows of
a batch are locked, and those that are still as this beat read them are published, marked with
their run time, and committed. So, with any number of beats and no leader, no run is sent twice
unless a beat dies, or loses the database to another, between publishing and commit, and then at
most a batch; what could not be published was never marked, and is tried again; and
``last_run_at`` is always true.
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from celery import current_app
from celery.utils.log import get_logger
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import Case, F, Q, When
from django.utils import timezone
from django_celery_beat import schedulers
from django_celery_beat.models import PeriodicTask
from kombu.exceptions import OperationalError

from scheduling.due import next_due, schedule_of
from scheduling.heap import LOOK_EVERY, Heap, Waiting, runs_of, when_of
from scheduling.models import Heartbeat

BATCH = 100  # runs claimed at once: what a beat that dies may double, at most
BUSY = timedelta(milliseconds=100)  # until a row that somebody else has locked is tried again
RETRY = timedelta(minutes=1)  # until a run that was refused by Celery, not by the broker, is
COLUMNS = [field.attname for field in PeriodicTask._meta.concrete_fields]
LONGEST_PAUSE = 5.0  # seconds between two tries while the broker or the database is away
BEAT_EVERY = 5.0  # seconds between two heartbeats

logger = get_logger(__name__)


class Entry(schedulers.ModelEntry):  # type: ignore[misc]  # it has no types
    """A row as it is published. Raises ``ValueError`` if it cannot be."""

    def __init__(self, model: Any, app: Any = None) -> None:
        self.app = app or current_app
        self.model, self.name, self.task = model, model.name, model.task
        self.last_run_at, self.total_run_count = model.last_run_at, model.total_run_count
        self.schedule: Any = None
        self.args = _loads(list, "args", model.args or "[]")
        self.kwargs = _loads(dict, "kwargs", model.kwargs or "{}")
        headers = _loads(dict, "headers", model.headers or "{}")
        options = {
            "queue": model.queue,
            "exchange": model.exchange,
            "routing_key": model.routing_key,
            "priority": model.priority,
            "expires": model.expires or model.expire_seconds,
            "headers": headers | {"periodic_task_name": model.name},
            "ignore_result": False,  # the run history is made of results
            "retry": False,  # the scheduler tries again, without holding up the rest
        }
        self.options = {name: value for name, value in options.items() if value is not None}
        self.failure: Exception | None = None


class DatabaseScheduler(schedulers.DatabaseScheduler):  # type: ignore[misc]
    """Sends each due run of the enabled rows once.

    What it overrides of Celery's and django-celery-beat's is listed in tests/test_scheduler.py.
    """

    Entry = Entry
    schedule: dict[str, Any] = {}  # entries stay in the database; Celery wants a place for its own

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.failures = 0  # of the broker or the database, in a row
        self.is_prepared = False
        self.suspect: int | None = None  # the row that the broker did not take last
        self.next_heartbeat = 0.0
        super().__init__(*args, **kwargs)
        self.heap = Heap(self.app.conf.beat_cron_starting_deadline)

    def setup_schedule(self) -> None:
        """Nothing yet: the first tick reads the database, so that beat may start before migrate."""

    def sync(self) -> None:
        """Nothing: run times are written with each claim."""

    def tick(self) -> float:
        """Publish a batch of what is due. Returns the seconds until there may be more to do.

        While the broker or the database is away it tries again, after longer and longer pauses.
        """
        try:
            self.is_prepared = self.is_prepared or self._prepare()
            if not self.is_prepared:
                return LOOK_EVERY
            self.heap.look()
            self._claim(self.heap.take(BATCH))
            self._say_that_it_ticks()
        except (DatabaseError, InterfaceError, OperationalError) as error:
            self.failures += 1
            pause: float = min(0.125 * 2**self.failures, LONGEST_PAUSE)
            logger.error("beat: %s Trying again in %s s.", str(error).strip(), pause)
            self._disconnect()
            return pause
        self.failures = 0
        return self.heap.pause()

    def _prepare(self) -> bool:
        """Write the entries that Celery's settings have; False while there are no tables."""
        if self.Model._meta.db_table not in connection.introspection.table_names():
            logger.warning("beat: There are no tables yet: waiting for manage.py migrate.")
            return False
        self.install_default_entries({})
        self.update_from_dict(self.app.conf.beat_schedule)
        return True

    def _say_that_it_ticks(self) -> None:
        """For operators and monitors: ``health`` tells how long ago a beat did."""
        if time.monotonic() < self.next_heartbeat:
            return
        self.next_heartbeat = time.monotonic() + BEAT_EVERY
        Heartbeat.objects.bulk_create(
            [Heartbeat(f"{socket.gethostname()}:{os.getpid()}", timezone.now())],
            update_conflicts=True,
            unique_fields=["beat"],
            update_fields=["ticked_at"],
        )

    def _claim(self, due: list[Waiting]) -> None:
        """In one transaction, publish and mark those of a batch that are still as they were read.

        What was not published waits on. Raises kombu's ``OperationalError`` if the broker is away,
        after the commit of what it has taken.
        """
        if not due:
            return
        now, away = timezone.now(), None
        published: list[tuple[Waiting, Any]] = []
        try:
            producer = self.producer  # connects, before anything is locked
            with uninterrupted(), transaction.atomic():
                for waiting, row in self._lock(due):
                    try:
                        if waiting.sent_at or self._publish(waiting, row, producer, now):
                            published.append((waiting, row))
                    except OperationalError as error:
                        if self.suspect == row.pk:  # connected anew, and again this one: its fault
                            self._put_off(waiting, row, error)
                            continue
                        self.suspect, away = row.pk, error
                        break
                self._mark([waiting for waiting, _ in published])
            for waiting, row in published:
                self._advance(waiting, row, waiting.sent_at or now)
        finally:
            self.heap.give_back(due)
        if away:
            raise away

    def _lock(self, due: list[Waiting]) -> list[tuple[Waiting, Any]]:
        """Lock the rows of a batch until the end of the transaction, without waiting for any.

        Returns those that nobody has claimed, changed or paused since they were read.
        """
        keys = [waiting.pk for waiting in due]
        locked = self.Model.objects.select_for_update(skip_locked=True).filter(pk__in=keys)
        rows = {row.pk: row for row in locked.values_list("pk", *COLUMNS, named=True)}
        others = self.Model.objects.filter(pk__in=[pk for pk in keys if pk not in rows])
        busy = set(others.values_list("pk", flat=True))  # no query if there are none
        mine = []
        for waiting in due:
            row = rows.get(waiting.pk)
            if waiting.pk in busy:
                self.heap.push(waiting, retry_at=timezone.now() + BUSY)
            elif row is None or not row.enabled:
                self.heap.forget(waiting)
            elif runs_of(row) == runs_of(waiting) and self.heap.is_known(row.pk, *when_of(row)):
                mine.append((waiting, row))
            else:  # claimed, or changed; a pause by update() has left no date, but no last run
                self.heap.wait(row, since=None if row.last_run_at else self.heap.known_at)
        return mine

    def _publish(self, waiting: Waiting, row: Any, producer: Any, now: datetime) -> bool:
        """Send a run by Celery's own way; whether it was. The broker being away is an error."""
        try:
            entry = self.Entry(row, app=self.app)
        except ValueError as error:
            self.heap.complain(row, error)
            self.heap.forget(waiting)
            return False
        entry.schedule = schedule_of(waiting.timing)
        due = waiting.due.astimezone(UTC).isoformat()
        entry.options["headers"] |= {"scheduled_for": due, "queued_at": now.isoformat()}
        # The same run has the same id, however often it is sent: so has the mail that it sends.
        run = f"{row.pk}/{row.total_run_count}/{due}"
        entry.options["task_id"] = str(uuid5(NAMESPACE_URL, run))
        self.apply_entry(entry, producer=producer)
        if isinstance(entry.failure, OperationalError):
            raise entry.failure
        if entry.failure:
            self._put_off(waiting, row, entry.failure)
            return False
        self.heap.complaints.pop(row.pk, None)
        waiting.sent_at, self.suspect = now, None
        return True

    def _put_off(self, waiting: Waiting, row: Any, error: Exception) -> None:
        """Try a run later that cannot be sent for its own fault; the others do not wait for it."""
        self.heap.complain(row, error)
        self.heap.push(waiting, retry_at=timezone.now() + RETRY)

    def _mark(self, sent: list[Waiting]) -> None:
        """Write beat's own columns, and end what runs once: a query, but after an outage."""
        once = Q(one_off=True) | Q(clocked__isnull=False)
        for sent_at in {waiting.sent_at for waiting in sent}:
            keys = [waiting.pk for waiting in sent if waiting.sent_at == sent_at]
            self.Model.objects.filter(pk__in=keys).update(
                last_run_at=sent_at,
                total_run_count=F("total_run_count") + 1,
                enabled=Case(When(once, then=False), default=F("enabled")),
            )

    def _advance(self, waiting: Waiting, row: Any, ran_at: datetime) -> None:
        """Let a row whose run was committed wait for the next."""
        if row.one_off or row.clocked_id:
            return self.heap.forget(waiting)
        waiting.last_run_at, waiting.sent_at = ran_at, None
        waiting.total_run_count += 1
        try:
            waiting.due = next_due(schedule_of(waiting.timing), ran_at)
        except Exception as error:
            self.heap.complain(row, error)
            return self.heap.forget(waiting)
        self.heap.push(waiting)

    def apply_async(self, entry: Any, **kwargs: Any) -> Any:
        """As Celery's, which ``apply_entry`` calls and whose failures it only logs."""
        try:
            return super().apply_async(entry, **kwargs)
        except Exception as error:
            entry.failure = error.__context__ or error  # Celery wraps it
            raise

    def _ensure_connected(self) -> Any:
        """At once or not at all: Celery's would hold beat up until the broker is back."""
        return self.connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)

    def _disconnect(self) -> None:
        """Let go of connections that may be broken; the next use makes them anew."""
        self.close()
        with suppress(DatabaseError, InterfaceError):
            connection.close()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back the signals that end beat: what is published is committed before it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where Python runs no handler
        return
    held: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for received in held:
            signal.raise_signal(received)


def _loads(kind: type, what: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} {text!r} are no JSON: {error}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{what} {text!r} are no JSON {'list' if kind is list else 'object'}")
    return value
