"""What is overdue, and what comes next."""

from datetime import datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_celery_beat.models import (
    ClockedSchedule,
    PeriodicTask,
    SolarSchedule,
)

from scheduling.models import Node
from scheduling.runs.status import in_words, overdue, statuses, upcoming
from tests.factories import DAY, HOUR, MINUTE, NOON, at, every, make, store

pytestmark = pytest.mark.django_db


@pytest.fixture
def no_schedules() -> None:
    PeriodicTask.objects.all().delete()


# What is stored, what Celery's deadline is (an hour), and when it was due if it is overdue at noon.
OVERDUE = [
    (lambda: every(10), NOON - 10 * MINUTE, None),
    (lambda: every(10), NOON - 11 * MINUTE, None),  # LATE_AFTER is 60 s
    (lambda: every(10), NOON - 12 * MINUTE, NOON - 2 * MINUTE),
    (lambda: every(10), NOON - 175 * MINUTE, NOON - 55 * MINUTE),  # beat makes up this one
    (lambda: at("11", "30"), NOON - DAY, NOON - 30 * MINUTE),
    (lambda: at("11", "30"), NOON - 20 * MINUTE, None),
    (lambda: at("13", "30", "Europe/Berlin"), NOON - DAY, NOON - 30 * MINUTE),
    (lambda: at("10", "30"), NOON - DAY, None),  # beat skips what was missed for over an hour
    (lambda: every(10) | {"enabled": False}, NOON - DAY, None),
    (lambda: every(10) | {"start_time": NOON + HOUR}, NOON - DAY, None),
    (lambda: every(10) | {"start_time": NOON - 5 * MINUTE}, NOON - DAY, NOON - 5 * MINUTE),
    (lambda: every(10) | {"expires": NOON - 3 * MINUTE}, NOON - 12 * MINUTE, None),
    (lambda: every(10) | {"expires": NOON - 2 * HOUR}, NOON - 3 * HOUR, None),
    (
        lambda: every(1, "days") | {"start_time": NOON - 50 * MINUTE},
        NOON - HOUR,
        NOON - 50 * MINUTE,
    ),
    (
        lambda: {
            "one_off": True,
            "clocked": ClockedSchedule.objects.create(clocked_time=NOON - 5 * MINUTE),
        },
        NOON - DAY,
        NOON - 5 * MINUTE,
    ),
    (lambda: at("30", "2"), NOON - DAY, None),  # cannot work
]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(("columns", "last_run_at", "due"), OVERDUE)
def test_overdue_is_what_beat_should_have_sent(
    no_schedules: None, columns: Any, last_run_at: datetime, due: datetime | None, is_first: bool
) -> None:
    values = columns()
    if is_first:
        row = make("Row", changed=last_run_at, **values)
    else:
        row = make("Row", last_run_at=last_run_at, **values)
    make("Punctual", last_run_at=NOON, **{key: values[key] for key in values if key != "expires"})

    assert overdue(NOON) == ({row.pk: due} if due else {})
    [status] = statuses([row], NOON)
    assert status.is_overdue is bool(due)
    if due:
        assert status.due == due


def test_three_queries_find_that_nothing_is_overdue_however_many_rows_there_are(
    no_schedules: None,
) -> None:
    shared = every(10)
    for number in range(20):
        make(f"Row {number}", last_run_at=NOON - MINUTE, **shared)
        make(f"Cron {number}", last_run_at=NOON - MINUTE, **at("3", str(number)))

    with CaptureQueriesContext(connection) as queries:
        assert overdue(NOON) == {}

    assert len(queries) == 3


def test_a_row_that_beat_skips_does_not_hide_another_that_is_overdue(no_schedules: None) -> None:
    shared = every(3, "days")
    make("Skipped", last_run_at=NOON - 4 * DAY, **shared)
    row = make("Overdue", last_run_at=NOON - 3 * DAY - 30 * MINUTE, **shared)

    assert overdue(NOON) == {row.pk: NOON - 30 * MINUTE}


def test_what_beat_will_skip_is_missed_and_the_next_run_is_in_the_future(
    no_schedules: None,
) -> None:
    [status] = statuses([make("Nightly", **at("3"))], NOON)

    assert status.missed == NOON.replace(hour=3)
    assert status.due == NOON.replace(hour=3) + DAY
    assert not status.is_overdue


def test_the_next_times_are_those_of_beat(no_schedules: None) -> None:
    row = make("Hourly", last_run_at=NOON - 30 * MINUTE, **at("*"))

    times = upcoming(row, NOON + 50 * MINUTE)

    assert [next(times) for _ in range(3)] == [NOON, NOON + HOUR, NOON + 2 * HOUR]


def test_what_runs_once_or_expires_has_no_more_times(no_schedules: None) -> None:
    once = ClockedSchedule.objects.create(clocked_time=NOON)

    assert list(upcoming(make("Once", clocked=once, one_off=True), NOON - HOUR)) == [NOON]
    row = make("Ends", last_run_at=NOON, expires=NOON + 3 * HOUR, **at("*"))
    assert list(upcoming(row, NOON)) == [NOON + HOUR, NOON + 2 * HOUR]


@pytest.mark.parametrize(
    ("queues", "busy", "why"),
    [
        (["other"], 0, "no worker consumes the queue 'celery'"),
        (["celery", "other"], 2, "all workers of the queue 'celery' are busy: celery@a"),
        (["celery"], 1, "the queue 'celery' has a free worker, which has not begun it yet"),
    ],
)
def test_a_run_that_no_worker_has_begun_says_why(
    no_schedules: None, queues: list[str], busy: int, why: str
) -> None:
    row = make("Row", **every(10))
    store("Row", NOON, "sent")
    now = NOON + MINUTE
    Node(name="celery@a", is_worker=True, seen_at=now, queues=queues, slots=2, busy=busy).save()
    Node(name="gone", is_worker=True, seen_at=NOON - MINUTE, queues=["celery"], slots=2).save()

    [status] = statuses([row], now)
    assert (status.waiting and status.waiting.scheduled_for, status.why_waiting) == (NOON, why)

    store("Row", NOON, "started")
    [status] = statuses([row], now)
    assert (status.waiting, status.why_waiting) == (None, "")


WORDS = [
    (lambda: every(10), "every 10 minutes"),
    (lambda: every(60), "every hour"),
    (lambda: at("3", zone="Europe/Berlin"), "at 03:00, Europe/Berlin"),
    (lambda: at("*", "*/5"), "every 5 minutes, UTC"),
    (lambda: at("x/y"), "0 x/y * * *, UTC"),
    (lambda: {}, "never"),
    (
        lambda: {
            "solar": SolarSchedule.objects.create(event="sunset", latitude=52.5, longitude=13.4)
        },
        "sunset at 52.500000, 13.400000",
    ),
]


@pytest.mark.parametrize(("columns", "words"), WORDS)
def test_when_is_said_in_words(columns: Any, words: str) -> None:
    assert in_words(PeriodicTask(**columns())) == words
