"""What Prometheus is told, read with Prometheus' own parser."""

from collections.abc import Iterator
from typing import Any

import pytest
import time_machine
from celery import current_app
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django_celery_beat.models import ClockedSchedule, PeriodicTask
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from pytest_django import Settings

from scheduling.models import Counter, Declaration, Node, Run
from tests.factories import DAY, HOUR, MINUTE, NOON, SECOND, STOCK_SCHEDULER, every, make, store

TOKEN = "a-long-random-and-secret-token"

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore:No directory at"),  # where collectstatic has not run
]


@pytest.fixture(autouse=True)
def no_schedules() -> None:
    PeriodicTask.objects.all().delete()


@pytest.fixture(autouse=True)
def noon() -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture(autouse=True)
def token(settings: Settings) -> None:
    settings.METRICS_TOKEN = TOKEN
    settings.METRICS_NETWORKS = []


def get(client: Client, **headers: str) -> Any:
    return client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}", **headers})


def read(client: Client) -> dict[tuple[str, ...], float]:
    """The values, by their names, schedules and states."""
    families = parser.text_string_to_metric_families(get(client).content.decode())
    samples = (sample for family in families for sample in family.samples)
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_each_schedule_tells_how_its_runs_went(client: Client) -> None:
    make("Often", last_run_at=NOON - MINUTE, total_run_count=7, **every(10))
    store("Often", NOON - 2 * HOUR, "started", "succeeded", late=50 * SECOND)
    store("Often", NOON - 30 * MINUTE, "started", "succeeded", late=4 * SECOND)
    store("Often", NOON - 20 * MINUTE, "started", "retrying", "retrying", "failed", late=2 * SECOND)
    store("Often", NOON - 10 * MINUTE, "expired")
    store("Often", NOON - MINUTE, "started")

    values = read(client)

    assert {name: value for name, *labels, value in flat(values) if labels == ["Often"]} == {
        "schedule_sent_runs_total": 7,
        "schedule_paused": 0,
        "schedule_overdue_seconds": 0,
        "schedule_last_run_timestamp_seconds": (NOON - MINUTE).timestamp(),
        "schedule_last_success_timestamp_seconds": (NOON - 30 * MINUTE + 5 * SECOND).timestamp(),
        "schedule_last_hour_lateness_mean_seconds": 2,
        "schedule_last_hour_lateness_max_seconds": 4,
        "schedule_last_hour_duration_mean_seconds": 2,
        "schedule_last_hour_duration_max_seconds": 3,
    }
    assert {tuple(labels): value for _, *labels, value in flat(values) if len(labels) == 2} == {
        **{("Often", state): 0 for state in ("sent", "retrying", "lost", "skipped", "cancelled")},
        ("Often", "started"): 1,
        ("Often", "succeeded"): 1,
        ("Often", "failed"): 1,
        ("Often", "expired"): 1,
    }


def flat(values: dict[tuple[str, ...], float]) -> list[Any]:
    return [(*key, value) for key, value in values.items()]


def test_what_is_paused_overdue_and_ticking_is_counted(client: Client) -> None:
    make("Overdue", last_run_at=NOON - 15 * MINUTE, **every(10))
    make("Punctual", last_run_at=NOON - 5 * MINUTE, **every(10))
    make("Paused", enabled=False, **every(10))
    once = ClockedSchedule.objects.create(clocked_time=NOON - DAY)
    make("Ended", enabled=False, one_off=True, clocked=once, total_run_count=1)
    make("Expired", enabled=False, expires=NOON - DAY, **every(10))
    Node.objects.create(name="old", is_worker=False, seen_at=NOON - 3 * DAY)
    Node.objects.create(name="older", is_worker=False, seen_at=NOON - 4 * DAY)

    values = read(client)

    assert values["schedules_enabled",] == 2
    assert values["schedules_paused",] == 1
    assert values["schedules_overdue",] == 1
    assert values["beat_last_tick_timestamp_seconds",] == (NOON - 3 * DAY).timestamp()
    assert values["schedule_overdue_seconds", "Overdue"] == 5 * 60
    assert values["schedule_overdue_seconds", "Punctual"] == 0
    assert values["schedule_paused", "Paused"] == 1
    assert values["schedule_paused", "Ended"] == values["schedule_paused", "Expired"] == 0


