"""What ran, how late, what is overdue and what comes next."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from celery import current_app
from celery.app.task import Context
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from django_celery_results.models import TaskResult

from scheduling import history, results
from scheduling.models import Heartbeat, Run
from scheduling.results import DatabaseBackend
from scheduling.tasks import clean_up_history

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = (
    timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days")
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def no_schedules() -> None:
    PeriodicTask.objects.all().delete()


def make(name: str, changed: datetime = NOON - DAY, **values: Any) -> PeriodicTask:
    """A row that was saved at a time, with the columns given."""
    row = PeriodicTask.objects.create(name=name, task="some.task", **values)
    PeriodicTask.objects.filter(pk=row.pk).update(
        date_changed=changed, last_run_at=values.get("last_run_at")
    )
    return PeriodicTask.objects.get(pk=row.pk)


def every(count: int, period: str = "minutes") -> dict[str, Any]:
    return {"interval": IntervalSchedule.objects.create(every=count, period=period)}


def at(hour: str, minute: str = "0", zone: str = "UTC") -> dict[str, Any]:
    return {
        "crontab": CrontabSchedule.objects.create(hour=hour, minute=minute, timezone=zone),
    }


def request_of(
    name: str, due: datetime, queued: timedelta = timedelta(), retries: int = 0
) -> Context:
    """Of a task, as a worker makes it of beat's message."""
    headers = {"scheduled_for": due.isoformat(), "periodic_task_name": name}
    return Context(
        headers=headers | {"queued_at": (due + queued).isoformat()},
        task="some.task",
        retries=retries,
        hostname="celery@here",
        periodic_task_name=name,
        argsrepr="('x',)",
        children=[],
    )


def store(name: str, due: datetime, *states: str, retries: int = 0, **times: timedelta) -> None:
    """What a worker stores of a run, state by state, each a second after the one before."""
    request = request_of(name, due, times.get("queued", 0 * SECOND), retries)
    for number, state in enumerate(states):
        with time_machine.travel(
            due + times.get("late", timedelta()) + number * SECOND, tick=False
        ):
            DatabaseBackend(current_app).store_result(
                f"{name} {due}", None, state, request=request, traceback="Traceback …"
            )


def test_a_run_tells_when_it_was_due_queued_started_and_done() -> None:
    store("Nightly", NOON, "STARTED", "SUCCESS", late=5 * SECOND)

    [run] = history.read(Run.objects.order_by("pk"))

    assert (run.schedule, run.scheduled_for, run.queued_at) == ("Nightly", NOON, NOON)
    assert (run.state, run.late, run.took, run.retries) == ("SUCCESS", 5 * SECOND, SECOND, 0)
    stored = TaskResult.objects.values().get()
    assert (stored["periodic_task_name"], stored["task_name"]) == ("Nightly", "some.task")
    assert (stored["worker"], stored["task_args"]) == ("celery@here", "\"('x',)\"")
    assert stored["date_created"] == NOON + 5 * SECOND


def test_a_run_that_is_retried_is_one_run_that_started_when_it_was_first_tried() -> None:
    store("Nightly", NOON, "STARTED", "RETRY")
    store("Nightly", NOON, "STARTED", "FAILURE", retries=1, late=MINUTE)

    [run] = history.read(Run.objects.order_by("pk"))

    assert (run.state, run.retries, run.late, run.took) == ("FAILURE", 1, 0 * SECOND, 61 * SECOND)
    assert TaskResult.objects.get().traceback == "Traceback …"


@pytest.mark.parametrize("ended", ["SUCCESS", "FAILURE"])
def test_a_run_that_has_ended_is_not_retried_or_started_later(ended: str) -> None:
    """Its processes write at their own pace: the first try's may come last."""
    store("Nightly", NOON, "STARTED", ended, retries=1)
    store("Nightly", NOON, "STARTED", "RETRY", late=MINUTE)

    [run] = history.read(Run.objects.all())

    assert (run.state, run.retries, run.took) == (ended, 1, SECOND)


def test_a_run_whose_first_start_was_not_written_started_with_the_next_try() -> None:
    """Its process was killed, and the worker's main process wrote that it is retried."""
    store("Nightly", NOON, "RETRY")
    store("Nightly", NOON, "STARTED", "SUCCESS", retries=1, late=MINUTE)

    [run] = history.read(Run.objects.all())

    assert (run.state, run.late, run.took) == ("SUCCESS", MINUTE, SECOND)


