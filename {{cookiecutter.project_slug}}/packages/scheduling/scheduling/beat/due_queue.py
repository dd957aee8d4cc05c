"""Priority queue of the enabled schedules, by next due time.

A beat reads each row once. Every second it then asks whether anything has changed, and reads only
what did. Nothing here writes to the database.
"""

import gc
import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from celery.utils.log import get_logger
from django.db import close_old_connections
from django.utils import timezone
from django_celery_beat.models import PeriodicTask, PeriodicTasks

from scheduling import database
from scheduling.timing import (
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
RELOAD_CHUNK_SIZE = 5_000  # rows compared between two batches of runs
MAX_SINGLE_KEYS = 100  # more keys than this are read as a range
WHEN_COLUMNS = ("pk", *TIMING_KEYS, "start_time", "expires")
ENTRY_COLUMNS = (*WHEN_COLUMNS, "name", "last_run_at", "total_run_count", "date_changed")
keys_of = attrgetter(*TIMING_KEYS)

logger = get_logger(__name__)


@dataclass(slots=True)
class DueEntry:
    """An enabled row as it was read, and when it is due."""

    pk: int
    name: str
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
        self.reload: Reload | None = None
        self.last_change: datetime | None = None  # the change that was read last
        self.read_at: datetime | None = None  # when all rows were known; None before the first time
        self.next_poll = 0.0

    # Reading

    def poll_changes(self) -> None:
        """Once a second, ask whether anything has changed. Read at most one chunk a call.

        The first call reads everything.
        """
        if self.reload is None and time.monotonic() >= self.next_poll:
            self.next_poll = time.monotonic() + POLL_EVERY
            close_old_connections()  # too old or broken ones; the next query connects anew
            now, change = timezone.now(), last_change()
            if self.read_at is None:
                first = Reload(self, now, change)
                while not first.step():
                    pass
                gc.freeze()  # a full collection would visit all entries: 0.1 s for 100,000
            elif change != self.last_change:
                self.reload = Reload(self, now, change)
            else:
                self.read_at = now
        if self.reload:
            reload, self.reload = self.reload, None  # after an error, the next poll starts anew
            if not reload.step():
                self.reload = reload

    def intern_timings(self) -> None:
        """Intern equal timings, so that rows compare with ``is``."""
        found = {key: timing for kind in TIMINGS for key, timing in read_timings(kind).items()}
        self.timings = {
            key: known if (known := self.timings.get(key)) == timing else timing
            for key, timing in found.items()
        }

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
                    name=row.name,
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

    def keep_only(self, pks: set[int]) -> None:
        """Discard all other rows: they were paused or deleted."""
        for pk in self.entries.keys() - pks:
            del self.entries[pk]
        self.complaints = {pk: text for pk, text in self.complaints.items() if pk in pks}
        if len(self.heap) > 2 * len(self.entries):  # most of the heap has been replaced
            waiting = (entry for entry in self.entries.values() if entry.queued_for)
            self.heap = [(entry.queued_for, entry.pk) for entry in waiting]
            heapq.heapify(self.heap)

    def seconds_until_next(self) -> float:
        """Return the number of seconds to wait until there may be something to do."""
        if self.reload:
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


def last_change() -> datetime | None:
    """When a row was changed last; None if none ever was."""
    changes = PeriodicTasks.objects.using(database.alias())
    moment: datetime | None = changes.values_list("last_update", flat=True).first()
    return moment


class Reload:
    """Reads what has changed, in chunks, so that due runs do not wait for it.

    It reads only the columns that say when of all enabled rows, and compares them: this finds
    edits that leave no date, by ``update()`` or to a shared crontab.
    """

    def __init__(self, queue: DueQueue, now: datetime, change: datetime | None) -> None:
        self.queue, self.now, self.change = queue, now, change
        rows = PeriodicTask.objects.using(database.alias())
        self.rows = rows.filter(enabled=True).order_by("pk")
        self.seen: set[int] = set()
        self.chunks: Iterator[list[Any]] = self._chunks()
        queue.intern_timings()

    def step(self) -> bool:
        """Queue what has changed in one chunk. Returns whether that was the last."""
        chunk = next(self.chunks, None)
        if chunk is None:
            self.queue.keep_only(self.seen)
            self.queue.read_at, self.queue.last_change = self.now, self.change
            return True
        self.seen.update(row.pk for row in chunk)
        changed = {row.pk for row in chunk if not self.queue.is_known(row)}
        for row in self._whole_rows(changed):
            self.queue.add(row, since=self.queue.read_at)
        return False

    def _chunks(self) -> Iterator[list[Any]]:
        rows, last = self.rows.values_list(*WHEN_COLUMNS, named=True), 0
        while chunk := list(rows.filter(pk__gt=last)[:RELOAD_CHUNK_SIZE]):
            yield chunk
            last = chunk[-1].pk

    def _whole_rows(self, pks: set[int]) -> Iterator[Any]:
        few = len(pks) <= MAX_SINGLE_KEYS
        where = {"pk__in": pks} if few else {"pk__range": (min(pks), max(pks))}
        for row in self.rows.filter(**where).values_list(*ENTRY_COLUMNS, named=True):
            if row.pk in pks:
                yield row
