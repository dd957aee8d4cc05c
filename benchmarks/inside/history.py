"""Prints, as JSON: what a worker does in a second, by task and by what it keeps of it; and what the
queries of pages and monitors take, in seconds and queries.
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
from typing import Any
from uuid import uuid4

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
# The worker, its result backend, and what is kept.
WAYS = {
    "nothing": ("ours", None, None),
    "ledger": ("ours", None, Run),
    "django-db": ("stock", "django-db", TaskResult),
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
    name, _, kept = WAYS[way]
    queue = f"queue-{time.monotonic_ns()}"
    runs = [new_run(number, task, queue) for number in range(count)]
    if kept is Run:
        Run.objects.bulk_create(runs)
    for run in runs:
        headers = headers_of(run) if kept is Run else {}
        task.apply_async(  # type: ignore[attr-defined]
            task_id=str(run.pk), queue=queue, headers=headers, ignore_result=kept is not TaskResult
        )
    start = time.perf_counter()
    app.control.add_consumer(queue, destination=[f"{name}@here"])
    while redis.llen(queue) or redis.hlen("unacked"):
        time.sleep(0.005)
    seconds = time.perf_counter() - start
    app.control.cancel_consumer(queue, destination=[f"{name}@here"], reply=True)
    while kept and done(kept, [run.pk for run in runs]) < count:
        time.sleep(0.05)
    return count / seconds


def new_run(number: int, task: Any, queue: str) -> Run:
    """A run as beat inserts it."""
    now = timezone.now()
    times = {"scheduled_for": now, "queued_at": now, "ready_at": now}
    return Run(id=uuid4(), schedule=f"Number {number}", task=task.name, queue=queue, **times)


def headers_of(run: Run) -> dict[str, Any]:
    """As beat's message has them."""
    return {
        "periodic_task_id": None,
        "periodic_task_name": run.schedule,
        "scheduled_for": run.scheduled_for.isoformat(),
        "queued_at": run.scheduled_for.isoformat(),
        "run_trigger": run.trigger,
    }


def done(kept: Any, ids: list[Any]) -> int:
    """How many of the tasks are kept as done."""
    if kept is Run:
        return Run.objects.filter(pk__in=ids, state="succeeded").count()
    return TaskResult.objects.filter(task_id__in=map(str, ids)).count()


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
    keys = list(PeriodicTask.objects.order_by("pk").values_list("pk", flat=True)[:1_000])
    for start in range(0, RUNS, 5_000):
        numbers = range(start, start + 5_000)
        Run.objects.bulk_create(
            Run(
                id=uuid4(),
                periodic_task_id=keys[n % 1_000],
                schedule=f"Number {n % 1_000}",
                state="failed" if n % 100 == 0 else "succeeded",
                scheduled_for=(due := now - timedelta(minutes=n // 1_000)),
                started_at=due,
                finished_at=due + timedelta(seconds=1),
            )
            for n in numbers
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
    Run.objects.all().delete()
    rows = PeriodicTask.objects.select_related("interval", "crontab", "solar", "clocked")
    for start, end in ((0, 1_000), (1_000, 100_000)):
        add_schedules(start, end)
        if not start:
            add_runs()
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
