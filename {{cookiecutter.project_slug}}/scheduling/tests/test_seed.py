"""Seeding adds what is missing and leaves alone what is there."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.schedules import crontab
from django.core.management import call_command
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

from scheduling import registry
from scheduling.apps import seed_after_migrate
from scheduling.schedule import Schedule
from scheduling.seed import Add, plan, seed

pytestmark = pytest.mark.django_db

WEEKLY = Schedule("Weekly", "some.task", timedelta(weeks=1), args=[1])
HOURLY = Schedule("Hourly", "some.task", timedelta(hours=1))
NIGHTLY = Schedule("Nightly", "some.task", crontab(minute="0", hour="3"))
ONCE = Schedule("Once", "some.task", datetime(2100, 1, 1, tzinfo=UTC))


def rows() -> list[dict[str, Any]]:
    return list(PeriodicTask.objects.order_by("pk").values())


@pytest.mark.parametrize(
    ("declared", "stored", "changes"),
    [
        ([], [], []),
        ([], ["Weekly"], []),
        ([WEEKLY], ["Weekly"], []),
        ([WEEKLY], ["weekly", "Hourly"], [Add(WEEKLY)]),
        ([WEEKLY, HOURLY], [], [Add(WEEKLY), Add(HOURLY)]),
    ],
)
def test_the_plan_adds_what_is_declared_and_not_stored(
    declared: list[Schedule], stored: list[str], changes: list[Add]
) -> None:
    assert plan(declared, stored) == changes


@pytest.mark.parametrize("schedule", [WEEKLY, NIGHTLY, ONCE], ids=lambda schedule: schedule.name)
def test_a_seeded_row_is_one_that_beat_can_run(schedule: Schedule) -> None:
    seed([schedule])

    row = PeriodicTask.objects.get(name=schedule.name)
    row.full_clean()
    assert row.enabled
    assert row.schedule.is_due(datetime.now(UTC)) is not None


def test_seeding_twice_is_seeding_once() -> None:
    added = seed([WEEKLY, NIGHTLY, ONCE])
    before = rows()

    assert [row.name for row in added] == ["Weekly", "Nightly", "Once"]
    assert seed([WEEKLY, NIGHTLY, ONCE]) == []
    assert rows() == before


def test_what_an_operator_changed_stays() -> None:
    seed([WEEKLY])
    row = PeriodicTask.objects.get(name="Weekly")
    row.interval = IntervalSchedule.objects.create(every=2, period=IntervalSchedule.DAYS)
    row.args, row.enabled = "[2]", False
    row.save()
    before = rows()

    seed([WEEKLY])

    assert rows() == before


def test_beat_reloads_when_a_schedule_was_added_and_not_otherwise() -> None:
    start = PeriodicTasks.last_change()
    seed([WEEKLY])
    added = PeriodicTasks.last_change()
    seed([WEEKLY])

    assert start != added == PeriodicTasks.last_change()


def test_schedules_share_the_row_that_says_when() -> None:
    first, second = seed([WEEKLY, Schedule("Other", "some.task", timedelta(days=7))])

    assert first.interval == second.interval


def test_one_of_several_equal_intervals_is_used_again() -> None:
    weekly = {"every": 7, "period": IntervalSchedule.DAYS}
    duplicates = [IntervalSchedule.objects.create(**weekly) for _ in range(2)]

    [row] = seed([WEEKLY])

    assert row.interval in duplicates
    assert IntervalSchedule.objects.filter(**weekly).count() == 2


def test_the_command_says_what_it_added(capsys: pytest.CaptureFixture[str]) -> None:
    PeriodicTask.objects.all().delete()
    declared = registry.declared()

    call_command("seed_schedules", no_color=True)
    first = capsys.readouterr().out
    call_command("seed_schedules", no_color=True)
    second = capsys.readouterr().out

    assert all(f"  + {schedule.name}: " in first for schedule in declared)
    assert first.endswith(f"  {len(declared)} added\n")
    assert second == "Schedules:\n  nothing added\n"


def test_migrate_seeds_what_is_missing() -> None:
    PeriodicTask.objects.all().delete()

    call_command("migrate", verbosity=0)

    names = {schedule.name for schedule in registry.declared()}
    assert set(PeriodicTask.objects.values_list("name", flat=True)) == names


def test_flush_leaves_the_tables_empty() -> None:
    call_command("flush", interactive=False, verbosity=0)

    assert not PeriodicTask.objects.exists()


def test_a_database_without_schedules_is_not_seeded() -> None:
    PeriodicTask.objects.all().delete()

    seed_after_migrate(verbosity=0, using="other", plan=[])

    assert not PeriodicTask.objects.exists()


def test_a_schedule_made_by_hand_first_is_left_alone() -> None:
    PeriodicTask.objects.all().delete()
    schedule, created = IntervalSchedule.objects.get_or_create(
        every=10,
        period=IntervalSchedule.MINUTES,
    )
    PeriodicTask.objects.create(
        interval=schedule,
        name="Send reminder emails",
        task="application.tasks.send_email_task",
        args='["user@example.com"]',
    )
    [before] = rows()

    call_command("seed_schedules", verbosity=0)

    assert not created
    assert before in rows()
