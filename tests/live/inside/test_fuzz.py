"""Two or three beats on one database, a clock that is set, and everything that can go wrong.

Each seed is a history: ticks, edits, pauses, saves of rows that were read long ago, brokers that go
away, commits that fail, and deaths between publishing and commit. The oracle knows of a row only
what an operator would say: every so many seconds, or every so many minutes of the clock, from its
last run on, or from when it was saved.
"""

import os
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import time_machine
from django.db import DatabaseError
from django.utils import timezone
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    PeriodicTasks,
)
from scheduling.models import Run, State
from tests.beat.in_process import Beat, Sent

START = datetime(2026, 6, 1, 12, 0, 0, 123_456, tzinfo=UTC)
SEEDS = int(os.environ.get("FUZZ_SEEDS", "40"))
STEPS = 120
DEADLINE = timedelta(hours=1)


class Killed(BaseException):
    """As kill -9: nothing that beat would do at its end is done."""


class World:
    """Beats, rows, and what may have been sent twice because a beat died."""

    def __init__(self, seed: int, clock: Any) -> None:
        self.random, self.clock = random.Random(seed), clock
        self.sent: list[Sent] = []
        self.beats = [Beat(self.sent) for _ in range(self.random.randint(2, 3))]
        self.excused: set[tuple[str, datetime]] = set()  # sent, and not committed
        self.updated: dict[str, datetime] = {}  # past save(): counts from then on
        # What a row was from which moment on.
        self.changes: dict[str, list[tuple[datetime, PeriodicTask]]] = defaultdict(list)
        self.stale: list[PeriodicTask] = []
        intervals = [IntervalSchedule.objects.create(every=n, period="seconds") for n in (2, 7, 60)]
        crontabs = [
            CrontabSchedule.objects.create(minute=m, timezone="UTC") for m in ("*", "*/2", "*/5")
        ]
        self.times = [{"interval": i, "crontab": None} for i in intervals]
        self.times += [{"interval": None, "crontab": c} for c in crontabs]
        for number in range(5):
            self.make(f"Row {number}", **self.random.choice(self.times))
        for number in range(3):
            moment = START + timedelta(seconds=self.random.randint(5, 600))
            clocked = ClockedSchedule.objects.create(clocked_time=moment)
            self.make(f"Once {number}", clocked=clocked, one_off=True)

    def make(self, name: str, **columns: Any) -> None:
        PeriodicTask.objects.create(name=name, task="some.task", **columns)
        self.note_change(name)

    def note_change(self, name: str) -> None:
        self.changes[name].append((timezone.now(), PeriodicTask.objects.get(name=name)))

    def row(self) -> PeriodicTask:
        return PeriodicTask.objects.get(name=f"Row {self.random.randrange(5)}")

    # What may happen

    def time_passes(self) -> None:
        self.clock.shift(
            timedelta(
                seconds=self.random.choice([0.3, 0.3, 1, 1, 1, 2, 2, 5, 5, 30, 30, 300, 4000])
            )
        )

    def beat_ticks(self) -> None:
        beat = self.random.choice(self.beats)
        if self.random.random() < 0.5:
            beat.queue.next_poll = 0
        self.tick(beat)

    def tick(self, beat: Beat) -> None:
        before = len(self.sent)
        try:
            beat.tick()
        except Killed:
            self.beats[self.beats.index(beat)] = Beat(self.sent)
            self.excuse(before)
        finally:
            if beat.before_commit is fail:
                self.excuse(before)  # another beat may be first when the database is back
            beat.before_commit = nothing

    def excuse(self, before: int) -> None:
        self.excused |= {(s.name, s.due) for s in self.sent[before:]}

    def beat_will_die(self) -> None:
        self.random.choice(self.beats).before_commit = die

    def commit_will_fail(self) -> None:
        self.random.choice(self.beats).before_commit = fail

    def beat_restarts(self) -> None:
        self.beats[self.random.randrange(len(self.beats))] = Beat(self.sent)

    def broker_goes_or_comes(self) -> None:
        beat = self.random.choice(self.beats)
        beat.broker_is_away = not beat.broker_is_away

    def row_is_read(self) -> None:
        self.stale.append(self.row())

    def row_is_saved(self) -> None:
        row = self.stale.pop() if self.stale else self.row()
        row.priority = self.random.randrange(10)
        row.save()
        self.note_change(row.name)  # one that was read long ago has its old time

    def row_gets_another_time(self) -> None:
        row = self.row()
        for column, value in self.random.choice(self.times).items():
            setattr(row, column, value)
        row.save()
        self.note_change(row.name)

    def row_is_paused_or_resumed(self) -> None:
        row = self.row()
        row.enabled = not row.enabled
        row.expires = None
        row.save()
        self.note_change(row.name)

    def row_will_expire(self) -> None:
        row = self.row()
        row.expires = timezone.now() + timedelta(seconds=self.random.choice([1, 60, 1000]))
        row.save()

    def rows_are_updated(self) -> None:
        name = self.row().name
        PeriodicTask.objects.filter(name=name).update(**self.random.choice(self.times))
        self.updated[name] = timezone.now()
        self.note_change(name)
        PeriodicTasks.update_changed()

    def all_beats_work(self) -> None:
        """Everything is well for a while: then nothing that is due may be left."""
        for _ in range(3):
            for beat in self.beats:
                beat.broker_is_away, beat.before_commit = False, nothing
                beat.queue.next_poll = 0
                while beat.tick() == 0:
                    pass
            self.clock.shift(timedelta(seconds=0.2))
        self.nothing_is_left()

    # What must hold

    def nothing_is_left(self) -> None:
        now = timezone.now() - timedelta(seconds=0.6)  # since the first of these ticks
        for row in PeriodicTask.objects.filter(enabled=True):
            since = row.last_run_at or row.date_changed
            due = next_time(row, max(since, self.updated.get(row.name, since)))
            if row.expires:
                assert row.expires > now, f"{row.name} expired at {row.expires}"
            assert not now - DEADLINE < due <= now, f"{row.name}, due at {due}, was not sent"

    def nothing_is_doubled(self) -> None:
        seen: set[tuple[str, datetime]] = set()
        for run in self.sent:
            key = run.name, run.due
            assert key not in seen or key in self.excused, f"{key} was sent twice"
            assert run.due <= run.at, f"{key} was sent too early"
            assert run.at - run.due <= DEADLINE, f"{key} was sent too late"
            seen.add(key)
        for number in range(3):
            times = [run.due for run in self.sent if run.name == f"Once {number}"]
            assert len(set(times)) <= 1, f"Once {number} was sent for {times}"

    def rows_are_true(self) -> None:
        for row in PeriodicTask.objects.all():
            runs = [run for run in self.sent if run.name == row.name]
            doubtful = sum((run.name, run.due) in self.excused for run in runs)
            assert len(runs) - doubtful <= row.total_run_count <= len(runs), row.name
            if row.last_run_at:
                assert row.last_run_at in {run.at for run in runs}, f"{row.name} did not run then"

    def each_due_time_is_one_row(self) -> None:
        """The ledger has what was sent, and the due times of crontabs without a gap or a double."""
        runs = Run.objects.filter(state=State.SENT)
        ledger = {(run.schedule, run.scheduled_for): run for run in runs}
        for sent in self.sent:
            assert (sent.name, sent.due) in ledger or (sent.name, sent.due) in self.excused
        assert ledger.keys() <= {(sent.name, sent.due) for sent in self.sent}
        for number in range(5):
            history = Run.objects.filter(schedule=f"Row {number}").order_by("scheduled_for")
            for run, following in pairwise(history):
                decided_at = following.queued_at or following.finished_at
                changes = [at for at, _ in self.changes[run.schedule]]
                if any(run.scheduled_for < at <= decided_at for at in changes):
                    continue
                row = [row for at, row in self.changes[run.schedule] if at <= run.scheduled_for][-1]
                if row.crontab and row.enabled:
                    due = run.scheduled_for
                    for _ in range(run.due_times):
                        due = next_time(row, due)
                    assert due == following.scheduled_for, f"No row for {row.name}, due at {due}"


