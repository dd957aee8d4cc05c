"""The history is cleaned."""

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext

from scheduling.models import Node, Run
from scheduling.runs.queries import summaries
from scheduling.tasks import clean_up_history
from tests.factories import DAY, MINUTE, NOON, store

pytestmark = pytest.mark.django_db


def test_clean_up_deletes_what_is_older_than_two_weeks() -> None:
    store("Old", NOON - 15 * DAY, "started", "succeeded")
    store("Young", NOON - 13 * DAY, "started", "succeeded")
    Node.objects.create(name="old", is_worker=False, seen_at=NOON - 15 * DAY)

    with time_machine.travel(NOON, tick=False):
        assert clean_up_history.apply().result == 1

    assert [run.schedule for run in summaries(Run.objects.order_by("pk"))] == ["Young"]
    assert not Node.objects.exists()


def test_clean_up_goes_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduling.tasks.DELETE_BATCH_SIZE", 2)
    for number in range(5):
        store("Old", NOON - 15 * DAY + number * MINUTE, "succeeded")

    with time_machine.travel(NOON, tick=False), CaptureQueriesContext(connection) as queries:
        assert clean_up_history.apply().result == 5

    deletions = [q for q in queries if q["sql"].startswith('DELETE FROM "scheduling_run"')]
    assert len(deletions) == 3
