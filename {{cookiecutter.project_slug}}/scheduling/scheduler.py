"""DatabaseScheduler: django-celery-beat's, claiming each due run in the database.

One idea keeps the promises: a due run is claimed in the transaction that publishes it. The rows of
a batch are locked, and those that are still as this beat read them are published, marked with
their run time, and committed. So, with any number of beats and no leader, no run is sent twice
unless a beat dies between publishing and commit, and then at most a batch; what could not be
published was never marked, and is tried again; and ``last_run_at`` is always true.
"""

import gc
import heapq
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from celery import current_app
from celery.utils.log import get_logger
from django.db import DatabaseError, InterfaceError, close_old_connections, connection, transaction
from django.db.models import Case, F, Q, When
from django.utils import timezone
from django_celery_beat import schedulers
from kombu.exceptions import OperationalError

from scheduling.due import (
    EPOCH,
    TIMINGS,
    Timing,
    catch_up,
    first_due,
    next_due,
    read_timings,
    schedule_of,
)

BATCH = 100  # runs claimed at once: what a beat that dies may double, at most
CHUNK = 5_000  # rows read at once on a reload, between two batches
LOOK_EVERY = 1.0  # seconds between two looks for changes
BUSY = timedelta(milliseconds=100)  # until a row that somebody else has locked is tried again
RETRY = timedelta(minutes=1)  # until a run that was refused by Celery, not by the broker, is
LONGEST_PAUSE = 5.0  # seconds between two tries while the broker or the database is away
WHEN = [*(f"{name}_id" for name in TIMINGS), "start_time", "expires"]
RUNS = ["last_run_at", "total_run_count"]  # what a claim changes, and nobody else does
when_of, runs_of = attrgetter(*WHEN), attrgetter(*RUNS)

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
            "expires": model.expires_,
            "headers": headers | {"periodic_task_name": model.name},
            "retry": False,  # the scheduler tries again, without holding up the rest
        }
        self.options = {name: value for name, value in options.items() if value is not None}
        self.failure: Exception | None = None


@dataclass(slots=True)
class Waiting:
    """An enabled row as this beat read it, and when it is due."""

    pk: int
    name: str
    timing: Timing
    start_time: datetime | None
    expires: datetime | None
    last_run_at: datetime | None
    total_run_count: int  # a pause forgets the last run, but not that there was one
    due: datetime
    at: float = 0  # when it is tried: a timestamp, its place in the heap; 0 when taken out
    sent_at: datetime | None = None  # and not yet marked, as the database went away


