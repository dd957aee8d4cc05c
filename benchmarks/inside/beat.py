"""Fills a service with schedules, and measures a scheduler in this process.

fill COUNT CRONTABS idle|busy: prints, as JSON, when each row is due first.
crontabs: prints, as JSON, what a comparison of the rows costs.
measure SCHEDULER DISPATCHES: prints, as JSON, figure -> value.
burst COUNT LEVEL: prints, as JSON, what a run costs of COUNT that are due at once, next to a loop.
"""

import json
import logging
import random
import sys
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
from scheduling.beat.scheduler import CLAIM_BATCH_SIZE, DatabaseScheduler  # noqa: E402
from scheduling.models import Run  # noqa: E402

TASK, ARGUMENT = "application.tasks.send_email_task", "user@example.com"


def fill(count: int, crontabs: int, kind: str) -> None:
    """Half intervals of some minutes, at random phases, half crontabs of one minute a day."""
    for model in (PeriodicTask, CrontabSchedule):
        model.objects.all()._raw_delete(using="default")
    chance, now = random.Random(1), timezone.now()  # noqa: S311
    lengths = (200, 250, 300, 400) if kind == "busy" else (100_000,)
    intervals = [IntervalSchedule(every=seconds, period="seconds") for seconds in lengths]
    IntervalSchedule.objects.bulk_create(intervals)
    daily = [
        CrontabSchedule(
            minute=n % 60,
            hour=n // 60 % 24,
            month_of_year=f"1-{n // 1440 + 5}" if n >= 1440 else "*",
            timezone="UTC",
        )
        for n in range(crontabs)
    ]
    CrontabSchedule.objects.bulk_create(daily)
    rows, due = [], {}
    for number in range(count):
        name, last = f"Row {number}", now
        if number % 2:
            time_ = {"crontab": daily[number % crontabs]}
        else:
            time_ = {"interval": (interval := chance.choice(intervals))}
            if kind == "busy":
                last -= timedelta(seconds=chance.random() * interval.every)
            due[name] = (last + timedelta(seconds=interval.every)).timestamp()
        rows.append(
            PeriodicTask(
                name=name, task=TASK, args=json.dumps([ARGUMENT]), last_run_at=last, **time_
            )
        )
    PeriodicTask.objects.bulk_create(rows, batch_size=2000)
    PeriodicTasks.update_changed()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    print(json.dumps(due))


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plain(producer, count: int) -> None:
    for _ in range(count):
        current_app.send_task(TASK, [ARGUMENT], {}, producer=producer, ignore_result=True)


