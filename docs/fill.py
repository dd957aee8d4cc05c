"""Fill the service of the screenshots with a user, a day of runs, and operators' changes."""

import random
from datetime import timedelta

import django

django.setup()

from accounts.models import User  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_celery_beat.models import IntervalSchedule, PeriodicTask  # noqa: E402
from scheduling.messages import run_id  # noqa: E402
from scheduling.models import Run  # noqa: E402
from scheduling.timing import Timing, next_due  # noqa: E402

random.seed(3)
now = timezone.now()
User.objects.create_superuser("ada", "ada@example.com", "ada")
ERROR = "PermanentMailError: Mail to user@example.com was refused"
FAILURE_RATES = {"Import exchange rates": 0.15, "Sync the warehouse": 0.2}  # others: 0.01

runs = []
for row in PeriodicTask.objects.select_related("interval", "crontab", "solar", "clocked"):
    timing = Timing.of(row)
    due = now - timedelta(hours=26, seconds=random.randrange(600))
    while (due := next_due(timing, due)) < now:
        late = random.choice([90, 200]) if random.random() < 0.05 else random.random() / 5
        took = random.expovariate(1 / (300 if row.name == "Nightly report" else 20))
        failed = random.random() < FAILURE_RATES.get(row.name, 0.01)
        started = due + timedelta(seconds=late)
        run = Run(
            id=run_id(row.pk, due),
            periodic_task=row,
            schedule=row.name,
            task=row.task,
            scheduled_for=due,
            state="failed" if failed else "succeeded",
            error=ERROR if failed else "",
            worker="celery@worker-1/5f0c9a31",
            attempts=1,
            queued_at=due,
            started_at=started,
            finished_at=started + timedelta(seconds=took),
        )
        runs.append(run)
        row.last_run_at = due
    PeriodicTask.objects.filter(pk=row.pk).update(last_run_at=row.last_run_at)
Run.objects.bulk_create(runs)
# What operators changed.
hourly = IntervalSchedule.objects.get_or_create(every=60, period="minutes")[0]
for name, values in {
    "Import exchange rates": {"interval": hourly},
    "Archive old orders": {"enabled": False},
    "Poll the inbox": {"last_run_at": now - timedelta(minutes=4)},
}.items():
    PeriodicTask.objects.filter(name=name).update(**values)
