"""Fills a service's ledger, and measures what pages and monitors take with it.

fill SCHEDULES RUNS: runs of 14 days; one in a hundred failed, one in five hundred expired.
clean: deletes the older half of the runs, as the clean-up does.
measure: prints, as JSON: what -> [queries, seconds, CPU seconds here, seconds of the longest query].
"""

import json
import sys
import time
from collections.abc import Callable
from io import StringIO
from statistics import median

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.urls import reverse  # noqa: E402
from django_celery_beat.models import PeriodicTask  # noqa: E402
from scheduling.tasks import clean_up_history  # noqa: E402

DAYS, ROUNDS, TOKEN = 14, 3, "for-the-benchmark-only"
SCHEDULES = """
INSERT INTO django_celery_beat_intervalschedule (every, period)
    SELECT 24 * n, 'hours' FROM generate_series(1, 50) n;
INSERT INTO django_celery_beat_crontabschedule
    (minute, hour, day_of_month, month_of_year, day_of_week, timezone)
    SELECT n % 60, n / 60 % 24, '*', '*', '*', 'UTC' FROM generate_series(0, 1439) n;
INSERT INTO django_celery_beat_periodictask
    (name, task, args, kwargs, headers, enabled, one_off, last_run_at, total_run_count,
     date_changed, description, interval_id, crontab_id)
    SELECT 'Number ' || n, 'application.tasks.send_email_task', '[]', '{}', '{}', n % 50 <> 0,
        false, now(), 50, now() - interval '20 days', '',
        CASE WHEN n % 2 = 0 THEN (SELECT min(id) FROM django_celery_beat_intervalschedule) + n % 50 END,
        CASE WHEN n % 2 = 1 THEN (SELECT min(id) FROM django_celery_beat_crontabschedule) + n % 1440 END
    FROM generate_series(0, {schedules} - 1) n;
"""
RUNS = """
INSERT INTO scheduling_run
    (id, periodic_task_id, schedule, task, scheduled_for, due_times, trigger, state, reason, queue,
     worker, attempts, retries, sends, queued_at, ready_at, started_at, finished_at, error, traceback)
    SELECT gen_random_uuid(), row.id, row.name, row.task, due, 1, 'schedule', state, '', 'celery',
        'celery@worker-' || n % 8 || '/1', 1, 0, 1, due, due,
        CASE WHEN state <> 'sent' THEN due + interval '1 second' END,
        CASE WHEN state NOT IN ('sent', 'lost') THEN due + interval '3 seconds' END,
        CASE WHEN state = 'failed' THEN 'ValueError: no' ELSE '' END, ''
    FROM (
        SELECT n, (n::bigint * 7919) % {schedules} AS number,
            now() - ({runs} - n) * interval '{days} days' / {runs} AS due,
            CASE WHEN n > {runs} - 100 THEN 'sent' WHEN n > {runs} - 200 THEN 'lost'
                WHEN random() < 0.01 THEN 'failed' WHEN random() < 0.002 THEN 'expired'
                ELSE 'succeeded' END AS state
        FROM generate_series(1, {runs}) n
    ) run JOIN django_celery_beat_periodictask row ON row.name = 'Number ' || number;
VACUUM ANALYZE;
"""  # noqa: S608


def fill(schedules: int, runs: int) -> None:
    with connection.cursor() as cursor:
        for statement in (SCHEDULES + RUNS).split(";")[:-1]:
            values = {"schedules": schedules, "runs": runs, "days": DAYS}
            for name, value in values.items():
                statement = statement.replace("{" + name + "}", str(value))
            cursor.execute(statement)


def clean() -> None:
    settings.RUN_HISTORY_DAYS = float(DAYS)
    while settings.RUN_HISTORY_DAYS > DAYS / 2:
        settings.RUN_HISTORY_DAYS -= 0.1
        print(clean_up_history(), flush=True)


def measured(work: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(ROUNDS):
        with CaptureQueriesContext(connection) as queries:
            start, used = time.perf_counter(), time.process_time()
            work()
            figures = [time.perf_counter() - start, time.process_time() - used]
        longest = max((float(query["time"]) for query in queries), default=0)
        found.append([len(queries), *figures, longest])
    if "-v" in sys.argv:
        for query in sorted(queries, key=lambda query: -float(query["time"]))[:2]:
            print(query["time"], query["sql"][:1500], file=sys.stderr)
    return [median(column) for column in zip(*found, strict=True)]


def measure() -> dict[str, list[float]]:
    settings.ALLOWED_HOSTS, settings.METRICS_TOKEN = ["*"], TOKEN
    user, _ = get_user_model().objects.get_or_create(
        is_superuser=True,
        is_staff=True,
        **{get_user_model().USERNAME_FIELD: "operator@example.com"},
    )
    client = Client()
    client.force_login(user)
    row = PeriodicTask.objects.get(name="Number 500")
    pages = {
        "list": reverse("admin:django_celery_beat_periodictask_changelist"),
        "list of those that failed": "?state=failed",
        "list of those that were late": "?state=late",
        "list of those that wait": "?state=waiting",
        "page of a schedule": reverse(
            "admin:django_celery_beat_periodictask_change", args=[row.pk]
        ),
        "list of runs": reverse("admin:scheduling_run_changelist"),
        "timeline": reverse("admin:scheduling_timeline"),
        "/metrics": "/metrics",
        "/health/schedules": "/health/schedules",
    }
    found = {}
    for what, path in pages.items():
        path = pages["list"] + path if path[0] == "?" else path

        def get(path: str = path) -> None:
            answer = client.get(path, secure=True, headers={"authorization": f"Bearer {TOKEN}"})
            assert answer.status_code in (200, 503), (path, answer.status_code)

        found[what] = measured(get)

    def overdue() -> None:
        try:
            call_command("schedules", overdue=True, stdout=StringIO())
        except Exception as error:
            assert "Overdue" in str(error), error

    found["manage.py schedules --overdue"] = measured(overdue)
    if "all" in sys.argv:
        found["manage.py schedules"] = measured(
            lambda: call_command("schedules", stdout=StringIO())
        )
    return found


if sys.argv[1] == "fill":
    fill(int(sys.argv[2]), int(sys.argv[3]))
elif sys.argv[1] == "clean":
    clean()
else:
    print(json.dumps(measure()))
