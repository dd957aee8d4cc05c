"""Fill the service of the screenshots with a user, a day of runs, and operators' changes."""

import json
import random
from datetime import timedelta

import django

django.setup()

from accounts.models import User  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_celery_beat.models import IntervalSchedule, PeriodicTask  # noqa: E402
from django_celery_results.models import TaskResult  # noqa: E402
from scheduling.models import Run  # noqa: E402
from scheduling.timing import Timing, next_due  # noqa: E402

random.seed(3)
now = timezone.now()
User.objects.create_superuser("ada", "ada@example.com", "ada")
ERROR = {"exc_type": "PermanentMailError", "exc_message": ["Mail to user@example.com was refused"]}
FAILURE_RATES = {"Import exchange rates": 0.15, "Sync the warehouse": 0.2}  # others: 0.01

results, runs = [], []
for row in PeriodicTask.objects.select_related("interval", "crontab", "solar", "clocked"):
    timing = Timing.of(row)
    due = now - timedelta(hours=26, seconds=random.randrange(600))
    while (due := next_due(timing, due)) < now:
        late = random.choice([90, 200]) if random.random() < 0.05 else random.random() / 5
        took = random.expovariate(1 / (300 if row.name == "Nightly report" else 20))
        failed = random.random() < FAILURE_RATES.get(row.name, 0.01)
        result = TaskResult(
            task_id=f"{row.pk}-{len(results)}",
            periodic_task_name=row.name,
            task_name=row.task,
            status="FAILURE" if failed else "SUCCESS",
            result=json.dumps(ERROR) if failed else "null",
            content_type="application/json",
            content_encoding="utf-8",
            worker="celery@worker-1",
        )
        results.append(result)
        started = due + timedelta(seconds=late)
        times = {"queued_at": due, "started_at": started}
        times["finished_at"] = started + timedelta(seconds=took)
        runs.append(Run(schedule=row.name, scheduled_for=due, **times))
        row.last_run_at = due
    PeriodicTask.objects.filter(pk=row.pk).update(last_run_at=row.last_run_at)
TaskResult.objects.bulk_create(results)
for result, run in zip(results, runs, strict=True):
    run.result = result
Run.objects.bulk_create(runs)
# What operators changed.
hourly = IntervalSchedule.objects.get_or_create(every=60, period="minutes")[0]
for name, values in {
    "Import exchange rates": {"interval": hourly},
    "Archive old orders": {"enabled": False},
    "Poll the inbox": {"last_run_at": now - timedelta(minutes=4)},
}.items():
    PeriodicTask.objects.filter(name=name).update(**values)
