"""Prints, as JSON: way of seeding -> [queries, seconds, whether beats reload]."""

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import django

django.setup()

from django.db import connection  # noqa: E402
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks  # noqa: E402
from scheduling import Schedule  # noqa: E402
from scheduling.sync.apply import seed  # noqa: E402

COUNT = int(sys.argv[1])
LOOPS = "loops" in sys.argv
DECLARED = [
    Schedule(f"Number {n}", "some.task", timedelta(seconds=10 + n % 500)) for n in range(COUNT)
]


def loop(put: Callable[..., object]) -> None:
    for schedule in DECLARED:
        interval, _ = IntervalSchedule.objects.get_or_create(
            every=schedule.when.seconds, period=IntervalSchedule.SECONDS
        )
        put(schedule.name, {"interval": interval, "task": schedule.task, "args": "[]"})


def create(name: str, columns: dict[str, object]) -> None:
    PeriodicTask.objects.create(name=name, **columns)


def update_or_create(name: str, columns: dict[str, object]) -> None:
    PeriodicTask.objects.update_or_create(name=name, defaults=columns)


def measured(way: Callable[[], object]) -> tuple[int, float, bool]:
    queries = 0

    def count(execute: Callable[..., object], *arguments: object) -> object:
        nonlocal queries
        queries += 1
        return execute(*arguments)

    before, start = PeriodicTasks.last_change(), time.perf_counter()
    with connection.execute_wrapper(count):
        way()
    return queries, time.perf_counter() - start, PeriodicTasks.last_change() != before


figures = {"seed, all new": measured(lambda: seed(DECLARED))}
figures["seed, unchanged"] = measured(lambda: seed(DECLARED))
seed([])
if LOOPS:
    IntervalSchedule.objects.all().delete()
    figures["get_or_create and create, all new"] = measured(lambda: loop(create))
    figures["update_or_create, unchanged"] = measured(lambda: loop(update_or_create))
print(json.dumps(figures))
