"""Priority queue of the enabled schedules, by next due time.

A beat reads each row once. Every second it then asks the change log what has changed, and reads
only that. Now and then it compares all rows, in case the log has lost something.
"""

import gc
import heapq
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from celery.utils.log import get_logger
from django.db import close_old_connections
from django.db.models import QuerySet
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from scheduling import database
from scheduling.change_log import Snapshot
from scheduling.timing import (
    EPOCH,
    NOT_ONE_TIMING,
    TIMING_KEYS,
    TIMINGS,
    Timing,
    catch_up,
    first_due,
    only_one,
    read_timings,
)

POLL_EVERY = 1.0  # seconds between two polls for changes
COMPARE_EVERY = timedelta(minutes=10)
COMPARE_CHUNK_SIZE = 5_000  # rows compared between two batches of runs
LOG_CHUNK_SIZE = 500  # changes read between two batches of runs
MAX_SINGLE_KEYS = 500  # more keys than this are read as a range
WHEN_COLUMNS = ("pk", *TIMING_KEYS, "start_time", "expires")
ENTRY_COLUMNS = (*WHEN_COLUMNS, "name", "last_run_at", "total_run_count", "date_changed")
keys_of = attrgetter(*TIMING_KEYS)

logger = get_logger(__name__)


@dataclass(slots=True)
class DueEntry:
    """An enabled row as it was read, and when it is due."""

    pk: int
    timing: Timing
    start_time: datetime | None
    expires: datetime | None
    last_run_at: datetime | None
    total_run_count: int  # a pause clears last_run_at, but not this
    due: datetime | None  # None if its only run was missed
    missed_from: datetime | None = None  # the first due time that was missed for too long
    queued_for: float = 0  # the timestamp of its place in the queue; 0 while it is popped

    @property
    def has_expired(self) -> bool:
        """Whether the row sends no more runs."""
        return self.expires is not None and self.expires <= timezone.now()


