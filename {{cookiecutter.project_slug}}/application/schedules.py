"""When the tasks of this app run. `migrate` and `manage.py seed_schedules` seed them."""

from datetime import timedelta

from application.tasks import send_email_task
from scheduling.schedule import Schedule

schedules = [
    Schedule(
        "Send reminder emails",
        send_email_task,
        timedelta(minutes=10),
        args=["user@example.com"],
    ),
]
