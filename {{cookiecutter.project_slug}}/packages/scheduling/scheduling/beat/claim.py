"""Claimed: a due run that beat has locked, and the rows that it gets in the ledger."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from scheduling.beat.due_queue import DueEntry
from scheduling.messages import RunMessage, run_id
from scheduling.models import MISSED, Run, State, Trigger
from scheduling.runs.queries import late_after
from scheduling.timing import count_due, next_due

MADE_UP = "made up by the run before: beat or the broker was away"


@dataclass
class Claimed:
    """An entry whose row is locked, and is as it was read."""

    entry: DueEntry
    row: Any
    now: datetime
    message: RunMessage | None = None
    position: int = 0  # of its message in the batch

    @property
    def is_due(self) -> bool:
        """Whether there is a run to send; else runs were missed, or the row has expired."""
        entry = self.entry
        return entry.due is not None and entry.due <= self.now and not entry.has_expired

    @property
    def due(self) -> datetime:
        assert self.entry.due  # noqa: S101 (is_due)
        return self.entry.due

    @cached_property
    def run_id(self) -> UUID:
        return run_id(self.row.pk, self.due)

    @cached_property
    def trigger(self) -> Trigger:
        return Trigger.CATCH_UP if self.now - self.due > late_after() else Trigger.SCHEDULE

    def values(self, queue: str) -> tuple[Any, ...]:
        """The ledger's row of the run that is sent, for ``insert``."""
        row, due, now = self.row, self.due, self.now
        expires = self.message.options.get("expires") if self.message else None
        of_row = self.run_id, row.pk, row.name, row.task
        return *of_row, due, self.trigger.value, queue, now, now, expires

    def missed(self) -> Iterator[Run]:
        """A row for the stretch of due times that are not made up, if there is one."""
        entry = self.entry
        first, reason = entry.missed_from, MISSED
        until = min(moment for moment in (entry.due, entry.expires, self.now) if moment)
        if entry.expires and entry.has_expired and not first:
            first, until, reason = entry.due, entry.expires, f"it expired at {entry.expires}"
        if first and first < until:
            others = count_due(entry.timing, first, until - timedelta(microseconds=1))
            yield self._skipped(first, 1 + others, reason)

    @cached_property
    def made_up(self) -> list[Run]:
        """A row for the stretch of due times that the run which is sent stands for."""
        timing = self.entry.timing
        others = count_due(timing, self.due, self.now)
        return [self._skipped(next_due(timing, self.due), others, MADE_UP)] if others else []

    def _skipped(self, first: datetime, due_times: int, reason: str) -> Run:
        return self._row(
            run_id(self.row.pk, first),
            scheduled_for=first,
            due_times=due_times,
            state=State.SKIPPED,
            reason=reason,
            finished_at=self.now,
        )

    def _row(self, key: UUID, **values: Any) -> Run:
        row = self.row
        return Run(id=key, periodic_task_id=row.pk, schedule=row.name, task=row.task, **values)