def test_a_run_that_has_ended_may_end_anew() -> None:
    """It was delivered again, as its worker died before it had acknowledged it."""
    store("Nightly", NOON, "STARTED", "SUCCESS")
    store("Nightly", NOON, "STARTED", "FAILURE", late=MINUTE)

    [run] = history.read(Run.objects.all())

    assert (run.state, run.took) == ("FAILURE", 61 * SECOND)


def test_a_run_that_goes_on_or_never_started_has_no_duration() -> None:
    store("Goes on", NOON, "STARTED")
    store("Expired", NOON, "REVOKED")

    assert [
        (run.schedule, run.late is None, run.took)
        for run in history.read(Run.objects.order_by("pk"))
    ] == [
        ("Goes on", False, None),
        ("Expired", True, None),
    ]


def test_the_result_of_another_task_is_stored_and_is_no_run() -> None:
    backend = DatabaseBackend(current_app)

    backend.store_result("an-id", {"answer": 42}, "SUCCESS", request=Context(task="some.task"))

    assert backend.get_result("an-id") == {"answer": 42}
    assert not Run.objects.exists()


@pytest.mark.parametrize("headers", [{"scheduled_for": "tomorrow"}, {"queued_at": 7}, None])
def test_headers_of_somebody_else_make_no_run(headers: dict[str, Any] | None) -> None:
    request = request_of("Nightly", NOON)
    request.headers = (request.headers or {}) | headers if headers else None

    DatabaseBackend(current_app).store_result("an-id", None, "SUCCESS", request=request)

    assert TaskResult.objects.exists()
    assert not Run.objects.exists()


def test_what_is_no_text_for_a_database_is_stored() -> None:
    request = request_of("Nightly", NOON)

    DatabaseBackend(current_app).store_result(
        "an-id", OSError("a\0b \udcff"), "FAILURE", traceback="a\0b \udcff", request=request
    )

    assert TaskResult.objects.get().traceback == "a\\0b \\udcff"
    [error] = history.errors(history.read(Run.objects.all())).values()
    assert error.startswith("OSError: a")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[results.Recorder]:
    """As in a worker's process."""
    monkeypatch.setattr(results, "RETRY", 0.1)
    results.start_recorder()
    assert results.recorder
    yield results.recorder
    results.end_recorder()
    results.recorder = None


@pytest.mark.django_db(transaction=True)
def test_in_a_worker_many_runs_are_written_at_once(
    monkeypatch: pytest.MonkeyPatch, recorder: results.Recorder
) -> None:
    written: list[int] = []

    def write(records: list[results.Record]) -> None:
        written.append(len(records))
        original(records)

    original = results.write
    monkeypatch.setattr(results, "write", write)

    for number in range(100):
        store(f"Number {number}", NOON, "STARTED", "SUCCESS", late=MINUTE)
    recorder.end()

    assert {(run.late, run.took) for run in history.read(Run.objects.all())} == {(MINUTE, SECOND)}
    started = TaskResult.objects.values_list("date_started", flat=True)
    assert set(started) == {NOON + MINUTE}
    assert sum(written) == 200
    assert len(written) < 20
    assert Run.objects.count() == TaskResult.objects.filter(status="SUCCESS").count() == 100


@pytest.mark.django_db(transaction=True)
def test_runs_wait_for_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recorder: results.Recorder,
) -> None:
    is_away = True

    def write(records: list[results.Record]) -> None:
        if is_away:
            raise OperationalError("away")
        original(records)

    original = results.write
    monkeypatch.setattr(results, "write", write)

    store("Nightly", NOON, "STARTED", "SUCCESS")
    while "wait for the database: away" not in caplog.text:
        time.sleep(0.01)
    is_away = False
    while not Run.objects.filter(finished_at__isnull=False).exists():
        time.sleep(0.01)


@pytest.mark.django_db(transaction=True)
def test_a_run_that_cannot_be_written_does_not_hold_up_the_others(
    caplog: pytest.LogCaptureFixture, recorder: results.Recorder
) -> None:
    bad = TaskResult(task_id="bad", status=None)
    recorder.put((bad, None))
    for name in ("One", "Another"):
        store(name, NOON, "STARTED", "SUCCESS")
    recorder.end()

    assert {run.schedule for run in Run.objects.all()} == {"One", "Another"}
    assert "history: bad is not kept" in caplog.text


