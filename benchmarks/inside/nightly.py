"""A daily 03:00 schedule, and a beat that is away at 03:00, on a simulated clock.

SCHEDULER HOURS: prints when it is sent in the two days after beat is back, HOURS after 03:00.
"""

import logging
import sys
from datetime import UTC, datetime, timedelta

import django

django.setup()

import time_machine  # noqa: E402
from celery import current_app  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_celery_beat.models import CrontabSchedule, PeriodicTask  # noqa: E402
from kombu import Connection  # noqa: E402
from kombu.utils.imports import symbol_by_name  # noqa: E402

name, hours = sys.argv[1], float(sys.argv[2])
logging.disable(logging.CRITICAL)
if name.startswith("django_celery_beat"):  # stock beat as it comes
    current_app.conf.beat_cron_starting_deadline = None
sent = []


class Recording(symbol_by_name(name)):
    connection = Connection("memory://")

    def apply_entry(self, entry, producer=None):
        super().apply_entry(entry, producer=producer)
        sent.append(timezone.now().strftime("%d %H:%M"))


PeriodicTask.objects.all().delete()
due = datetime(2026, 6, 2, 3, tzinfo=UTC)
with time_machine.travel(due - timedelta(days=1, hours=1), tick=False) as clock:
    crontab = CrontabSchedule.objects.create(minute="0", hour="3", timezone="UTC")
    PeriodicTask.objects.create(name="Nightly", task="some.task", crontab=crontab)
    PeriodicTask.objects.update(last_run_at=due - timedelta(days=1))
    clock.move_to(due + timedelta(hours=hours))
    beat = Recording(app=current_app, lazy=True)
    while timezone.now() < due + timedelta(days=2):
        for _ in range(3):
            beat.tick()
        clock.shift(timedelta(minutes=5))
print(", ".join(sent))
