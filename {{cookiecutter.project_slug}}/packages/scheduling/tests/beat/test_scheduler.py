"""The promises of the scheduler, on a clock that the tests set. Real beats: in the template's tests.

Nothing here needs a broker: messages go to one in memory.
"""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from queue import Empty
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from amqp.exceptions import InternalError
from celery import current_app
from django.db import DatabaseError, IntegrityError, connection
from django.test.utils import CaptureQueriesContext
from django_celery_beat import schedulers
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    PeriodicTasks,
    SolarSchedule,
)
from kombu.exceptions import OperationalError

from scheduling import operations
from scheduling.beat import batch, due_queue
from scheduling.beat.scheduler import CLAIM_BATCH_SIZE, DatabaseScheduler
from scheduling.broker.batches import publish
from scheduling.messages import run_id
from scheduling.models import MISSED, Run
from tests.beat.in_process import Beat
from tests.factories import store
from tests.project.tasks import remind

pytestmark = pytest.mark.django_db(transaction=True)

START = datetime(2026, 6, 1, 12, 0, 0, 500_000, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = (
    timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days")
)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    PeriodicTask.objects.all().delete()
    with time_machine.travel(START, tick=False) as clock:
        yield clock


@pytest.fixture
def beat() -> Beat:
    return Beat()


def every(**duration: int) -> dict[str, Any]:
    [(period, count)] = duration.items()
    return {"interval": IntervalSchedule.objects.get_or_create(every=count, period=period)[0]}


def crontab(minute: str = "*", hour: str = "*", **parts: str) -> dict[str, Any]:
    row, _ = CrontabSchedule.objects.get_or_create(
        minute=minute, hour=hour, **{"timezone": "UTC", **parts}
    )
    return {"crontab": row}


def once(moment: datetime) -> dict[str, Any]:
    return {"clocked": ClockedSchedule.objects.create(clocked_time=moment), "one_off": True}


def make(name: str = "Some", **columns: Any) -> PeriodicTask:
    return PeriodicTask.objects.create(name=name, task="some.task", **columns)


def row(name: str = "Some") -> PeriodicTask:
    return PeriodicTask.objects.get(name=name)


def edit(name: str = "Some", **columns: Any) -> None:
    edited = row(name)
    for column, value in columns.items():
        setattr(edited, column, value)
    edited.save()


def dues(beat: Beat, name: str = "Some") -> list[datetime]:
    return [sent.due for sent in beat.sent if sent.name == name]


def test_a_run_is_sent_when_it_is_due_and_marked(beat: Beat, clock: Any) -> None:
    make(**every(minutes=10))
    assert beat.run() <= 1
    assert beat.sent == []

    clock.shift(10 * MINUTE)
    beat.run()
    beat.run()

    assert dues(beat) == [START + 10 * MINUTE]
    assert (row().last_run_at, row().total_run_count) == (START + 10 * MINUTE, 1)


def test_a_crontab_is_never_early(beat: Beat, clock: Any) -> None:
    make(**crontab(minute="5"))
    beat.run()
    noon = START.replace(second=0, microsecond=0)

    clock.move_to(noon + 5 * MINUTE - timedelta(milliseconds=1))
    pause = beat.run()
    assert beat.sent == []
    assert 0 < pause <= 0.0011

    clock.move_to(noon + 5 * MINUTE)
    beat.run()
    assert dues(beat) == [noon + 5 * MINUTE]


def test_a_message_has_what_the_row_says(beat: Beat, clock: Any) -> None:
    make(
        **every(minutes=1),
        args='["é"]',
        kwargs='{"x": [1]}',
        headers='{"tenant": "a"}',
        queue="reports",
        priority=3,
        expire_seconds=60,
    )
    beat.run()
    clock.shift(MINUTE)
    beat.run()

    with beat.connection.SimpleQueue("reports") as queue:
        message = queue.get_nowait()
    args, kwargs, _ = message.payload
    assert (args, kwargs, message.headers["task"]) == (["é"], {"x": [1]}, "some.task")
    assert datetime.fromisoformat(message.headers["expires"]) == START + 2 * MINUTE
    assert message.properties["priority"] == row().priority
    assert message.headers["scheduled_for"] == (START + MINUTE).isoformat()
    assert message.headers["periodic_task_name"] == "Some"
    assert message.headers["tenant"] == "a"


@pytest.mark.parametrize("beats", [2, 3])
def test_beats_share_the_runs(clock: Any, beats: int) -> None:
    sent: list[Any] = []
    crowd = [Beat(sent) for _ in range(beats)]
    for number in range(3):
        make(f"Every {number}", **every(minutes=1))
    for _ in range(10):
        for beat in crowd:
            beat.run()
        clock.shift(MINUTE)

    assert len(sent) == len({(s.name, s.due) for s in sent}) == 27


def test_what_the_broker_did_not_take_is_sent_later_and_in_order(beat: Beat, clock: Any) -> None:
    for number in range(5):
        make(f"Once {number}", **once(START + (5 - number) * MINUTE))
    beat.run()
    beat.broker_is_away = True
    pauses = []
    for _ in range(10):
        clock.shift(MINUTE)
        pauses.append(beat.run())

    assert beat.sent == []
    assert not PeriodicTask.objects.exclude(last_run_at=None).exists()
    assert pauses == [0.25, 0.5, 1, 2, 4, 5, 5, 5, 5, 5]
    assert beat.refused == 10  # at each try only the first of them

    beat.broker_is_away = False
    beat.run()
    assert [s.due for s in beat.sent] == [START + n * MINUTE for n in range(1, 6)]
    assert not PeriodicTask.objects.filter(enabled=True).exists()


def test_a_batch_that_the_broker_did_not_take_leaves_no_trace(
    beat: Beat, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        make(f"Once {number}", **once(START + MINUTE + number * SECOND))
    beat.run()
    clock.shift(HOUR / 2)

    def fail(channel: Any, messages: Any) -> Any:
        publish(channel, messages[:2])
        raise OperationalError("The broker went.")

    with monkeypatch.context() as patch:
        patch.setattr(batch, "publish", fail)
        beat.run()
    assert not Run.objects.exists()
    assert not PeriodicTask.objects.filter(enabled=False).exists()

    beat.run()
    assert [s.name for s in beat.sent] == [f"Once {number}" for number in range(5)]
    assert Run.objects.count() == PeriodicTask.objects.filter(enabled=False).count() == 5


def test_what_was_published_and_not_committed_is_published_again_under_its_id(
    beat: Beat, clock: Any
) -> None:
    make(**every(minutes=10))
    beat.run()
    clock.shift(10 * MINUTE)

    def fail() -> None:
        raise DatabaseError("The database is away.")

    beat.before_commit = fail
    beat.run()
    assert (Run.objects.count(), row().total_run_count) == (0, 0)

    beat.before_commit = lambda: None
    beat.run()
    assert beat.sent[0].id == beat.sent[1].id == str(Run.objects.get().pk)
    assert row().total_run_count == 1


def test_what_a_worker_has_begun_is_not_published_again(beat: Beat, clock: Any) -> None:
    """A beat published it and died before its commit; the worker inserted the row."""
    some = make(**every(minutes=10), queue="begun")
    beat.run()
    clock.shift(10 * MINUTE)
    store("Some", START + 10 * MINUTE, "started", pk=run_id(some.pk, START + 10 * MINUTE))
    beat.run()

    with pytest.raises(Empty), beat.connection.SimpleQueue("begun") as queue:
        queue.get_nowait()
    assert (Run.objects.get().state, row().total_run_count) == ("started", 1)


def test_a_beat_that_dies_before_its_commit_leaves_the_run_to_another(clock: Any) -> None:
    first, second = Beat(), Beat()
    make(**every(minutes=10))
    for beat in (first, second):
        beat.run()
    clock.shift(10 * MINUTE)

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    first.before_commit = die
    with pytest.raises(Killed):
        first.run()
    second.run()

    assert dues(second) == [START + 10 * MINUTE]
    assert row().total_run_count == 1
    assert first.sent[0].id == second.sent[0].id  # so the mail has the same Message-ID


def test_each_run_has_an_id_of_its_own(beat: Beat, clock: Any) -> None:
    for number in range(2):
        make(f"Row {number}", **every(minutes=1))
    for _ in range(4):
        beat.run()
        clock.shift(MINUTE)

    assert len({sent.id for sent in beat.sent}) == len(beat.sent) == 6


@pytest.mark.parametrize("made", [once, lambda moment: every(minutes=1) | {"one_off": True}])
def test_what_runs_once_is_disabled_as_it_is_claimed(beat: Beat, clock: Any, made: Any) -> None:
    make(**made(START + MINUTE))
    beat.run()
    for _ in range(5):
        clock.shift(MINUTE)
        beat.run()
        Beat(beat.sent).run()

    assert dues(beat) == [START + MINUTE]
    assert (row().enabled, row().total_run_count) == (False, 1)


def ledger(name: str = "Some") -> list[tuple[datetime, str, str, int]]:
    """What the ledger says of a schedule's due times, in their order."""
    runs = Run.objects.filter(schedule=name).order_by("scheduled_for")
    return list(runs.values_list("scheduled_for", "state", "trigger", "due_times"))


def test_each_run_that_is_sent_is_a_row(beat: Beat, clock: Any) -> None:
    some = make(**every(minutes=10), expire_seconds=90, queue="reports")
    beat.run()
    clock.shift(10 * MINUTE + SECOND)
    beat.run()

    run = Run.objects.get()
    now = START + 10 * MINUTE + SECOND
    assert (run.periodic_task, run.schedule, run.task) == (some, "Some", "some.task")
    assert (run.state, run.trigger, run.queue) == ("sent", "schedule", "reports")
    assert run.scheduled_for == START + 10 * MINUTE
    assert run.queued_at == run.ready_at == now
    assert run.expires_at == now + 90 * SECOND


def test_due_times_that_one_run_makes_up_are_one_row(beat: Beat, clock: Any) -> None:
    make(**crontab())
    make("Interval", **every(minutes=1))
    beat.run()
    beat.broker_is_away = True
    clock.shift(10 * MINUTE)
    beat.run()
    beat.broker_is_away = False
    beat.run()

    noon = START.replace(second=0, microsecond=0)
    assert ledger() == [
        (noon + MINUTE, "sent", "catch-up", 1),
        (noon + 2 * MINUTE, "skipped", "schedule", 9),
    ]
    assert ledger("Interval") == [
        (START + MINUTE, "sent", "catch-up", 1),
        (START + 2 * MINUTE, "skipped", "schedule", 9),
    ]


@pytest.mark.parametrize("beats", [1, 2])
def test_what_was_missed_for_too_long_is_one_row(clock: Any, beats: int) -> None:
    make(**crontab(minute="0"))
    make("Once", **once(START + MINUTE))
    Beat().run()
    clock.shift(10 * HOUR)
    crowd = [Beat() for _ in range(beats)]
    for beat in crowd:
        beat.queue.poll_changes()
    for beat in crowd:
        beat.run()
        beat.run()

    noon = START.replace(second=0, microsecond=0)
    assert ledger() == [
        (noon + HOUR, "skipped", "schedule", 9),
        (noon + 10 * HOUR, "sent", "schedule", 1),
    ]
    assert ledger("Once") == [(START + MINUTE, "skipped", "schedule", 1)]
    assert set(Run.objects.filter(state="skipped").values_list("reason", flat=True)) == {MISSED}


def test_a_beat_that_was_held_up_skips_nothing_that_another_has_sent(clock: Any) -> None:
    make(**every(hours=1))
    frozen, other = Beat(), Beat()
    frozen.run()
    other.run()
    for _ in range(3):
        clock.shift(HOUR)
        other.run()
    frozen.run()

    assert [state for _, state, _, _ in ledger()] == ["sent"] * 3
    assert frozen.sent == []


def test_the_table_refuses_a_second_row_for_a_due_time(beat: Beat) -> None:
    some = make(**every(minutes=1))
    store("Some", START, "sent")

    with pytest.raises(IntegrityError):
        Run.objects.create(id=uuid4(), periodic_task=some, schedule="Some", scheduled_for=START)


NIGHTLY_DUE = datetime(2026, 6, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize(
    ("back", "expected"),
    [
        (20 * MINUTE, [NIGHTLY_DUE, NIGHTLY_DUE + DAY]),
        (6.5 * HOUR, [NIGHTLY_DUE + DAY]),
    ],
)
def test_a_nightly_run_that_was_missed(
    clock: Any,
    caplog: pytest.LogCaptureFixture,
    back: timedelta,
    expected: list[datetime],
    restart: bool,
) -> None:
    make("Nightly", **crontab(minute="0", hour="3"))
    beat = Beat()
    beat.run()
    clock.move_to(NIGHTLY_DUE + back)
    if restart:
        beat = Beat(beat.sent)
    for _ in range(24 * 6):
        beat.run()
        clock.shift(10 * MINUTE)

    assert dues(beat, "Nightly") == expected
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    skipped = f"beat: Skipped Nightly, due at {NIGHTLY_DUE}: missed for longer than"
    assert [skipped in w for w in warnings] == ([] if len(expected) == 2 else [True])


def test_a_pause_ends_at_the_next_due_time(beat: Beat, clock: Any) -> None:
    make(**crontab(minute="0"))
    make("Bulk", **crontab(minute="0"))
    beat.run()
    for enabled, minutes in ((False, 50), (True, 70)):
        clock.move_to(START + (minutes - 1) * MINUTE)
        beat.run()
        clock.move_to(START + minutes * MINUTE)
        edit(enabled=enabled)
        PeriodicTask.objects.filter(name="Bulk").update(enabled=enabled)  # as an admin action does
        PeriodicTasks.update_changed()
        beat.run()
    assert beat.sent == []

    clock.shift(HOUR)
    beat.run()
    two = datetime(2026, 6, 1, 14, tzinfo=UTC)
    assert (dues(beat), dues(beat, "Bulk")) == ([two], [two])


@pytest.mark.parametrize("while_away", [True, False])
def test_another_time_counts_from_the_edit(clock: Any, while_away: bool) -> None:
    make(**crontab(minute="0", hour="3"), last_run_at=START - 9 * HOUR)
    beat = Beat()
    beat.run()
    clock.shift(SECOND)
    edit(**crontab(minute="30", hour="11"))  # half an hour ago
    if while_away:
        beat = Beat()
    beat.run()
    assert beat.sent == []

    clock.shift(DAY)
    beat.run()
    assert dues(beat) == [datetime(2026, 6, 2, 11, 30, tzinfo=UTC)]


def test_a_start_time_is_waited_for(beat: Beat, clock: Any) -> None:
    make(**crontab(minute="0"), start_time=START + DAY)
    make("Interval", **every(hours=5), start_time=START + DAY)
    for _ in range(3 * 24):
        beat.run()
        clock.shift(HOUR / 2)

    assert dues(beat)[0] == datetime(2026, 6, 2, 13, tzinfo=UTC)
    assert dues(beat, "Interval")[0] == START + DAY


def test_nothing_runs_after_its_end(beat: Beat, clock: Any) -> None:
    make(**every(hours=1), expires=START + 2 * HOUR)
    for _ in range(5):
        beat.run()
        clock.shift(HOUR)

    assert dues(beat) == [START + HOUR]


def test_what_has_expired_is_disabled_by_one_beat_and_not_before(clock: Any) -> None:
    make(**every(hours=1), expires=START + 90 * MINUTE)
    make("Never ran", **crontab(minute="0", hour="3"), expires=START + HOUR)
    crowd = [Beat(), Beat()]
    enabled = []
    for _ in range(5):
        for beat in crowd:
            beat.run()
        enabled.append([row().enabled, row("Never ran").enabled])
        clock.shift(30 * MINUTE)

    assert enabled == [[True, True]] * 2 + [[True, False]] + [[False, False]] * 2
    assert (row().last_run_at, row().total_run_count) == (None, 1)
    assert not any(beat.queue.entries for beat in crowd)


@pytest.mark.parametrize(
    ("away", "reason"), [(91 * MINUTE, "it expired at"), (DAY, "missed for longer than")]
)
@pytest.mark.parametrize("made", [once, lambda moment: every(hours=1)])
def test_what_could_not_be_sent_before_its_end_is_not_sent_later(
    beat: Beat,
    clock: Any,
    caplog: pytest.LogCaptureFixture,
    made: Any,
    away: timedelta,
    reason: str,
) -> None:
    make(**made(START + HOUR), expires=START + 90 * MINUTE)
    beat.run()
    clock.shift(away)
    Beat(beat.sent).run()

    assert beat.sent == []
    assert not row().enabled
    assert f"beat: Skipped Some, due at {START + HOUR}: {reason}" in caplog.text


def test_a_later_end_is_waited_for(beat: Beat, clock: Any) -> None:
    make(**every(hours=1), expires=START + 90 * MINUTE)
    for minutes in range(0, 180, 10):
        if minutes == 80:
            edit(expires=START + 150 * MINUTE)
        beat.run()
        clock.shift(10 * MINUTE)

    assert dues(beat) == [START + HOUR, START + 2 * HOUR]
    assert not row().enabled


def test_edits_are_seen_at_the_next_look_and_only_they_are_read(beat: Beat, clock: Any) -> None:
    for number in range(50):
        make(f"Row {number}", **every(hours=1))
    beat.run()
    others = dict(beat.queue.entries)
    clock.shift(SECOND)
    edit("Row 7", **every(minutes=1))
    added = make("New", **every(minutes=1))
    PeriodicTask.objects.filter(name="Row 8").update(interval=every(minutes=1)["interval"])
    shared = row("Row 9").interval
    row("Row 10").delete()
    PeriodicTasks.update_changed()

    clock.shift(SECOND)
    beat.run()
    read = {pk for pk, waiting in beat.queue.entries.items() if others.get(pk) is not waiting}
    assert read == {row("Row 7").pk, row("Row 8").pk, added.pk}
    clock.shift(61 * SECOND)
    beat.run()
    assert {s.name for s in beat.sent} == {"Row 7", "Row 8", "New"}

    shared.every, shared.period = 2, "minutes"  # of all that are left
    shared.save()
    clock.shift(SECOND)
    beat.run()
    clock.shift(2 * MINUTE)
    beat.run()
    assert {s.name for s in beat.sent} >= {f"Row {number}" for number in range(11, 50)}
    assert not dues(beat, "Row 10")


@pytest.mark.parametrize("read", ["enabled_rows", "whole_rows"])
def test_an_error_in_reading_changes_loses_no_row(
    beat: Beat, clock: Any, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    def fail(*arguments: Any) -> Any:
        raise DatabaseError("The database is away.")

    make("Old", **every(minutes=1))
    beat.run()
    clock.shift(SECOND)
    make("New", **every(minutes=1))
    with monkeypatch.context() as patch:
        patch.setattr(due_queue, read, fail)
        beat.queue.next_poll = 0.0
        assert beat.tick() > 0
    beat.run()
    clock.shift(MINUTE + SECOND)
    beat.run()

    assert len(dues(beat, "Old")) == len(dues(beat, "New")) == 1


def test_nothing_is_read_again_while_nothing_changes(beat: Beat) -> None:
    make(**every(minutes=1))
    beat.run()

    with CaptureQueriesContext(connection) as queries:
        beat.run()

    tables = PeriodicTask._meta.db_table, IntervalSchedule._meta.db_table
    read = [query["sql"] for query in queries]
    assert [sql for sql in read if any(f'"{table}"' in sql for table in tables)] == []


def test_a_save_of_what_was_read_before_a_run_does_not_undo_it(beat: Beat, clock: Any) -> None:
    make(**every(minutes=10))
    beat.run()
    stale = row()
    clock.shift(10 * MINUTE)
    beat.run()

    stale.description = "An operator's"
    stale.save()

    assert (stale.last_run_at, stale.total_run_count) == (None, 0)
    assert (row().last_run_at, row().total_run_count) == (START + 10 * MINUTE, 1)
    assert Beat(beat.sent).run()
    assert len(beat.sent) == 1


def test_a_pause_that_lands_between_read_and_claim_holds(beat: Beat, clock: Any) -> None:
    make(**every(minutes=10))
    beat.run()
    clock.shift(10 * MINUTE)
    beat.queue.next_poll = float("inf")
    PeriodicTask.objects.update(enabled=False)

    beat.tick()

    assert beat.sent == []
    assert not row().enabled


BAD_ROWS: dict[str, dict[str, Any]] = {
    "no schedule": {"interval": None},
    "two schedules": {"crontab_id": "a crontab"},
    "headers that are no object": {"headers": "[]"},
    "headers that are no JSON": {"headers": "{"},
    "args that are no JSON": {"args": "[1"},
    "args that are no list": {"args": "{}"},
    "kwargs that are no object": {"kwargs": "[]"},
    "headers of Celery's": {"headers": '{"timelimit": "x"}'},
    "a queue in the place of a key of the broker": {"queue": "unacked", "priority": 0},
    "args that nest without end": {"args": "[" * 100_000},
    "an impossible crontab": {"interval": None, "crontab_id": "30 February"},
    "a crontab out of range": {"interval": None, "crontab_id": "minute 61"},
    "an unknown zone": {"interval": None, "crontab_id": "Mars"},
    "an interval that overflows": {"interval_id": "long"},
    "an interval of nothing": {"interval_id": "nothing"},
    "an interval of nothing, long after its start": {
        "interval_id": "nothing",
        "start_time": START - DAY,
        "date_changed": START - 2 * DAY,
    },
    "solar without its library": {"interval": None, "solar_id": "sunset"},
}


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_a_bad_row_is_skipped_said_once_and_mended(
    beat: Beat,
    clock: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ephem", None)
    bad: dict[str, Any] = {
        "a crontab": CrontabSchedule.objects.create(timezone="UTC"),
        "30 February": CrontabSchedule.objects.create(
            minute="0", hour="0", day_of_month="30", month_of_year="2", timezone="UTC"
        ),
        "minute 61": CrontabSchedule.objects.create(minute="61", timezone="UTC"),
        "Mars": CrontabSchedule.objects.create(minute="1", timezone="UTC"),
        "long": IntervalSchedule.objects.create(every=2**31 - 1, period="days"),
        "nothing": IntervalSchedule.objects.create(every=0, period="seconds"),
        "sunset": SolarSchedule.objects.create(event="sunset", latitude=52, longitude=13),
    }
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_celery_beat_crontabschedule SET timezone = 'Mars/Olympus' WHERE id = %s",
            [bad["Mars"].pk],
        )
    make("Bad", **every(minutes=1))
    make("Good", **every(minutes=1))
    columns = {c: bad[v].pk if c[-3:] == "_id" else v for c, v in BAD_ROWS[fault].items()}
    PeriodicTask.objects.filter(name="Bad").update(**columns)

    for _ in range(5):
        beat.run()
        clock.shift(MINUTE)
        PeriodicTasks.update_changed()  # somebody saved another row
    assert len(dues(beat, "Good")) == 4
    assert dues(beat, "Bad") == []
    said = [r.getMessage() for r in caplog.records if "Skipping Bad until" in r.getMessage()]
    assert len(said) == 1

    PeriodicTask.objects.filter(name="Bad").update(
        **every(minutes=1),
        **dict.fromkeys(("crontab", "solar", "start_time")),
        **{"args": "[]", "kwargs": "{}", "headers": "{}", "queue": None},
    )
    PeriodicTasks.update_changed()
    for _ in range(3):
        beat.run()
        clock.shift(MINUTE)
    assert len(dues(beat, "Bad")) >= 2


def test_a_run_that_celery_refuses_does_not_hold_up_the_others(beat: Beat, clock: Any) -> None:
    make("Wrong", **every(minutes=1))  # without the recipient that the task takes
    PeriodicTask.objects.update(task=remind.name)
    make("Good", **every(minutes=1))
    for _ in range(4):
        beat.run()
        clock.shift(MINUTE)

    assert len(dues(beat, "Good")) == 3
    assert row("Wrong").last_run_at is None


def test_a_message_that_the_broker_refuses_does_not_hold_up_the_others(
    beat: Beat, clock: Any
) -> None:
    make("Wrong", **every(minutes=1), queue="a key of another type")
    make("Good", **every(minutes=1))
    send = beat.send_task

    def refuse_one(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("queue"):
            raise OperationalError("WRONGTYPE")
        return send(*args, **kwargs)

    beat.send_task = refuse_one
    for _ in range(40):
        beat.run()
        clock.shift(10 * SECOND)

    assert dues(beat, "Wrong") == []
    assert len(dues(beat, "Good")) >= 5


def test_a_message_at_which_the_broker_hangs_up_does_not_hold_up_the_others(
    beat: Beat, clock: Any
) -> None:
    make("Wrong", **every(minutes=1), queue="wrong")
    make("Good", **every(minutes=1))
    send, connected = beat.send_task, [True]
    close = beat.close

    def hang_up(*args: Any, **kwargs: Any) -> Any:
        connected[0] &= kwargs.get("queue") != "wrong"
        if not connected[0]:
            raise InternalError("INTERNAL_ERROR")
        return send(*args, **kwargs)

    def connect_anew() -> None:
        connected[0] = True
        close()

    beat.send_task = hang_up
    beat.close = connect_anew
    for _ in range(40):
        beat.run()
        clock.shift(10 * SECOND)

    assert dues(beat, "Wrong") == []
    assert len(dues(beat, "Good")) >= 5


def test_a_pause_before_the_first_run_counts_too(beat: Beat, clock: Any) -> None:
    make(**every(hours=1))
    beat.run()
    for minutes, enabled in ((10, False), (50, True)):
        clock.move_to(START + minutes * MINUTE)
        edit(enabled=enabled)
        beat.run()
    clock.move_to(START + 65 * MINUTE)
    beat.run()
    assert beat.sent == []

    clock.move_to(START + 110 * MINUTE)
    beat.run()
    assert dues(beat) == [START + 110 * MINUTE]


def test_a_pause_and_its_end_by_update_between_two_looks_change_nothing(
    beat: Beat, clock: Any
) -> None:
    make(**every(hours=1))
    beat.run()
    clock.shift(HOUR)
    beat.run()
    clock.shift(59 * MINUTE)
    beat.run()
    PeriodicTask.objects.update(enabled=False, last_run_at=None)  # as django-celery-beat's actions
    PeriodicTask.objects.update(enabled=True)
    beat.run()
    clock.shift(MINUTE)
    beat.run()

    assert dues(beat) == [START + HOUR, START + 2 * HOUR]


def test_what_was_paused_over_its_due_time_unseen_counts_from_its_end(
    beat: Beat, clock: Any
) -> None:
    make(**every(hours=1))
    for _ in range(2):
        beat.run()
        clock.shift(HOUR)
    operations.pause([row()])
    clock.shift(MINUTE)
    operations.resume([row()])
    for _ in range(2):
        beat.run()
        clock.shift(HOUR)

    assert dues(beat) == [START + HOUR, START + 3 * HOUR + MINUTE]


@pytest.mark.parametrize("made", [lambda: every(minutes=10), lambda: crontab(minute="*/10")])
@pytest.mark.parametrize("is_edited", [False, True])
def test_a_reset_of_the_last_runs_makes_no_run_come_early_or_late(
    beat: Beat, clock: Any, made: Any, is_edited: bool
) -> None:
    """As django-celery-beat's documentation resets them: by update(), which leaves no date."""
    make(**made())
    for _ in range(15):
        beat.run()
        clock.shift(MINUTE)
    if is_edited:
        edit(description="An operator's")
    PeriodicTask.objects.update(last_run_at=None)
    PeriodicTasks.update_changed()
    for _ in range(30):
        beat.run()
        clock.shift(MINUTE)

    first = dues(beat)[0]
    assert dues(beat) == [first + number * 10 * MINUTE for number in range(4)]


def test_rows_that_are_gone_are_forgotten(beat: Beat, clock: Any) -> None:
    make(**every(hours=1))
    make("Bad", **every(hours=1))
    PeriodicTask.objects.filter(name="Bad").update(interval=None)
    beat.run()
    assert beat.queue.entries and beat.queue.complaints

    clock.shift(SECOND)
    PeriodicTask.objects.all().delete()
    beat.run()
    assert not beat.queue.entries and not beat.queue.complaints


def test_a_burst_costs_a_query_for_many_runs(beat: Beat, clock: Any) -> None:
    count = 2 * CLAIM_BATCH_SIZE
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"Row {n}", task="some.task", **every(hours=1)) for n in range(count)
    )
    beat.run()
    clock.shift(HOUR)
    with CaptureQueriesContext(connection) as queries:
        beat.run()

    assert len(beat.sent) == count
    assert len(queries) < 0.1 * count


def test_beat_waits_for_the_tables(
    beat: Beat, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(**every(minutes=1))
    with monkeypatch.context() as patch:
        patch.setattr(connection.introspection, "table_names", lambda: [])
        assert 0 < beat.run() <= 1
    assert "waiting for manage.py migrate" in caplog.text
    assert beat.queue.entries == {}

    beat.run()
    assert list(beat.queue.entries) == [row().pk]


def test_entries_of_the_settings_are_written_first(
    beat: Beat, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"task": "some.task", "schedule": 60, "args": [1]}
    monkeypatch.setitem(current_app.conf, "beat_schedule", {"Every minute": entry})
    beat.run()
    clock.shift(MINUTE)
    beat.run()

    assert dues(beat, "Every minute") == [START + MINUTE]


def test_every_override_is_of_something() -> None:
    ours = {name for name in vars(DatabaseScheduler) if not name.startswith("__")}
    theirs = set(dir(schedulers.DatabaseScheduler))

    assert ours & theirs == {
        *("Entry", "schedule", "setup_schedule", "sync", "tick", "apply_async"),
        "_ensure_connected",
    }