class DueQueue:
    """The entries that wait. A run missed by more than ``deadline`` seconds is skipped; None: never."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.entries: dict[int, DueEntry] = {}
        self.heap: list[tuple[float, int]] = []
        self.timings: dict[tuple[str, int], Timing] = {}
        self.complaints: dict[int, str] = {}  # by row: each fault is logged once
        self.edits: Edits | None = None
        self.comparison: Comparison | None = None
        self.log_read: Snapshot | None = None  # how far the change log was read
        self.compared_at: datetime | None = None  # when the last comparison began
        self.read_at: datetime | None = None  # when all rows were known; None before the first time
        self.next_poll = 0.0

    # Reading

    def poll_changes(self) -> None:
        """Once a second, ask what has changed. Read at most one chunk of it a call.

        The first call reads everything.
        """
        if self.edits is None and time.monotonic() >= self.next_poll:
            self.next_poll = time.monotonic() + POLL_EVERY
            close_old_connections()  # too old or broken ones; the next query connects anew
            if self.read_at and self.log_read:
                self.edits = Edits(self, self.log_read)
            else:
                self._load()
        if self.edits:
            edits, self.edits = self.edits, None  # after an error, the next poll starts anew
            if not edits.step():
                self.edits = edits
        elif self._must_compare():
            comparison, self.comparison = self.comparison or Comparison(self), None
            if not comparison.step():
                self.comparison = comparison

    def _must_compare(self) -> bool:
        return bool(self.read_at and timezone.now() - (self.compared_at or EPOCH) > COMPARE_EVERY)

    def _load(self) -> None:
        now, self.log_read = timezone.now(), Snapshot.taken()
        first = Comparison(self)
        gc.disable()  # a full collection visits all entries: 0.1 s for 100,000
        try:
            while not first.step():
                pass
        finally:
            gc.enable()
        gc.freeze()
        self.read_at = now

    def intern_timings(self, rows: Iterable[Any] | None = None) -> None:
        """Read the timings of some rows, or all. Intern equal ones, so that they compare with ``is``."""
        found: dict[tuple[str, int], Timing] = {}
        if rows is None:
            for kind in TIMINGS:
                found |= read_timings(kind)
        else:
            for kind, keys in zip(TIMINGS, zip(*map(keys_of, rows), strict=True), strict=False):
                if wanted := set(keys) - {None}:
                    found |= read_timings(kind, pk__in=wanted)
        interned = {
            key: known if (known := self.timings.get(key)) == timing else timing
            for key, timing in found.items()
        }
        self.timings = interned if rows is None else self.timings | interned

    def queue_changed(self, rows: Iterable[Any]) -> None:
        """Queue those of some enabled rows, read with WHEN_COLUMNS, that are not known."""
        changed = {row.pk for row in rows if not self.is_known(row)}
        for row in whole_rows(changed):
            self.add(row, since=self.read_at)

    def is_known(self, row: Any) -> bool:
        """Whether a row, read with WHEN_COLUMNS, is queued for the time that it says."""
        entry = self.entries.get(row.pk)
        return (
            entry is not None
            and entry.start_time == row.start_time
            and entry.expires == row.expires
            and entry.timing is self._timing(row)
        )

    def _timing(self, row: Any) -> Timing | None:
        """The timing that a row's foreign keys lead to; None unless it has exactly one."""
        found = only_one(dict(zip(TIMINGS, keys_of(row), strict=True)))
        if found is None:
            return None
        if found not in self.timings:  # made after all were read
            kind, key = found
            self.timings |= read_timings(kind, pk=key)
        return self.timings.get(found)

    # Queueing

    def add(self, row: Any, since: datetime | None = None) -> None:
        """Queue a row for its next run. Log a row that cannot work, and skip it.

        A row counts from its last run, or from when it was saved: saving another time clears the
        last run (``models.keep_run_times``). A row whose time is new to this beat counts from
        ``since``; not if it runs once: its time may have passed before the transaction that made it
        committed.
        """
        known = self.entries.pop(row.pk, None)
        timing = self._timing(row)
        start = row.last_run_at or row.date_changed
        same_time = known and known.timing is timing and known.start_time == row.start_time
        if since and not row.clocked_id and not (row.last_run_at and same_time):
            start = max(start, since)
        try:
            if timing is None:
                raise ValueError(NOT_ONE_TIMING)
            due = first_due(timing, row.last_run_at, start, row.start_time)
        except Exception as error:  # whatever libraries raise for what people have stored
            return self.complain(row, error)
        if due:
            self.push(
                DueEntry(
                    pk=row.pk,
                    timing=timing,
                    start_time=row.start_time,
                    expires=row.expires,
                    last_run_at=row.last_run_at,
                    total_run_count=row.total_run_count,
                    due=due,
                )
            )

    def push(self, entry: DueEntry, retry_at: datetime | None = None) -> None:
        """Queue an entry until it is due or expires. A claim accounts for what was missed."""
        now = timezone.now()
        if self._is_missed(entry, now) and entry.due:
            entry.missed_from = entry.missed_from or entry.due
            oldest = now - timedelta(seconds=self.deadline or 0)
            entry.due = catch_up(entry.timing, entry.due, oldest)
        wakes_at = now
        if entry.due and not entry.missed_from:
            wakes_at = min(entry.due, entry.expires or entry.due)
        entry.queued_for = max(wakes_at, retry_at or wakes_at).timestamp()
        self.entries[entry.pk] = entry
        heapq.heappush(self.heap, (entry.queued_for, entry.pk))

    def _is_missed(self, entry: DueEntry, now: datetime) -> bool:
        """Whether a run is too old to be made up."""
        if self.deadline is None or entry.due is None:
            return False
        return entry.due < now - timedelta(seconds=self.deadline)

    def pop_due(self, limit: int) -> list[DueEntry]:
        """Pop what is due or expires, oldest first. The caller discards each entry, or requeues it."""
        due: list[DueEntry] = []
        now = timezone.now()
        while self.heap and self.heap[0][0] <= now.timestamp() and len(due) < limit:
            queued_for, pk = heapq.heappop(self.heap)
            entry = self.entries.get(pk)
            if entry is None or entry.queued_for != queued_for:
                continue  # it has been replaced
            if self._is_missed(entry, now):  # this beat was held up for long
                self.push(entry)
            entry.queued_for = 0
            due.append(entry)
        return due

    def requeue(self, popped: list[DueEntry]) -> None:
        """Queue those again that are neither queued nor discarded."""
        for entry in popped:
            if not entry.queued_for and self.entries.get(entry.pk) is entry:
                self.push(entry)

    def discard(self, entry: DueEntry) -> None:
        self.entries.pop(entry.pk, None)

    def forget(self, pks: Iterable[int]) -> None:
        """Discard rows that were paused or deleted."""
        for pk in pks:
            self.entries.pop(pk, None)
            self.complaints.pop(pk, None)
        if len(self.heap) > 2 * len(self.entries):  # most of the heap has been replaced
            waiting = (entry for entry in self.entries.values() if entry.queued_for)
            self.heap = [(entry.queued_for, entry.pk) for entry in waiting]
            heapq.heapify(self.heap)

    def seconds_until_next(self) -> float:
        """Return the number of seconds to wait until there may be something to do."""
        if self.edits or self._must_compare():
            return 0
        waits = [self.next_poll - time.monotonic()]
        if self.heap:
            waits.append(self.heap[0][0] - timezone.now().timestamp())
        return max(0.0, min(waits))

    def complain(self, row: Any, error: Exception) -> None:
        """Log why a row cannot work, once for each fault."""
        text = f"{type(error).__name__}: {error}"
        if self.complaints.get(row.pk) != text:
            self.complaints[row.pk] = text
            logger.error("beat: Skipping %s until it is changed: %s", row.name, text)


