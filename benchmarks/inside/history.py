"""Prints, as JSON: what a worker does in a second, by task and way of keeping results; and what
the queries of pages and monitors take, in seconds and queries.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median

import django
from redis import Redis

django.setup()

from architecture_portal.celery import app  # noqa: E402
from django.db import connection  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask  # noqa: E402
from django_celery_results.models import TaskResult  # noqa: E402
from history_tasks import nothing, ten_milliseconds  # noqa: E402
from prometheus_client import generate_latest  # noqa: E402
from scheduling.models import Run  # noqa: E402
from scheduling.monitoring.metrics import Schedules  # noqa: E402
from scheduling.runs import queries as runs  # noqa: E402
from scheduling.runs import status  # noqa: E402

ROUNDS = 3
TASKS = {nothing: 1_000, ten_milliseconds: 400}  # and how many of each in a round
# The worker, its result backend, and whether results are kept.
WAYS = {
    "no results": ("ours", None, False),
    "history": ("ours", None, True),
    "django-db": ("stock", "django-db", True),
}
RUNS = 100_000

redis = Redis.from_url(os.environ["CELERY_BROKER_URL"])


@contextmanager
def worker(name: str, backend: str | None) -> Iterator[None]:
    folders = os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]])
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "history_tasks", "worker", "-c", "2"]
        + ["-n", f"{name}@here", "-Q", name, "--loglevel=error", "--without-gossip"],
        env=os.environ | {"PYTHONPATH": folders} | ({"BACKEND": backend} if backend else {}),
        stdout=subprocess.DEVNULL,
    )
    while not app.control.ping([f"{name}@here"], timeout=0.5):
        assert process.poll() is None, "the worker has ended"
    yield
    process.terminate()
    process.wait()


def per_second(task: object, count: int, way: str) -> float:
    """Tasks done in a second, from a full queue."""
    name, _, keeps = WAYS[way]
    queue = f"queue-{time.monotonic_ns()}"
    for number in range(count):
        now = timezone.now().isoformat()
        headers = {"periodic_task_name": f"Number {number % 100}"}
        headers |= {"scheduled_for": now, "queued_at": now}
        task.apply_async(queue=queue, headers=headers, ignore_result=not keeps)  # type: ignore[attr-defined]
    before, start = TaskResult.objects.count(), time.perf_counter()
    app.control.add_consumer(queue, destination=[f"{name}@here"])
    while redis.llen(queue) or redis.hlen("unacked"):
        time.sleep(0.005)
    seconds = time.perf_counter() - start
    app.control.cancel_consumer(queue, destination=[f"{name}@here"], reply=True)
    while keeps and TaskResult.objects.count() < before + count:
        time.sleep(0.05)
    return count / seconds


def throughput() -> dict[str, dict[str, float]]:
    """The median of some rounds, by task and way."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with worker("ours", None), worker("stock", "django-db"):
        for _ in range(1 + ROUNDS):  # the first is for warming up
            for task, count in TASKS.items():
                for way in WAYS:
                    found[task.name.rpartition(".")[2]][way].append(per_second(task, count, way))
    return {
        task: {way: median(figures[1:]) for way, figures in ways.items()}
        for task, ways in found.items()
    }


def add_schedules(start: int, end: int) -> None:
    """Half intervals, half crontabs, all of which have just run."""
    every = [IntervalSchedule.objects.create(every=n, period="minutes") for n in range(60, 110)]
    daily = [
        CrontabSchedule.objects.create(hour=str(n // 60), minute=str(n % 60)) for n in range(1440)
    ]
    PeriodicTask.objects.bulk_create(
        (
            PeriodicTask(
                name=f"Number {n}",
                task="some.task",
                **({"interval": every[n % 50]} if n % 2 else {"crontab": daily[n % 1440]}),
            )
            for n in range(start, end)
        ),
        batch_size=5_000,
    )


def add_runs() -> None:
    """Of a thousand schedules; one in a hundred has failed."""
    now = timezone.now()
    for start in range(0, RUNS, 5_000):
        numbers = range(start, start + 5_000)
        results = TaskResult.objects.bulk_create(
            TaskResult(
                task_id=str(n),
                status="FAILURE" if n % 100 == 0 else "SUCCESS",
                content_type="application/json",
                content_encoding="utf-8",
            )
            for n in numbers
        )
        Run.objects.bulk_create(
            Run(
                result=result,
                schedule=f"Number {n % 1_000}",
                scheduled_for=(due := now - timedelta(minutes=n // 1_000)),
                started_at=due,
                finished_at=due + timedelta(seconds=1),
            )
            for n, result in zip(numbers, results, strict=True)
        )


def measured(query: Callable[[], object]) -> tuple[float, int]:
    seconds = []
    for _ in range(3):
        with CaptureQueriesContext(connection) as queries:
            start = time.perf_counter()
            query()
            seconds.append(time.perf_counter() - start)
    return median(seconds), len(queries)


def queries() -> dict[str, tuple[float, int]]:
    found = {}
    TaskResult.objects.all().delete()
    add_runs()
    rows = PeriodicTask.objects.select_related("interval", "crontab", "solar", "clocked")
    for start, end in ((0, 1_000), (1_000, 100_000)):
        add_schedules(start, end)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        schedules = f"of {end:,} schedules"
        for ago, what in ((timedelta(), "none"), (timedelta(hours=25), "all")):
            PeriodicTask.objects.update(last_run_at=timezone.now() - ago)
            found[f"overdue, {what} {schedules}"] = measured(lambda: status.overdue(timezone.now()))
        found[f"failing, {schedules}"] = measured(runs.failing)
        if not start:
            found["a page of 100 schedules with their last 20 runs"] = measured(
                lambda: status.statuses(rows.order_by("name")[:100], timezone.now())
            )
            found[f"/metrics, {schedules}"] = measured(
                lambda: generate_latest(Schedules(timezone.now()))
            )
    return found


print(json.dumps({"throughput": throughput(), "queries": queries()}))
