"""The schedules that this service declares."""

from datetime import timedelta

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django_celery_beat.models import PeriodicTask


def test_every_schedule_has_a_name_of_its_own_and_a_task_that_workers_know() -> None:
    assert [message for message in run_checks() if str(message.id).startswith("scheduling.")] == []


@pytest.mark.django_db
def test_reminders_are_sent_every_ten_minutes() -> None:
    call_command("seed_schedules", verbosity=0)
    row = PeriodicTask.objects.get(name="Send reminder emails")

    assert row.schedule.run_every == timedelta(minutes=10)
    assert row.task == "application.tasks.send_email_task"
    assert (row.args, row.kwargs) == ('["user@example.com"]', "{}")
    assert row.expire_seconds == 600
    assert not row.enabled  # tests run as production does, without DEBUG
