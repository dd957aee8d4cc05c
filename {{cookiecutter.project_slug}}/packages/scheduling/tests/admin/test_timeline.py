"""The timeline, and what it is filtered by."""

import time
from decimal import Decimal

import pytest
from django.test import Client
from django_celery_beat.models import PeriodicTask, SolarSchedule

from tests.admin.pages import LIST, TASK, TIMELINE, text_of
from tests.factories import HOUR, MINUTE, NOON, every, make, store

pytestmark = pytest.mark.django_db


def test_the_timeline_shows_what_was_and_what_comes(admin_client: Client) -> None:
    make("Often", last_run_at=NOON, **every(10))
    make("Overdue", last_run_at=NOON - 20 * MINUTE, **every(10))
    make("Every second", last_run_at=NOON, **every(1, "seconds"))
    for number, states in enumerate((["started", "succeeded"], ["started", "failed"], ["started"])):
        store("Often", NOON - number * HOUR - MINUTE, *states)

    text = text_of(admin_client.get(TIMELINE))

    assert 'aria-label="3 runs: 1 succeeded, 1 failed, 1 running"' in text
    for kind in ("succeeded", "failed", "running", "coming"):
        assert f'<path class="{kind}" d="M' in text
    assert text.count("72 upcoming runs") == 2 and "many upcoming runs" in text
    assert '<path class="now"' in text


def test_a_page_of_250_polar_suns_takes_no_longer_than_others(admin_client: Client) -> None:
    for number in range(250):
        place = {"latitude": Decimal(f"78.{number:03}"), "longitude": 15}
        make(str(number), solar=SolarSchedule.objects.create(event="sunrise", **place))

    for url in (TIMELINE, LIST):
        start = time.process_time()  # other processes do not count
        assert admin_client.get(url).status_code == 200
        assert time.process_time() - start < 2.5, url


FILTERS = [
    ("app=scheduling.", ["Another app"]),
    ("app=some.", ["Failed", "Fine", "Late", "Overdue", "Paused"]),
    ("state=failed", ["Failed"]),
    ("state=late", ["Late"]),
    ("state=overdue", ["Overdue"]),
    ("state=paused", ["Paused"]),
    ("q=fine", ["Fine"]),
    ("q=scheduling.tasks", ["Another app"]),
    ("q=nothing", []),
]


@pytest.mark.parametrize(("query", "names"), FILTERS)
def test_the_timeline_is_filtered(admin_client: Client, query: str, names: list[str]) -> None:
    shared = every(10)
    for name in ("Failed", "Fine", "Late", "Paused", "Another app"):
        make(name, last_run_at=NOON, **shared)
    make("Overdue", last_run_at=NOON - 20 * MINUTE, **shared)
    PeriodicTask.objects.filter(name="Paused").update(enabled=False)
    PeriodicTask.objects.filter(name="Another app").update(task=TASK)
    store("Failed", NOON - HOUR, "started", "failed")
    store("Late", NOON - HOUR, "started", "succeeded", late=2 * MINUTE)
    store("Fine", NOON - HOUR, "started", "succeeded")
    store("Fine", NOON - 13 * HOUR, "started", "failed")

    answer = admin_client.get(f"{TIMELINE}?{query}")

    assert [row.name for row, _ in answer.context["lines"]] == names
    listed = admin_client.get(f"{LIST}?{query}") if query.startswith(("state", "q")) else None
    assert listed is None or [row.name for row in listed.context["cl"].result_list] == names