def test_a_beat_that_never_ticked_is_told_and_one_that_cannot_tick_is_not(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(client)["beat_last_tick_timestamp_seconds",] == 0

    monkeypatch.setitem(current_app.conf, "beat_scheduler", STOCK_SCHEDULER)
    assert ("beat_last_tick_timestamp_seconds",) not in read(client)


def test_a_schedule_that_never_ran_has_no_times(client: Client) -> None:
    make("New", changed=NOON, **every(10))

    told = {name for name, *labels in read(client) if labels == ["New"]}

    assert told == {"schedule_sent_runs_total", "schedule_paused", "schedule_overdue_seconds"}


def test_any_name_survives(client: Client) -> None:
    name = 'A "name" \\ with {marks}\n<script> é 🚀'
    make(name, **every(10))

    assert ("schedule_paused", name) in read(client)


def test_history_that_is_cleaned_up_lets_no_counter_fall(client: Client) -> None:
    make("Often", total_run_count=2, last_run_at=NOON, **every(10))
    store("Often", NOON - MINUTE, "started", "succeeded")

    def counters() -> dict[str, float]:
        families = parser.text_string_to_metric_families(get(client).content.decode())
        counters = (family for family in families if family.type != "gauge")
        return {sample.name: sample.value for family in counters for sample in family.samples}

    before = counters()
    Run.objects.all().delete()

    assert counters() == before == {"schedule_sent_runs_total": 2, "unreadable_messages_total": 0}


def test_messages_that_workers_put_aside_are_counted(client: Client) -> None:
    Counter.add(Counter.UNREADABLE, 2)
    Counter.add(Counter.UNREADABLE, 3)

    assert read(client)["unreadable_messages_total",] == 5


def test_the_names_follow_prometheus_conventions(client: Client) -> None:
    make("Often", **every(10))
    store("Often", NOON - MINUTE, "started", "succeeded")

    for family in parser.text_string_to_metric_families(get(client).content.decode()):
        assert family.documentation
        assert not family.name.endswith(("_count", "_sum", "_bucket", "_total"))
        assert family.name.endswith("_seconds") or max(s.value for s in family.samples) < 10


def test_openmetrics_is_spoken_with_whoever_asks_for_it(client: Client) -> None:
    make("Often", **every(10))

    response = get(client, accept="application/openmetrics-text; version=1.0.0")

    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    parse: Any = openmetrics_parser.text_string_to_metric_families
    assert list(parse(response.content.decode()))


def test_a_scrape_makes_fourteen_queries_however_many_schedules_there_are(client: Client) -> None:
    shared = every(10)
    for number in range(30):
        make(f"Number {number}", last_run_at=NOON - 15 * MINUTE, **shared)
        store(f"Number {number}", NOON - MINUTE, "started", "succeeded")

    with CaptureQueriesContext(connection) as queries:
        assert read(client)["schedules_overdue",] == 30

    assert len(queries) == 14


# METRICS_TOKEN, METRICS_NETWORKS, what is sent: the header and the address; the answer.
ACCESS = [
    ("", [], None, "127.0.0.1", 404),
    ("", [], "Bearer ", "127.0.0.1", 404),
    (TOKEN, [], None, "127.0.0.1", 401),
    (TOKEN, [], "Bearer ", "127.0.0.1", 401),
    (TOKEN, [], f"Bearer {TOKEN}é", "127.0.0.1", 401),
    (TOKEN, [], f"Basic {TOKEN}", "127.0.0.1", 401),
    (TOKEN, [], f"Bearer {TOKEN}", "192.0.2.1", 200),
    (TOKEN, [], f"bearer {TOKEN}", "192.0.2.1", 200),
    ("", ["10.0.0.0/8"], None, "10.9.8.7", 200),
    ("", ["10.0.0.0/8"], None, "::ffff:10.9.8.7", 200),
    ("", ["10.0.0.0/8", " 192.0.2.1"], None, "192.0.2.1", 200),
    ("", ["10.0.0.0/8"], None, "192.0.2.1", 403),
    ("", ["10.0.0.0/8"], "Bearer ", "192.0.2.1", 403),
    ("", ["10.0.0.0/8"], None, "", 403),
    ("", ["fd00::/8"], None, "fd00::1", 200),
    ("", ["fd00::/8"], None, "10.9.8.7", 403),
    (TOKEN, ["10.0.0.0/8"], None, "10.9.8.7", 200),
    (TOKEN, ["10.0.0.0/8"], None, "192.0.2.1", 401),
]


@pytest.mark.parametrize(("token", "networks", "authorization", "address", "status"), ACCESS)
def test_only_those_read_whom_a_setting_lets(
    client: Client,
    settings: Settings,
    token: str,
    networks: list[str],
    authorization: str | None,
    address: str,
    status: int,
) -> None:
    settings.METRICS_TOKEN, settings.METRICS_NETWORKS = token, networks
    headers = {"authorization": authorization} if authorization else {}

    response = client.get("/metrics", headers=headers, REMOTE_ADDR=address)

    assert response.status_code == status
    assert (b"schedule" in response.content) is (status == 200)


def test_a_header_cannot_pretend_to_come_from_a_network(client: Client, settings: Settings) -> None:
    settings.METRICS_NETWORKS = ["10.0.0.0/8"]
    claims = {"x-forwarded-for": "10.0.0.1", "x-real-ip": "10.0.0.1", "forwarded": "for=10.0.0.1"}

    assert client.get("/metrics", headers=claims, REMOTE_ADDR="192.0.2.1").status_code == 401


def test_metrics_are_read_and_never_kept(client: Client) -> None:
    assert "no-store" in get(client).headers["Cache-Control"]
    assert client.head("/metrics").status_code == 401
    assert client.post("/metrics").status_code == 405


def test_a_scrape_by_ip_address_and_plain_http_is_answered(
    client: Client, settings: Settings
) -> None:
    settings.ALLOWED_HOSTS, settings.SECURE_SSL_REDIRECT = ["portal.example.com"], True
    headers = {"authorization": f"Bearer {TOKEN}"}

    assert client.get("/metrics", headers=headers, SERVER_NAME="10.1.2.3").status_code == 200


def test_of_many_schedules_the_declared_ones_have_series_and_all_are_counted(
    client: Client, settings: Settings
) -> None:
    for name in ("A", "B", "C"):
        row = make(name, last_run_at=NOON - 15 * MINUTE, **every(10))
        if name == "C":
            Declaration.objects.create(name=name, periodic_task=row, values={})
    settings.METRICS_MAX_SCHEDULES = 2
    values = read(client)

    named = {labels[0] for name, *labels, _ in flat(values) if name == "schedule_paused"}
    assert named == {"A", "C"}
    assert values["schedules_enabled",] == values["schedules_overdue",] == 3
