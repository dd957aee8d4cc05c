"""What ran, and how late."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_celery_beat.models import (
    PeriodicTask,
)

from scheduling.runs.queries import last_runs
from tests.factories import MINUTE, NOON, SECOND, every, make, store

pytestmark = pytest.mark.django_db


@pytest.fixture
def no_schedules() -> None:
    PeriodicTask.objects.all().delete()


def test_the_last_runs_of_each_schedule_are_found_in_two_queries(no_schedules: None) -> None:
    keys: dict[str, int] = {}
    for name, count in (("Often", 30), ("Seldom", 2), ("Never", 0), ("Another", 5)):
        keys[name] = make(name, **every(1)).pk
        for number in range(count):
            store(name, NOON + number * MINUTE, "started", "succeeded")

    with CaptureQueriesContext(connection) as queries:
        found = last_runs([keys[name] for name in ("Often", "Seldom", "Never")], 20)

    assert [len(its) for its in found.values()] == [20, 2, 0]
    assert found[keys["Often"]][0].scheduled_for == NOON + 29 * MINUTE
    assert all(run.took == SECOND for its in found.values() for run in its)
    assert len(queries) == 2