class DatabaseScheduler(schedulers.DatabaseScheduler):  # type: ignore[misc]
    """Sends each due run of the enabled rows once.

    What it overrides of Celery's and django-celery-beat's is listed in tests/test_scheduler.py.
    """

    Entry = Entry
    schedule: dict[str, Any] = {}  # entries stay in the database; Celery wants a place for its own

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.waiting: dict[int, Waiting] = {}
        self.heap: list[tuple[float, int]] = []
        self.timings: dict[tuple[str, int], Timing] = {}
        self.complaints: dict[int, str] = {}  # of bad rows, so that each is made once
        self.reload: Iterator[None] | None = None
        self.last_change: datetime | None = None  # that was read
        self.known_at: datetime | None = None  # when all was known; None before the first time
        self.next_look = 0.0
        self.failures = 0  # of the broker or the database, in a row
        super().__init__(*args, **kwargs)
        self.deadline: float | None = self.app.conf.beat_cron_starting_deadline  # a slow look-up

    def setup_schedule(self) -> None:
        """Nothing yet: the first tick reads the database, so that beat may start before migrate."""

    def sync(self) -> None:
        """Nothing: run times are written with each claim."""

    def tick(self) -> float:
        """Publish a batch of what is due. Returns the seconds until there may be more to do.

        While the broker or the database is away it tries again, after longer and longer pauses.
        """
        try:
            self._look()
            self._claim(self._take_due())
        except (DatabaseError, InterfaceError, OperationalError) as error:
            self.failures += 1
            pause: float = min(0.125 * 2**self.failures, LONGEST_PAUSE)
            logger.error("beat: %s Trying again in %s s.", str(error).strip(), pause)
            self._disconnect()
            return pause
        self.failures = 0
        waits = [0.0 if self.reload else self.next_look - time.monotonic()]
        if self.heap:
            waits.append(self.heap[0][0] - timezone.now().timestamp())
        return max(0.0, min(waits))

    # What is enabled, and when it is due

    def _look(self) -> None:
        """Look for changes, once a second, and read them, a chunk a tick: nothing is held up."""
        if self.reload is None and time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + LOOK_EVERY
            close_old_connections()  # those too old or broken; the next query connects anew
            if self.known_at is None and not self._prepare():
                return
            now, change = timezone.now(), self.Changes.last_change()
            if self.known_at is None:
                for _ in self._read(now, change):
                    pass
                gc.freeze()  # or each full collection would look at all that waits: 0.1 s of 100,000
            elif change != self.last_change:
                self.reload = self._read(now, change)
            else:
                self.known_at = now
        if self.reload and next(self.reload, "done") == "done":
            self.reload = None

    def _prepare(self) -> bool:
        """Write the entries that Celery's settings have; False while there are no tables."""
        if self.Model._meta.db_table not in connection.introspection.table_names():
            logger.warning("beat: There are no tables yet: waiting for manage.py migrate.")
            return False
        self.install_default_entries({})
        self.update_from_dict(self.app.conf.beat_schedule)
        return True

    def _read(self, now: datetime, change: datetime | None) -> Iterator[None]:
        """Let all enabled rows wait that are new or have another time; the others go on waiting.

        Yields after each chunk. Only the columns that say when are read of all rows.
        """
        found = {key: timing for name in TIMINGS for key, timing in read_timings(name).items()}
        # The same object as long as it says the same: rows are compared by it.
        self.timings = {
            key: known if (known := self.timings.get(key)) == timing else timing
            for key, timing in found.items()
        }
        rows, last = self.Model.objects.filter(enabled=True).order_by("pk"), 0
        columns = ("pk", "name", *WHEN, *RUNS, "date_changed")
        while chunk := list(rows.filter(pk__gt=last).values_list("pk", *WHEN)[:CHUNK]):
            last = chunk[-1][0]
            changed = {pk for pk, *when in chunk if not self._is_known(pk, *when)}
            if changed:
                few = len(changed) <= BATCH
                where = {"pk__in": changed} if few else {"pk__gte": chunk[0][0], "pk__lte": last}
                for row in rows.filter(**where).values_list(*columns, named=True):
                    if row.pk in changed:
                        self._wait(row, since=self.known_at)
            yield
        if len(self.heap) > 2 * len(self.waiting):  # most of it has been replaced
            self.heap = [(waiting.at, pk) for pk, waiting in self.waiting.items() if waiting.at]
            heapq.heapify(self.heap)
        self.known_at, self.last_change = now, change

    def _is_known(self, pk: int, *columns: Any) -> bool:
        *keys, start_time, expires = columns
        waiting = self.waiting.get(pk)
        return (
            waiting is not None
            and waiting.start_time == start_time
            and waiting.expires == expires
            and waiting.timing is self._timing(keys)
        )

    def _timing(self, keys: list[int | None]) -> Timing | None:
        """What says when, by a row's foreign keys; None unless it is exactly one."""
        given = [(name, key) for name, key in zip(TIMINGS, keys, strict=True) if key is not None]
        if len(given) != 1:
            return None
        if given[0] not in self.timings:  # made after all were read
            self.timings |= read_timings(given[0][0], pk=given[0][1])
        return self.timings.get(given[0])

    def _wait(self, row: Any, since: datetime | None = None) -> None:
        """Let a row wait for its next run. A bad one is logged and skipped.

        It counts from its last run, or from when it was saved, which forgets the last run if it
        changes the time (``models.keep_run_times``); and if it is new to this beat, from ``since``.
        """
        self.waiting.pop(row.pk, None)
        *keys, start_time, expires = when_of(row)
        timing = self._timing(keys)
        start = row.last_run_at or row.date_changed
        if since:
            start = max(start, since)
        try:
            if timing is None:
                raise ValueError("it has no schedule, or several")
            due = first_due(schedule_of(timing), row.last_run_at, start, start_time)
        except Exception as error:  # whatever libraries raise for what people have stored
            self._complain(row, error)
            return
        if due:
            self._push(
                Waiting(
                    *(row.pk, row.name, timing, start_time, expires),
                    *(row.last_run_at, row.total_run_count, due),
                )
            )

    def _push(self, waiting: Waiting, retry_at: datetime | None = None) -> None:
        """Into the heap, unless it has expired. A run missed for too long is skipped."""
        if waiting.due < (oldest := self._oldest()):
            due = catch_up(schedule_of(waiting.timing), waiting.due, oldest)
            if due is None or due > timezone.now():
                logger.warning(
                    "beat: Skipped %s, due at %s: missed for longer than "
                    "beat_cron_starting_deadline, %s s.",
                    *(waiting.name, waiting.due, self.deadline),
                )
            if due is None:
                return self._forget(waiting)
            waiting.due, waiting.sent_at = due, None
        if waiting.expires and waiting.due >= waiting.expires:
            return self._forget(waiting)
        waiting.at = max(waiting.due, retry_at or waiting.due).timestamp()
        self.waiting[waiting.pk] = waiting
        heapq.heappush(self.heap, (waiting.at, waiting.pk))

    def _oldest(self) -> datetime:
        """The oldest due time that is still made up."""
        if self.deadline is None:
            return EPOCH
        return timezone.now() - timedelta(seconds=self.deadline)

    def _forget(self, waiting: Waiting) -> None:
        self.waiting.pop(waiting.pk, None)

    def _complain(self, row: Any, error: Exception) -> None:
        """Log what is wrong with a row, once for the same fault."""
        text = f"{type(error).__name__}: {error}"
        if self.complaints.get(row.pk) != text:
            self.complaints[row.pk] = text
            logger.error("beat: Skipping %s until it is changed: %s", row.name, text)

    # Claiming and publishing

    def _take_due(self) -> list[Waiting]:
        """Take what is due out of the heap, oldest first: a batch at most."""
        due: list[Waiting] = []
        now, oldest = timezone.now().timestamp(), self._oldest()
        while self.heap and self.heap[0][0] <= now and len(due) < BATCH:
            at, pk = heapq.heappop(self.heap)
            waiting = self.waiting.get(pk)
            if waiting is None or waiting.at != at:
                continue  # it has been replaced
            if waiting.due < oldest:  # this beat was held up for long
                self._push(waiting)
            else:
                waiting.at = 0
                due.append(waiting)
        return due

    def _claim(self, due: list[Waiting]) -> None:
        """In one transaction, publish and mark those of a batch that are still as they were read.

        What was not published goes back into the heap. Raises kombu's ``OperationalError`` if the
        broker is away, after the commit of what it has taken.
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
                        away = error
                        break
                self._mark([waiting for waiting, _ in published])
            for waiting, row in published:
                self._advance(waiting, row, waiting.sent_at or now)
        finally:
            for waiting in due:
                if not waiting.at and self.waiting.get(waiting.pk) is waiting:
                    self._push(waiting)
        if away:
            raise away

    def _lock(self, due: list[Waiting]) -> list[tuple[Waiting, Any]]:
        """Lock the rows of a batch until the end of the transaction, without waiting for any.

        Returns those that nobody has claimed, changed or paused since they were read.
        """
        keys = [waiting.pk for waiting in due]
        rows = self.Model.objects.select_for_update(skip_locked=True).in_bulk(keys)
        others = self.Model.objects.filter(pk__in=[pk for pk in keys if pk not in rows])
        busy = set(others.values_list("pk", flat=True))  # no query if there are none
        locked = []
        for waiting in due:
            row = rows.get(waiting.pk)
            if waiting.pk in busy:
                self._push(waiting, retry_at=timezone.now() + BUSY)
            elif row is None or not row.enabled:
                self._forget(waiting)
            elif runs_of(row) == runs_of(waiting) and self._is_known(row.pk, *when_of(row)):
                locked.append((waiting, row))
            else:
                self._wait(row)
        return locked

    def _publish(self, waiting: Waiting, row: Any, producer: Any, now: datetime) -> bool:
        """Send a run by Celery's own way; whether it was. The broker being away is an error."""
        try:
            entry = self.Entry(row, app=self.app)
        except ValueError as error:
            self._complain(row, error)
            self._forget(waiting)
            return False
        entry.schedule = schedule_of(waiting.timing)
        entry.options["headers"]["scheduled_for"] = waiting.due.astimezone(UTC).isoformat()
        self.apply_entry(entry, producer=producer)
        if isinstance(entry.failure, OperationalError):
            raise entry.failure
        if entry.failure:
            self._complain(row, entry.failure)
            self._push(waiting, retry_at=timezone.now() + RETRY)
            return False
        self.complaints.pop(row.pk, None)
        waiting.sent_at = now
        return True

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
            return self._forget(waiting)
        waiting.last_run_at, waiting.sent_at = ran_at, None
        waiting.total_run_count += 1
        try:
            waiting.due = next_due(schedule_of(waiting.timing), ran_at)
        except Exception as error:
            self._complain(row, error)
            return self._forget(waiting)
        self._push(waiting)

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