def nothing() -> None: ...


def die() -> None:
    raise Killed


def fail() -> None:
    raise DatabaseError("The database went away.")


def next_time(row: PeriodicTask, since: datetime) -> datetime:
    if row.clocked:
        return row.clocked.clocked_time
    if row.interval:
        return since + timedelta(seconds=row.interval.every)
    step = int((row.crontab.minute + "/1").split("/")[1])
    minute = since.replace(second=0, microsecond=0) + timedelta(minutes=1)
    while minute.minute % step:
        minute += timedelta(minutes=1)
    return minute


ACTIONS = [World.beat_ticks] * 8 + [World.time_passes] * 6
ACTIONS += [World.beat_will_die, World.commit_will_fail, World.beat_restarts, World.row_is_read]
ACTIONS += [World.broker_goes_or_comes, World.row_is_saved, World.row_is_saved]
ACTIONS += [World.row_gets_another_time, World.row_is_paused_or_resumed, World.rows_are_updated]
ACTIONS += [World.all_beats_work, World.row_will_expire]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_promises_hold(seed: int) -> None:
    PeriodicTask.objects.all().delete()
    Run.objects.all().delete()
    with time_machine.travel(START, tick=False) as clock:
        world = World(seed, clock)
        for _ in range(STEPS):
            world.random.choice(ACTIONS)(world)
            clock.shift(timedelta(microseconds=1))  # no two things happen at once
            world.nothing_is_doubled()
        world.all_beats_work()
        world.rows_are_true()
        world.each_due_time_is_one_row()
    assert world.sent
