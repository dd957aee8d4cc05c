"""What a worker writes of runs and results, and when."""

import time
from collections.abc import Iterator
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from celery import current_app
from celery.app.task import Context
from django.db import OperationalError, connection
from django_celery_results.models import TaskResult

from scheduling.models import Run
from scheduling.runs.queries import errors, summaries
from scheduling.worker import results
from scheduling.worker.results import DatabaseBackend
from tests.factories import MINUTE, NOON, SECOND, request_of, store

pytestmark = pytest.mark.django_db


def test_a_run_tells_when_it_was_due_queued_started_and_done() -> None:
    store("Nightly", NOON, "STARTED", "SUCCESS", late=5 * SECOND)

    [run] = summaries(Run.objects.order_by("pk"))

    assert (run.schedule, run.scheduled_for, run.queued_at) == ("Nightly", NOON, NOON)
    assert (run.state, run.late, run.took, run.retries) == ("SUCCESS", 5 * SECOND, SECOND, 0)
    stored = TaskResult.objects.values().get()
    assert (stored["periodic_task_name"], stored["task_name"]) == ("Nightly", "some.task")
    assert (stored["worker"], stored["task_args"]) == ("celery@here", "\"('x',)\"")
    assert stored["date_created"] == NOON + 5 * SECOND


def test_a_run_that_is_retried_is_one_run_that_started_when_it_was_first_tried() -> None:
    store("Nightly", NOON, "STARTED", "RETRY")
    store("Nightly", NOON, "STARTED", "FAILURE", retries=1, late=MINUTE)

    [run] = summaries(Run.objects.order_by("pk"))

    assert (run.state, run.retries, run.late, run.took) == ("FAILURE", 1, 0 * SECOND, 61 * SECOND)
    assert TaskResult.objects.get().traceback == "Traceback …"


@pytest.mark.parametrize("ended", ["SUCCESS", "FAILURE"])
def test_a_run_that_has_ended_is_not_retried_or_started_later(ended: str) -> None:
    """Its processes write at their own pace: the first try's may come last."""
    store("Nightly", NOON, "STARTED", ended, retries=1)
    store("Nightly", NOON, "STARTED", "RETRY", late=MINUTE)

    [run] = summaries(Run.objects.all())

    assert (run.state, run.retries, run.took) == (ended, 1, SECOND)


def test_a_run_whose_first_start_was_not_written_started_with_the_next_try() -> None:
    """Its process was killed, and the worker's main process wrote that it is retried."""
    store("Nightly", NOON, "RETRY")
    store("Nightly", NOON, "STARTED", "SUCCESS", retries=1, late=MINUTE)

    [run] = summaries(Run.objects.all())

    assert (run.state, run.late, run.took) == ("SUCCESS", MINUTE, SECOND)


def test_a_run_that_has_ended_may_end_anew() -> None:
    """It was delivered again, as its worker died before it had acknowledged it."""
    store("Nightly", NOON, "STARTED", "SUCCESS")
    store("Nightly", NOON, "STARTED", "FAILURE", late=MINUTE)

    [run] = summaries(Run.objects.all())

    assert (run.state, run.took) == ("FAILURE", 61 * SECOND)


def test_a_run_that_goes_on_or_never_started_has_no_duration() -> None:
    store("Goes on", NOON, "STARTED")
    store("Expired", NOON, "REVOKED")

    assert [
        (run.schedule, run.late is None, run.took) for run in summaries(Run.objects.order_by("pk"))
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
    [error] = errors(summaries(Run.objects.all())).values()
    assert error.startswith("OSError: a")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[results.Recorder]:
    """As in a worker's process; its end waits as long as a busy machine needs."""
    monkeypatch.setattr(results, "DATABASE_RETRY", 60.0)
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

    assert {(run.late, run.took) for run in summaries(Run.objects.all())} == {(MINUTE, SECOND)}
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
    monkeypatch.setattr(results, "DATABASE_RETRY", 0.1)

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


@pytest.mark.django_db(transaction=True)
def test_a_recorder_that_idles_gives_its_connection_back(
    monkeypatch: pytest.MonkeyPatch, recorder: results.Recorder
) -> None:
    def close() -> None:
        connection.close()
        closed.set()

    closed = Event()
    monkeypatch.setattr(results, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(results, "connection", SimpleNamespace(close=close))

    for due in (NOON, NOON + MINUTE):
        store("Nightly", due, "STARTED", "SUCCESS")
        assert closed.wait(60)
        closed.clear()
    recorder.end()

    assert Run.objects.count() == 2
