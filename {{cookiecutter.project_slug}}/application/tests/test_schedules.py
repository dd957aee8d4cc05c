"""The schedules that this service declares."""

from collections import Counter
from datetime import timedelta

import pytest
from celery import current_app
from django_celery_beat.models import PeriodicTask

from scheduling import registry


def test_every_declared_schedule_runs_a_registered_task() -> None:
    current_app.loader.import_default_modules()

    assert {schedule.fields()["task"] for schedule in registry.declared()} <= set(current_app.tasks)


def test_no_two_schedules_have_the_same_name() -> None:
    names = Counter(schedule.name for schedule in registry.declared())

    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.django_db
def test_reminders_are_sent_every_ten_minutes() -> None:
    row = PeriodicTask.objects.get(name="Send reminder emails")

    assert row.schedule.run_every == timedelta(minutes=10)
    assert row.task == "application.tasks.send_email_task"
    assert (row.args, row.kwargs) == ('["user@example.com"]', "{}")
    assert row.enabled
