"""When the tasks of this app run. `migrate` and `manage.py seed_schedules` seed them."""

from datetime import timedelta

from django.conf import settings
from scheduling import Schedule

from application.tasks import send_email_task

schedules = [
    Schedule(
        "Send reminder emails",
        send_email_task,
        timedelta(minutes=10),
        args=["user@example.com"],
        enabled=settings.DEBUG,  # a sample: in production it starts paused
    ),
]