def enabled_rows() -> QuerySet[PeriodicTask]:
    rows: QuerySet[PeriodicTask] = PeriodicTask.objects.using(database.alias())
    return rows.filter(enabled=True).order_by("pk")


def whole_rows(pks: set[int]) -> Iterator[Any]:
    """Some enabled rows, with ENTRY_COLUMNS."""
    few = len(pks) <= MAX_SINGLE_KEYS
    where = {"pk__in": pks} if few else {"pk__range": (min(pks), max(pks))}
    for row in enabled_rows().filter(**where).values_list(*ENTRY_COLUMNS, named=True):
        if row.pk in pks:
            yield row


class Edits:
    """Reads the rows that the change log names since the queue has read it."""

    def __init__(self, queue: DueQueue, read: Snapshot) -> None:
        self.queue, self.now, self.snapshot = queue, timezone.now(), Snapshot.taken()
        self.parts = read.unseen()
        self.last = 0, 0  # position and id of the change that was read last

    def step(self) -> bool:
        """Queue what one chunk of the log names. Returns whether that was the last."""
        while self.parts:
            position, pk = self.last
            rest = self.parts[0].filter(position__gte=position)
            rest = rest.exclude(position=position, pk__lte=pk)
            chunk = list(rest.values_list("position", "pk", "periodic_task_id")[:LOG_CHUNK_SIZE])
            self._read_rows({key for _, _, key in chunk})
            if len(chunk) == LOG_CHUNK_SIZE:
                self.last = chunk[-1][:2]
                return False
            self.parts, self.last = self.parts[1:], (0, 0)
        self.queue.log_read, self.queue.read_at = self.snapshot, self.now
        return True

    def _read_rows(self, keys: set[int | None]) -> None:
        if not keys:
            return
        named = {key for key in keys if key is not None}
        if len(named) < len(keys):
            self.queue.compared_at = None
        rows = list(enabled_rows().filter(pk__in=named).values_list(*WHEN_COLUMNS, named=True))
        self.queue.intern_timings(rows)  # one that rows share may have been edited
        self.queue.queue_changed(rows)
        found = {row.pk for row in rows}
        self.queue.forget(named - found)
        if self.queue.comparison:
            self.queue.comparison.unseen -= found


class Comparison:
    """Reads the columns that say when of all enabled rows, and compares them, in chunks.

    So due runs do not wait for it. It finds what the change log does not know: what was changed
    while there were no triggers.
    """

    def __init__(self, queue: DueQueue) -> None:
        self.queue, self.now = queue, timezone.now()
        self.unseen = {*queue.entries, *queue.complaints}
        self.last = 0  # the primary key that was read last
        queue.intern_timings()

    def step(self) -> bool:
        """Queue what has changed in one chunk. Returns whether that was the last."""
        columns = WHEN_COLUMNS if self.queue.read_at else ENTRY_COLUMNS
        rows = enabled_rows().filter(pk__gt=self.last).values_list(*columns, named=True)
        chunk = list(rows[:COMPARE_CHUNK_SIZE])
        if self.queue.read_at:
            self.queue.queue_changed(chunk)
        else:
            for row in chunk:
                self.queue.add(row)
        self.unseen.difference_update(row.pk for row in chunk)
        if len(chunk) == COMPARE_CHUNK_SIZE:
            self.last = chunk[-1].pk
            return False
        self.queue.forget(self.unseen)
        self.queue.compared_at = self.now
        return True
