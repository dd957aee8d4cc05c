"""The schedules of the service in the screenshots."""

from datetime import timedelta

from application.tasks import send_email_task
from celery.schedules import crontab
from scheduling import Schedule

MINUTE = timedelta(minutes=1)
to, night = ["user@example.com"], crontab(hour=3, minute=0)

schedules = [
    Schedule("Send reminder emails", send_email_task, 10 * MINUTE, args=to),
    Schedule("Import exchange rates", send_email_task, 15 * MINUTE, args=to),
    Schedule("Nightly report", send_email_task, night, args=to, timezone="Europe/Berlin"),
    Schedule("Bill customers", send_email_task, crontab(hour=6, minute=30), args=to),
    Schedule("Warm the cache", send_email_task, 5 * MINUTE, args=to),
    Schedule("Poll the inbox", send_email_task, 1 * MINUTE, args=to),
    Schedule("Archive old orders", send_email_task, crontab(minute=20), args=to),
    Schedule("Sync the warehouse", send_email_task, 120 * MINUTE, args=to),
]