def test_the_last_runs_of_each_schedule_are_found_in_two_queries(no_schedules: None) -> None:
    for name, count in (("Often", 30), ("Seldom", 2), ("Never", 0), ("Another", 5)):
        make(name, **every(1))
        for number in range(count):
            store(name, NOON + number * MINUTE, "STARTED", "SUCCESS")

    with CaptureQueriesContext(connection) as queries:
        found = history.last_runs(["Often", "Seldom", "Never"], 20)

    assert {name: len(its) for name, its in found.items()} == {"Often": 20, "Seldom": 2, "Never": 0}
    assert found["Often"][0].scheduled_for == NOON + 29 * MINUTE
    assert all(run.took == SECOND for its in found.values() for run in its)
    assert len(queries) == 2


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

    assert history.overdue(NOON) == ({row.pk: due} if due else {})
    [view] = history.overview([row], NOON)
    assert view.is_overdue is bool(due)
    if due:
        assert view.due == due


def test_one_query_finds_that_nothing_is_overdue_however_many_rows_there_are(
    no_schedules: None,
) -> None:
    shared = every(10)
    for number in range(20):
        make(f"Row {number}", last_run_at=NOON - MINUTE, **shared)
        make(f"Cron {number}", last_run_at=NOON - MINUTE, **at("3", str(number)))

    with CaptureQueriesContext(connection) as queries:
        assert history.overdue(NOON) == {}

    assert len(queries) == 1


def test_a_row_that_beat_skips_does_not_hide_another_that_is_overdue(no_schedules: None) -> None:
    shared = every(3, "days")
    make("Skipped", last_run_at=NOON - 4 * DAY, **shared)
    row = make("Overdue", last_run_at=NOON - 3 * DAY - 30 * MINUTE, **shared)

    assert history.overdue(NOON) == {row.pk: NOON - 30 * MINUTE}


def test_what_beat_will_skip_is_missed_and_the_next_run_is_in_the_future(
    no_schedules: None,
) -> None:
    [view] = history.overview([make("Nightly", **at("3"))], NOON)

    assert view.missed == NOON.replace(hour=3)
    assert view.due == NOON.replace(hour=3) + DAY
    assert not view.is_overdue


def test_the_next_times_are_those_of_beat(no_schedules: None) -> None:
    row = make("Hourly", last_run_at=NOON - 30 * MINUTE, **at("*"))

    times = history.upcoming(row, NOON + 50 * MINUTE)

    assert [next(times) for _ in range(3)] == [NOON, NOON + HOUR, NOON + 2 * HOUR]


def test_what_runs_once_or_expires_has_no_more_times(no_schedules: None) -> None:
    once = ClockedSchedule.objects.create(clocked_time=NOON)

    assert list(history.upcoming(make("Once", clocked=once, one_off=True), NOON - HOUR)) == [NOON]
    row = make("Ends", last_run_at=NOON, expires=NOON + 3 * HOUR, **at("*"))
    assert list(history.upcoming(row, NOON)) == [NOON + HOUR, NOON + 2 * HOUR]


def test_a_run_that_no_worker_has_taken_up_waits(no_schedules: None) -> None:
    store("Row", NOON - 10 * MINUTE, "STARTED", "SUCCESS")

    def waits_since(sent: datetime) -> datetime | None:
        PeriodicTask.objects.all().delete()
        [view] = history.overview([make("Row", last_run_at=sent, **every(10))], NOON)
        return view.waits_since

    assert waits_since(NOON - 10 * MINUTE) is None
    assert waits_since(NOON) == NOON


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
    assert history.in_words(PeriodicTask(**columns())) == words


def test_clean_up_deletes_what_is_older_than_two_weeks() -> None:
    store("Old", NOON - 15 * DAY, "STARTED", "SUCCESS")
    store("Young", NOON - 13 * DAY, "STARTED", "SUCCESS")
    Heartbeat.objects.create(beat="old", ticked_at=NOON - 15 * DAY)

    with time_machine.travel(NOON, tick=False):
        assert clean_up_history.apply().result == 1

    assert [run.schedule for run in history.read(Run.objects.order_by("pk"))] == ["Young"]
    assert TaskResult.objects.count() == 1
    assert not Heartbeat.objects.exists()


def test_clean_up_goes_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduling.tasks.BATCH", 2)
    for number in range(5):
        store("Old", NOON - 15 * DAY + number * MINUTE, "SUCCESS")

    with time_machine.travel(NOON, tick=False), CaptureQueriesContext(connection) as queries:
        assert clean_up_history.apply().result == 5

    deletions = [q for q in queries if q["sql"].startswith('DELETE FROM "django_celery_results_t')]
    assert len(deletions) == 3
