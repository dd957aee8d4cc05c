"""What a beat learns of edits, whoever makes them and how, and what it reads for that."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext, override_settings
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

from scheduling import change_log, operations
from scheduling.beat import due_queue
from scheduling.models import Change
from scheduling.tasks import clean_up_history
from scheduling.timing import Timing
from tests.beat.in_process import Beat
from tests.factories import DAY, MINUTE, NOON

pytestmark = pytest.mark.django_db(transaction=True)
COUNT = 50


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    PeriodicTask.objects.all().delete()
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


def every(count: int) -> IntervalSchedule:
    return IntervalSchedule.objects.get_or_create(every=count, period="minutes")[0]


def make(name: str, **columns: Any) -> PeriodicTask:
    return PeriodicTask.objects.create(
        name=name, task="some.task", **{"interval": every(10), **columns}
    )


@pytest.fixture
def beat() -> Beat:
    fill()
    beat = Beat()
    beat.run()
    return beat


def fill() -> None:
    """As it is before an edit."""
    PeriodicTask.objects.all().delete()
    IntervalSchedule.objects.all().delete()
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"Row {n}", task="some.task", interval=every(10)) for n in range(COUNT)
    )


def row(number: int = 7) -> PeriodicTask:
    return PeriodicTask.objects.get(name=f"Row {number}")


def known(beat: Beat) -> dict[str, str]:
    """What the beat has queued: when each row runs, by its name now."""
    names = dict(PeriodicTask.objects.values_list("pk", "name"))
    return {
        names.get(pk, "deleted"): f"{entry.timing.values[0]}"
        for pk, entry in beat.queue.entries.items()
    }


def saved(**columns: Any) -> None:
    edited = row()
    for column, value in columns.items():
        setattr(edited, column, value)
    edited.save()


def executed(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def migrate() -> None:
    with override_settings(SEED_SCHEDULES_ON_MIGRATE=False):
        call_command("migrate", verbosity=0)


OTHERS = {f"Row {number}": "10" for number in range(COUNT) if number != 7}
UNCHANGED = OTHERS | {"Row 7": "10"}
TWENTY = OTHERS | {"Row 7": "20"}
EDITS: dict[str, tuple[Callable[[], Any], dict[str, str]]] = {
    "another time": (lambda: saved(interval=every(20)), TWENTY),
    "a pause": (lambda: saved(enabled=False), OTHERS),
    "a new name": (lambda: saved(name="New"), OTHERS | {"New": "10"}),
    "a new row": (lambda: make("New"), UNCHANGED | {"New": "10"}),
    "a deletion": (lambda: row().delete(), OTHERS),
    "operations.pause": (lambda: operations.pause([row()]), OTHERS),
    "operations.pause_all": (operations.pause_all, {}),
    "update()": (
        lambda: PeriodicTask.objects.filter(name="Row 7").update(interval=every(20)),
        TWENTY,
    ),
    "bulk_create()": (
        lambda: PeriodicTask.objects.bulk_create(
            [PeriodicTask(name="New", task="some.task", interval=every(20))]
        ),
        UNCHANGED | {"New": "20"},
    ),
    "delete() of a query": (lambda: PeriodicTask.objects.filter(name="Row 7").delete(), OTHERS),
    "raw SQL": (
        lambda: executed(
            "UPDATE django_celery_beat_periodictask SET enabled = false WHERE name = 'Row 7'"
        ),
        OTHERS,
    ),
    "a shared interval, by update()": (
        lambda: IntervalSchedule.objects.update(every=30),
        dict.fromkeys(UNCHANGED, "30"),
    ),
    "nothing, but all is to be read": (PeriodicTasks.update_changed, UNCHANGED),
}


@pytest.mark.parametrize("log_chunk_size", [500, 3])
def test_all_beats_see_an_edit_at_the_next_poll(
    monkeypatch: pytest.MonkeyPatch, log_chunk_size: int
) -> None:
    monkeypatch.setattr(due_queue, "LOG_CHUNK_SIZE", log_chunk_size)
    crowd = [Beat(), Beat()]
    for edit, (do, expected) in EDITS.items():
        fill()
        for beat in crowd:
            beat.run()
            assert known(beat) == UNCHANGED
        do()
        for beat in crowd:
            beat.run()
            assert known(beat) == expected, edit


def test_a_resumption_is_seen(beat: Beat) -> None:
    operations.pause_all()
    beat.run()
    assert beat.queue.entries == {}

    operations.resume_all()
    beat.run()
    assert known(beat) == UNCHANGED


def test_an_edit_costs_its_own_row(beat: Beat) -> None:
    PeriodicTask.objects.filter(name="Row 7").update(interval=every(20))
    log = Change.objects.values_list("periodic_task_id", flat=True)
    assert set(log.order_by("-pk")[:1]) == {row().pk}

    with CaptureQueriesContext(connection) as queries:
        beat.queue.next_poll = 0.0
        beat.queue.poll_changes()
    read = [q["sql"] for q in queries if '"django_celery_beat_' in q["sql"]]
    assert len(read) == 3  # the row's time, the timing, the whole row
    assert all(
        f"IN ({key})" in sql
        for sql, key in zip(read, (row().pk, every(20).pk, row().pk), strict=True)
    )


def test_a_claim_is_no_edit(beat: Beat, clock: Any) -> None:
    make("Once", one_off=True)
    beat.run()
    before = Change.objects.count()
    clock.shift(10 * MINUTE)
    beat.run()

    assert len(beat.sent) == COUNT + 1
    assert not PeriodicTask.objects.get(name="Once").enabled
    assert Change.objects.count() == before


def test_an_edit_that_is_rolled_back_leaves_nothing(beat: Beat) -> None:
    before = Change.objects.count()
    with transaction.atomic():
        saved(interval=every(20))
        transaction.set_rollback(True)
    beat.run()

    assert (known(beat), Change.objects.count()) == (UNCHANGED, before)


def test_edits_are_seen_in_whatever_order_they_are_committed(beat: Beat) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    late = connections["default"].copy()
    try:
        late.set_autocommit(False)
        with late.cursor() as cursor:
            cursor.execute(
                "UPDATE django_celery_beat_periodictask SET enabled = false WHERE name = 'Row 7'"
            )
        for number in (1, 2, 3):
            operations.pause([row(number)])
            beat.run()
            assert f"Row {number}" not in known(beat)
        restarted = Beat()
        restarted.run()
        operations.pause([row(4)])
        assert "Row 7" in known(beat) and "Row 7" in known(restarted)

        late.commit()
        for each in (beat, restarted):
            each.run()
            assert known(each) == {
                f"Row {n}": "10" for n in range(COUNT) if n not in (1, 2, 3, 4, 7)
            }
    finally:
        late.close()


def test_what_was_read_is_not_read_again_while_a_transaction_is_open(
    beat: Beat, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    other = connections["default"].copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()")
        saved(interval=every(20))
        beat.run()
        monkeypatch.delattr(due_queue, "whole_rows")
        beat.run()
    finally:
        other.close()
    assert known(beat) == TWENTY


def test_what_was_changed_without_triggers_is_found_within_minutes(beat: Beat, clock: Any) -> None:
    change_log.before_migrate("default", [(PeriodicTasks._meta, False)])
    try:
        operations.pause([row(1)])
        IntervalSchedule.objects.update(every=30)
        row(2).delete()
        beat.run()
        assert known(beat)["Row 1"] == "10"

        clock.shift(11 * MINUTE)
        beat.run()
        expected = dict.fromkeys(UNCHANGED, "30")
        del expected["Row 1"], expected["Row 2"]
        assert known(beat) == expected
        assert Timing("interval", (30, "minutes")) in beat.queue.timings.values()
    finally:
        migrate()


def test_migrate_writes_triggers_that_are_missing_and_has_all_rows_read(beat: Beat) -> None:
    change_log.before_migrate("default", [(PeriodicTasks._meta, False)])
    operations.pause([row()])
    migrate()
    beat.run()
    assert known(beat) == OTHERS

    count = Change.objects.count()
    migrate()
    assert Change.objects.count() == count


def test_a_comparison_loses_nothing_that_is_edited_meanwhile(
    beat: Beat, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_queue, "COMPARE_CHUNK_SIZE", 10)
    operations.pause([row(1)])
    queue = beat.queue
    clock.shift(11 * MINUTE)
    queue.next_poll = float("inf")
    for _ in range(3):
        queue.poll_changes()
    assert queue.comparison

    operations.resume([row(1)])
    operations.pause([row(2), row(49)])
    make("New")
    beat.run()
    expected = {f"Row {n}": "10" for n in range(COUNT) if n not in (2, 49)} | {"New": "10"}
    assert queue.comparison is None
    assert known(beat) == expected


def test_the_log_is_kept_for_a_day(beat: Beat) -> None:
    newest = Change.objects.order_by("-pk").first()
    assert newest
    with time_machine.travel(newest.made_at + DAY - MINUTE):
        clean_up_history()
        assert Change.objects.count() >= COUNT
    with time_machine.travel(newest.made_at + DAY + timedelta(seconds=1)):
        clean_up_history()
    assert not Change.objects.exists()
    saved(interval=every(20))
    beat.run()
    assert known(beat) == TWENTY