def memory() -> float:
    """Megabytes, now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def crontabs() -> None:
    """Seconds that a comparison takes all in all, of 10,000 rows with a crontab each."""
    beat = DatabaseScheduler(app=current_app, lazy=True)
    beat.tick()
    beat.queue.compared_at, total, longest = None, 0.0, 0.0
    while not beat.queue.compared_at:
        tick = seconds(beat.tick)
        total, longest = total + tick, max(longest, tick)
    print(json.dumps({"comparison, s": total, "longest tick, s": longest}))


def measure(scheduler: type, count: int) -> None:
    current_app.loader.import_default_modules()
    current_app.finalize()
    logging.basicConfig(filename="/dev/null", level=logging.INFO, force=True)  # written, as in use
    figures: dict[str, float] = {"memory before, MB": memory()}
    beat = scheduler(app=current_app, lazy=True)
    figures["load, s"] = seconds(beat.tick)
    figures["memory, MB"] = memory()

    # An edit: the longest that anything else waits for it.
    row = PeriodicTask.objects.first()
    row.priority = 1
    row.save()
    time.sleep(1.1)
    waits = []
    end = time.perf_counter() + 2
    while time.perf_counter() < end:
        waits.append(seconds(beat.tick))
    figures["longest tick after an edit, s"] = max(waits)

    # A burst: everything is due.
    PeriodicTask.objects.update(last_run_at=timezone.now() - timedelta(days=2))
    current_app.conf.beat_cron_starting_deadline = None
    beat = scheduler(app=current_app, lazy=True)
    queries = 0

    def count_query(execute, *arguments):
        nonlocal queries
        queries += 1
        return execute(*arguments)

    beat.tick()
    sent = beat.sent
    per_message, ratios = [], []
    with connection.execute_wrapper(count_query):
        for _ in range(5):
            with current_app.producer_pool.acquire() as producer:
                loop = seconds(lambda: plain(producer, count)) / count  # noqa: B023
            before, start = beat.sent, time.perf_counter()
            while beat.sent - before < count:
                beat.tick()
            each = (time.perf_counter() - start) / (beat.sent - before)
            per_message.append(each)
            ratios.append(loop / each)
    figures["dispatches/s in a burst"] = 1 / median(per_message)
    figures["of a plain send_task loop"] = median(ratios)
    figures["SQL per dispatch"] = queries / (beat.sent - sent)
    print(json.dumps(figures))


def spent(work) -> tuple[float, float]:
    """Seconds of this process' CPU and of the clock that work takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def burst(count: int, level: str) -> None:
    """All that beat does for a run: lock, row, message, mark, push, commit. The loop sends only."""
    current_app.loader.import_default_modules()
    current_app.finalize()
    logging.basicConfig(filename="/dev/null", level=level, force=True)  # written, as in use
    for name in ("celery", "scheduling"):
        logging.getLogger(name).setLevel(level)
    all_due(count)
    beat = DatabaseScheduler(app=current_app, lazy=True)
    beat.queue.poll_changes()
    loop_length = min(count, 3_000)

    def claim_all() -> None:
        while beat.queue.heap and beat.queue.heap[0][0] <= time.time():
            beat._claim(beat.queue.pop_due(CLAIM_BATCH_SIZE))

    with current_app.connection_for_write() as broker:
        producer = current_app.amqp.Producer(broker, auto_declare=False)
        plain(producer, 100)
        loops = [spent(lambda: plain(producer, loop_length))]
        claims = spent(claim_all)
        loops.append(spent(lambda: plain(producer, loop_length)))
        current_app.amqp.default_queue(broker.default_channel).purge()
    assert Run.objects.count() == count  # noqa: S101
    figures = {}
    for number, kind in enumerate(("CPU", "wall")):
        loop = sum(each[number] for each in loops) / 2 / loop_length
        run = claims[number] / count
        figures[f"{kind}, a send_task loop, µs a message"] = loop * 1e6
        figures[f"{kind}, the claim, µs a run"] = run * 1e6
        figures[f"{kind}, times the loop"] = loop / run
    print(json.dumps(figures))


def all_due(count: int) -> None:
    """That many hourly rows, and no run."""
    PeriodicTask.objects.all()._raw_delete(using="default")
    Run.objects.all()._raw_delete(using="default")
    hourly = IntervalSchedule.objects.create(every=1, period="hours")
    last = timezone.now() - timedelta(hours=1)
    args = json.dumps([ARGUMENT])
    PeriodicTask.objects.bulk_create(
        (
            PeriodicTask(name=f"Row {n}", task=TASK, args=args, interval=hourly, last_run_at=last)
            for n in range(count)
        ),
        batch_size=2000,
    )
    PeriodicTasks.update_changed()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def counting(name: str) -> type:
    """The scheduler, which counts what it sends."""

    class Counting(symbol_by_name(name)):
        sent = 0

        def apply_entry(self, entry, producer=None):
            self.sent += 1
            super().apply_entry(entry, producer=producer)

    return Counting


if sys.argv[1] == "fill":
    fill(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
elif sys.argv[1] == "crontabs":
    crontabs()
elif sys.argv[1] == "burst":
    burst(int(sys.argv[2]), sys.argv[3])
else:
    measure(counting(sys.argv[2]), int(sys.argv[3]))
