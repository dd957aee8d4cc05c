"""What waits for its next run: the enabled rows, as a beat read them, by when they are due.

A row is read once. Then a beat looks, every second, whether anything has changed, and reads only
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

from scheduling.due import (
    TIMING_KEYS,
    TIMINGS,
    Timing,
    catch_up,
    first_due,
    read_timings,
    schedule_of,
)

LOOK_EVERY = 1.0  # seconds between two looks for changes
CHUNK = 5_000  # rows read at once, between two batches of runs
FEW = 100  # rows that are read by their keys
WHEN = [*TIMING_KEYS, "start_time", "expires"]
RUNS = ["last_run_at", "total_run_count"]  # what a claim changes, and nobody else does
when_of, runs_of = attrgetter(*WHEN), attrgetter(*RUNS)

logger = get_logger(__name__)


@dataclass(slots=True)
class Waiting:
    """An enabled row as it was read, and when it is due."""

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


class Heap:
    """The rows that wait. ``deadline`` is for how many seconds a missed run is made up."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.waiting: dict[int, Waiting] = {}
        self.heap: list[tuple[float, int]] = []
        self.timings: dict[tuple[str, int], Timing] = {}
        self.complaints: dict[int, str] = {}  # of bad rows, so that each is made once
        self.reading: Iterator[None] | None = None
        self.last_change: datetime | None = None  # that was read
        self.known_at: datetime | None = None  # when all was known; None before the first time
        self.next_look = 0.0

    # Reading

    def look(self) -> None:
        """Look for changes, once a second, and read a chunk at each call: nothing is held up."""
        if self.reading is None and time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + LOOK_EVERY
            close_old_connections()  # those too old or broken; the next query connects anew
            now, change = timezone.now(), PeriodicTasks.last_change()
            if self.known_at is None:
                for _ in self._read(now, change):
                    pass
                gc.freeze()  # or a full collection would look at all that waits: 0.1 s of 100,000
            elif change != self.last_change:
                self.reading = self._read(now, change)
            else:
                self.known_at = now
        if self.reading and next(self.reading, "done") == "done":
            self.reading = None

    def _read(self, now: datetime, change: datetime | None) -> Iterator[None]:
        """Let the rows wait that are new or have another time; yields after each chunk.

        Of all enabled rows only the columns that say when are read, and compared.
        """
        found = {key: timing for name in TIMINGS for key, timing in read_timings(name).items()}
        # The same object as long as it says the same: rows are compared by it.
        self.timings = {
            key: known if (known := self.timings.get(key)) == timing else timing
            for key, timing in found.items()
        }
        rows, last = PeriodicTask.objects.filter(enabled=True).order_by("pk"), 0
        seen: set[int] = set()
        columns = ("pk", "name", *WHEN, *RUNS, "date_changed")
        while chunk := list(rows.filter(pk__gt=last).values_list("pk", *WHEN)[:CHUNK]):
            first, last = chunk[0][0], chunk[-1][0]
            seen.update(row[0] for row in chunk)
            changed = {pk for pk, *when in chunk if not self.is_known(pk, *when)}
            if changed:
                few = {"pk__in": changed}
                where = few if len(changed) <= FEW else {"pk__range": (first, last)}
                for row in rows.filter(**where).values_list(*columns, named=True):
                    if row.pk in changed:
                        self.wait(row, since=self.known_at)
            yield
        for pk in self.waiting.keys() - seen:  # paused or deleted
            del self.waiting[pk]
        self.complaints = {pk: text for pk, text in self.complaints.items() if pk in seen}
        if len(self.heap) > 2 * len(self.waiting):  # most of it has been replaced
            self.heap = [(waiting.at, pk) for pk, waiting in self.waiting.items() if waiting.at]
            heapq.heapify(self.heap)
        self.known_at, self.last_change = now, change

    def is_known(self, pk: int, *when: Any) -> bool:
        """Whether a row waits, and for the time that it says now."""
        *keys, start_time, expires = when
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

    # Waiting

    def wait(self, row: Any, since: datetime | None = None) -> None:
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
            return self.complain(row, error)
        if due:
            self.push(
                Waiting(
                    *(row.pk, row.name, timing, start_time, expires),
                    *(row.last_run_at, row.total_run_count, due),
                )
            )

    def push(self, waiting: Waiting, retry_at: datetime | None = None) -> None:
        """Into the heap, unless it has expired. A run missed for too long is skipped."""
        if self._is_missed(waiting):
            oldest = timezone.now() - timedelta(seconds=self.deadline or 0)
            due = catch_up(schedule_of(waiting.timing), waiting.due, oldest)
            if due is None or due > timezone.now():
                logger.warning(
                    "beat: Skipped %s, due at %s: missed for longer than "
                    "beat_cron_starting_deadline, %s s.",
                    *(waiting.name, waiting.due, self.deadline),
                )
            if due is None:
                return self.forget(waiting)
            waiting.due = due
        if waiting.expires and waiting.due >= waiting.expires:
            return self.forget(waiting)
        waiting.at = max(waiting.due, retry_at or waiting.due).timestamp()
        self.waiting[waiting.pk] = waiting
        heapq.heappush(self.heap, (waiting.at, waiting.pk))

    def _is_missed(self, waiting: Waiting) -> bool:
        """Whether a run is too old to be made up. One that was sent is not missed."""
        if self.deadline is None or waiting.sent_at:
            return False
        return waiting.due < timezone.now() - timedelta(seconds=self.deadline)

    def take(self, most: int) -> list[Waiting]:
        """Take out what is due, oldest first. What is not forgotten has to be given back."""
        due: list[Waiting] = []
        now = timezone.now().timestamp()
        while self.heap and self.heap[0][0] <= now and len(due) < most:
            at, pk = heapq.heappop(self.heap)
            waiting = self.waiting.get(pk)
            if waiting is None or waiting.at != at:
                continue  # it has been replaced
            if self._is_missed(waiting):  # this beat was held up for long
                self.push(waiting)
            else:
                waiting.at = 0
                due.append(waiting)
        return due

    def give_back(self, taken: list[Waiting]) -> None:
        """Let those wait on that nothing was done about."""
        for waiting in taken:
            if not waiting.at and self.waiting.get(waiting.pk) is waiting:
                self.push(waiting)

    def forget(self, waiting: Waiting) -> None:
        self.waiting.pop(waiting.pk, None)

    def pause(self) -> float:
        """Seconds until there may be something to do."""
        if self.reading:
            return 0
        pauses = [self.next_look - time.monotonic()]
        if self.heap:
            pauses.append(self.heap[0][0] - timezone.now().timestamp())
        return max(0.0, min(pauses))

    def complain(self, row: Any, error: Exception) -> None:
        """Log what is wrong with a row, once for the same fault."""
        text = f"{type(error).__name__}: {error}"
        if self.complaints.get(row.pk) != text:
            self.complaints[row.pk] = text
            logger.error("beat: Skipping %s until it is changed: %s", row.name, text)
