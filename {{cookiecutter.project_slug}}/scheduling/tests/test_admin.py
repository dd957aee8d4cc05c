"""The admin's actions, and what beat makes of them."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from scheduling.tests.beat import Beat

TEN = datetime(2026, 6, 1, 10, 20, tzinfo=UTC)


@pytest.mark.filterwarnings("ignore:No directory at")  # WhiteNoise, before collectstatic
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("action", ["enable_tasks", "toggle_tasks"])
def test_what_is_enabled_is_due_at_its_next_time_also_after_a_restart(
    admin_client: Client, action: str
) -> None:
    PeriodicTask.objects.all().delete()
    with time_machine.travel(TEN - timedelta(days=1), tick=False) as clock:
        row = PeriodicTask.objects.create(
            name="Hourly",
            task="some.task",
            enabled=False,
            crontab=CrontabSchedule.objects.create(minute="0", timezone="UTC"),
        )
        PeriodicTask.objects.update(last_run_at=TEN - timedelta(hours=3))
        clock.move_to(TEN)
        answer = admin_client.post(
            reverse("admin:django_celery_beat_periodictask_changelist"),
            {"action": action, "_selected_action": [row.pk]},
            follow=True,
        )
        assert "1 task was successfully" in answer.content.decode()

        beat = Beat()
        beat.run()
        assert beat.sent == []
        clock.move_to(TEN + timedelta(minutes=40))
        beat.run()
        assert [sent.due for sent in beat.sent] == [TEN + timedelta(minutes=40)]
