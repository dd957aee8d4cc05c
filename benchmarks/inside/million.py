"""Fills a service with a million schedules, edits them, and measures a scheduler in this process.

fill COUNT: half intervals, half crontabs, none of which is due for a day.
edit SECONDS: saves ten rows a second; prints the key of each and when its save was committed.
measure SCHEDULER SECONDS [edits]: prints, as JSON, figure -> value.
due: makes 60,000 rows due within one second; prints when that is.
"""

import json
import random
import subprocess
import sys
import threading
import time
from datetime import timedelta
from statistics import median

import django

django.setup()

from celery import current_app  # noqa: E402
from django.db import connection  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_celery_beat.models import (  # noqa: E402
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    PeriodicTasks,
)
from kombu.utils.imports import symbol_by_name  # noqa: E402

TASK, CRONTABS, BURST, EDITS = "application.tasks.send_email_task", 4_500, 60_000, 10
FILL = f"""
SET session_replication_role = replica;
TRUNCATE django_celery_beat_periodictask, django_celery_beat_crontabschedule,
    django_celery_beat_intervalschedule RESTART IDENTITY CASCADE;
INSERT INTO django_celery_beat_intervalschedule (every, period)
    SELECT 100000 + n, 'seconds' FROM generate_series(1, 100) n;
INSERT INTO django_celery_beat_crontabschedule
    (minute, hour, day_of_month, month_of_year, day_of_week, timezone)
    SELECT n % 60, n / 60 % 24, '*', 1 + extract(month FROM now() + '2 months')::int % 12, '*', 'UTC'
    FROM generate_series(0, {CRONTABS} - 1) n;
INSERT INTO django_celery_beat_periodictask
    (name, task, args, kwargs, headers, enabled, one_off, last_run_at, total_run_count,
     date_changed, description, interval_id, crontab_id)
    SELECT 'Row ' || n, '{TASK}', '["user@example.com"]', '{{}}', '{{}}', true, false, now(), 0,
        now(), '', CASE WHEN n % 2 = 0 THEN 1 + n % 100 END,
        CASE WHEN n % 2 = 1 THEN 1 + n % {CRONTABS} END
    FROM generate_series(1, COUNT) n;
RESET session_replication_role;
"""  # noqa: S608


def fill(count: int) -> None:
    with connection.cursor() as cursor:
        for statement in FILL.split(";")[:-1]:
            cursor.execute(statement.replace("COUNT", str(count)))
        cursor.execute("VACUUM ANALYZE")


def edit(seconds: float) -> None:
    chance, start = random.Random(1), time.monotonic()  # noqa: S311
    intervals = list(IntervalSchedule.objects.all()[:100])
    for number in range(int(seconds * EDITS)):
        time.sleep(max(0, start + number / EDITS - time.monotonic()))
        row = PeriodicTask.objects.get(pk=chance.randrange(2, 900_000) // 2 * 2)
        row.interval = chance.choice([one for one in intervals if one.pk != row.interval_id])
        row.save()
        print(row.pk, time.time(), flush=True)


def peak() -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith("VmHWM"))


def measure(scheduler: type, seconds: float, edits: bool) -> dict[str, float]:
    """Ours: beat's own loop in this thread. What stock beat does on an edit is in its tick too."""
    current_app.loader.import_default_modules()
    current_app.finalize()
    start, used = time.perf_counter(), time.process_time()
    beat = scheduler(app=current_app, lazy=True)
    beat.tick()
    if edits and not hasattr(beat, "queue"):
        PeriodicTasks.update_changed()
    figures = {"load, s": time.perf_counter() - start, "load, CPU s": time.process_time() - used}
    figures["peak memory once loaded, MB"] = peak()
    entries = beat.queue.entries if hasattr(beat, "queue") else {}
    waiting: dict[int, tuple[object, float]] = {}
    seen: list[float] = []
    editor = None
    if edits:
        before = dict(entries)
        editor = subprocess.Popen(
            [sys.executable, __file__, "edit", str(seconds)], stdout=subprocess.PIPE, text=True
        )

        def listen() -> None:
            for line in editor.stdout or ():
                pk, moment = line.split()
                waiting[int(pk)] = before[int(pk)], float(moment)

        threading.Thread(target=listen, daemon=True).start()
    on_cpu = [0.0]
    ticks, used, start = [0.0], time.process_time(), time.perf_counter()
    while (now := time.perf_counter()) - start < seconds or (editor and editor.poll() is None):
        now_on_cpu = time.thread_time()
        pause = beat.tick()
        ticks.append(time.perf_counter() - now)
        on_cpu.append(time.thread_time() - now_on_cpu)
        for pk, (old, moment) in list(waiting.items()):
            if entries.get(pk) is not old:
                seen.append(time.time() - moment)
                del waiting[pk]
        time.sleep(min(pause or 0, 0.05 if waiting else 1))
    length = time.perf_counter() - start
    kind = "ten edits a second" if edits else "idle"
    figures[f"CPU, {kind}, %"] = 100 * (time.process_time() - used) / length
    figures[f"longest tick, {kind}, s"] = max(ticks)
    figures[f"the same, CPU s, {kind}"] = max(on_cpu)
    if edits:
        figures["edits"] = len(seen) + len(waiting)
        figures["edits not seen 2 s later"] = sum(
            time.time() - moment > 2 for _, moment in waiting.values()
        )
        figures["an edit is seen after, median, s"] = median(seen)
        figures["an edit is seen after, longest, s"] = max(seen)
        figures["peak memory, MB"] = peak()
    return figures


def due() -> None:
    """By SQL, as a team's import does it: the change log names the rows."""
    moment = (timezone.now() + timedelta(seconds=150)).replace(second=0, microsecond=0)
    minute = CrontabSchedule.objects.create(
        minute=str(moment.minute), hour=str(moment.hour), timezone="UTC"
    )
    PeriodicTask.objects.filter(pk__lte=BURST).update(interval=None, crontab=minute)
    print(moment.timestamp())


if sys.argv[1] == "fill":
    fill(int(sys.argv[2]))
elif sys.argv[1] == "edit":
    edit(float(sys.argv[2]))
elif sys.argv[1] == "due":
    due()
else:
    name = symbol_by_name(sys.argv[2])
    print(json.dumps(measure(name, float(sys.argv[3]), "edits" in sys.argv)))
