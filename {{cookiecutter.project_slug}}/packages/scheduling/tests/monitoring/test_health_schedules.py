"""/health/schedules: what is told to monitors, and when it is an alarm."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from celery import current_app
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django_celery_beat.models import PeriodicTask
from pytest_django import Settings

from scheduling.models import Node
from scheduling.runs.queries import failing
from tests.factories import DAY, HOUR, MINUTE, NOON, SECOND, STOCK_SCHEDULER, every, make, store

URL = "/health/schedules"

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore:No directory at"),  # where collectstatic has not run
]


@pytest.fixture(autouse=True)
def noon() -> Iterator[None]:
    PeriodicTask.objects.all().delete()
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture
def beat() -> None:
    ticked("here:1", 3 * SECOND)


def ticked(beat: str, ago: timedelta) -> None:
    Node.objects.create(name=beat, is_worker=False, seen_at=NOON - ago)


def run(name: str, *states: str) -> None:
    """The last runs of a schedule, the newest last."""
    for number, state in enumerate(reversed(states)):
        store(name, NOON - (1 + number) * HOUR, "started", state)


def test_all_is_well(client: Client, beat: None) -> None:
    make("Punctual", last_run_at=NOON, **every(10))
    make("Paused", enabled=False, **every(10))
    run("Punctual", "failed", "failed", "succeeded")
    run("Paused", "failed", "failed")

    response = client.get(URL)

    assert response.status_code == 200
    assert response.json() == {
        "beat": {"age": 3.0},
        "workers": {"count": 0},
        "overdue": {"count": 0},
        "waiting": {"count": 0},
        "failing": {"count": 0},
        "lost": {"count": 0},
        "paused": {"count": 1},
    }


@pytest.mark.parametrize(
    ("ages", "age", "status"),
    [
        ([], None, 503),
        ([3 * SECOND, 2 * DAY], 3, 200),
        ([60 * SECOND], 60, 200),
        ([61 * SECOND], 61, 503),
        ([2 * DAY], 2 * 86_400, 503),
    ],
)
def test_a_beat_that_does_not_tick_is_an_alarm(
    client: Client, ages: list[timedelta], age: float | None, status: int
) -> None:
    for number, ago in enumerate(ages):
        ticked(f"here:{number}", ago)

    response = client.get(URL)

    assert (response.json()["beat"], response.status_code) == ({"age": age}, status)


def test_a_scheduler_without_a_heartbeat_is_not_judged_by_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(current_app.conf, "beat_scheduler", STOCK_SCHEDULER)
    ticked("before the change", DAY)

    response = client.get(URL)

    assert (response.json()["beat"], response.status_code) == ({"age": None}, 200)


def test_an_overdue_schedule_is_an_alarm_unless_the_setting_allows_it(
    client: Client, beat: None, settings: Settings
) -> None:
    make("Overdue", last_run_at=NOON - 15 * MINUTE, **every(10))

    assert client.get(URL).status_code == 503
    settings.HEALTH_MAX_OVERDUE = 1
    assert client.get(URL).status_code == 200


def test_a_failing_schedule_is_an_alarm_unless_the_setting_allows_it(
    client: Client, beat: None, settings: Settings
) -> None:
    make("Failing", last_run_at=NOON, **every(10))
    run("Failing", "failed", "failed")

    assert client.get(URL).status_code == 503
    settings.HEALTH_MAX_FAILING = 1
    assert client.get(URL).status_code == 200


# The last runs, the newest last; HEALTH_FAILING_AFTER; whether the schedule is failing.
LAST_RUNS = [
    ([], 1, False),
    (["failed"], 1, True),
    (["failed"], 2, False),
    (["succeeded", "failed"], 1, True),
    (["succeeded", "failed"], 2, False),
    (["succeeded", "failed", "failed"], 2, True),
    (["failed", "failed", "succeeded"], 2, False),
    (["failed", "succeeded", "failed"], 2, False),
    (["failed", "expired"], 2, True),
    (["failed", "failed", "started"], 2, True),
    (["failed", "retrying"], 2, False),
]


@pytest.mark.parametrize(("states", "after", "is_failing"), LAST_RUNS)
def test_failing_is_what_failed_so_many_times_in_a_row(
    settings: Settings, states: list[str], after: int, is_failing: bool
) -> None:
    settings.HEALTH_FAILING_AFTER = after
    make("Row", **every(10))
    make("Another", **every(10))
    run("Row", *states)
    run("Another", "succeeded")
    run("Deleted", "failed", "failed")

    assert list(failing()) == (["Row"] if is_failing else [])


def test_whoever_may_read_the_metrics_is_told_names(
    client: Client, beat: None, settings: Settings
) -> None:
    settings.METRICS_TOKEN = "a-token"
    make("Overdue", last_run_at=NOON - 15 * MINUTE, **every(10))
    make("Failing", last_run_at=NOON, **every(10))
    run("Failing", "failed", "failed")

    make("Waiting", last_run_at=NOON, **every(10))
    store("Waiting", NOON - 2 * MINUTE, "sent")
    Node(name="celery@a/1", is_worker=True, seen_at=NOON - SECOND, queues=["other"], slots=1).save()

    told = client.get(URL, headers={"authorization": "Bearer a-token"}).json()

    assert told == {
        "beat": {"age": 3.0, "beats": {"here:1": 3.0}},
        "workers": {"count": 1, "workers": {"celery@a/1": 1.0}},
        "overdue": {
            "count": 1,
            "first": [{"name": "Overdue", "due": "2026-06-01T11:55:00Z", "seconds": 300.0}],
        },
        "failing": {
            "count": 1,
            "first": [{"name": "Failing", "failed_at": "2026-06-01T11:00:01Z"}],
        },
        "waiting": {
            "count": 1,
            "first": [
                {
                    "name": "Waiting",
                    "due": "2026-06-01T11:58:00Z",
                    "seconds": 120.0,
                    "why": "no worker consumes the queue 'celery'",
                }
            ],
        },
        "lost": {"count": 0},
        "paused": {"count": 0},
    }
    assert "Overdue" not in client.get(URL).content.decode()
    wrong = client.get(URL, headers={"authorization": "Bearer another"})
    assert "Overdue" not in wrong.content.decode()


def test_of_many_the_first_twenty_are_named_the_longest_overdue_first(
    client: Client, beat: None, settings: Settings
) -> None:
    settings.METRICS_NETWORKS = ["127.0.0.1/32"]
    for number in range(30):
        row = every(10)
        make(f"Number {number}", last_run_at=NOON - 12 * MINUTE - number * SECOND, **row)
        run(f"Number {number}", "failed", "failed")

    with CaptureQueriesContext(connection) as queries:
        told: dict[str, Any] = client.get(URL).json()

    assert (told["overdue"]["count"], told["failing"]["count"]) == (30, 30)
    names = [schedule["name"] for schedule in told["overdue"]["first"]]
    assert names == [f"Number {number}" for number in range(29, 9, -1)]
    assert len(told["failing"]["first"]) == 20
    assert len(queries) == 14


def test_it_is_read_and_never_kept(client: Client) -> None:
    assert "no-store" in client.get(URL).headers["Cache-Control"]
    assert client.head(URL).status_code == 503
    assert client.post(URL).status_code == 405
