"""What a worker writes into the ledger, and which message it lets begin a run."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from threading import Event as Flag
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from celery import Task, current_app, shared_task, signals
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from scheduling.messages import RunMessage, run_id
from scheduling.models import Node, Run, State
from scheduling.worker import ledger, recorder
from scheduling.worker.recorder import Recorder
from tests.factories import HOUR, MINUTE, NOON, SECOND, every, make

pytestmark = pytest.mark.django_db(transaction=True)  # workers close connections
HERE, THERE = "celery@here/1", "celery@there/2"
begun: list[int] = []  # the retries of each message that began the task


@shared_task(bind=True, name="tests.work", max_retries=1)
def work(self: Any, how: str = "succeed") -> None:
    begun.append(self.request.retries)
    match how:
        case "fail":
            raise OSError("a\0b \udcff\nsecond line")
        case "retry":
            raise self.retry(countdown=60, exc=OSError("later"))
        case "ignore":
            raise Ignore
        case "reject":
            raise Reject


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is a worker that lives."""
    begun.clear()
    monkeypatch.setattr(ledger, "node", HERE)
    with time_machine.travel(NOON + SECOND, tick=False):
        lives(HERE)
        yield


def lives(name: str) -> None:
    Node.objects.update_or_create(
        name=name, defaults={"is_worker": True, "seen_at": timezone.now()}
    )


def sent(how: str = "succeed", due: datetime = NOON, **columns: Any) -> Run:
    """A run as beat inserts it."""
    row = PeriodicTask.objects.filter(name="Some").first() or make("Some", **every(10))
    values = {"scheduled_for": due, "queued_at": due, "ready_at": due, "queue": "celery"}
    return Run.objects.create(
        id=run_id(row.pk, due),
        periodic_task=row,
        schedule="Some",
        task=work.name,
        **values | columns,
    )


def message(run: Run, how: str = "succeed", retries: int = 0) -> dict[str, Any]:
    """The request that a worker makes of beat's message of a run."""
    text = RunMessage(PeriodicTask.objects.get(name="Some"))
    text.name_run(run.pk, run.scheduled_for, run.queued_at or run.scheduled_for, run.trigger)
    return {
        "id": str(run.pk),
        "task": work.name,
        "headers": text.options["headers"],
        "delivery_info": {"routing_key": "celery"},
        "retries": retries,
        "args": [how],
        "is_eager": False,
    }


def deliver(run: Run, how: str = "succeed", retries: int = 0) -> None:
    """Let the worker trace a message of the run, as its child process does."""
    request = message(run, how, retries)
    tracer = build_tracer(work.name, work, app=current_app)
    tracer(request["id"], [how], {}, request)


def stored(run: Run) -> Run:
    return Run.objects.get(pk=run.pk)


def test_a_run_is_begun_and_succeeds() -> None:
    run = sent()
    deliver(run)

    run = stored(run)
    assert (run.state, run.worker, run.attempts) == ("succeeded", HERE, 1)
    assert run.started_at == run.finished_at == NOON + SECOND


def test_a_failure_has_a_line_and_a_traceback_that_any_database_stores() -> None:
    run = sent()
    deliver(run, "fail")

    run = stored(run)
    assert (run.state, run.error) == ("failed", "OSError: a\\0b \\udcff")
    assert "second line" in run.traceback


def test_a_run_that_is_retried_waits_and_begins_again() -> None:
    run = sent()
    deliver(run, "retry")

    waits = stored(run)
    assert (waits.state, waits.error, waits.finished_at) == ("retrying", "OSError: later", None)
    assert waits.ready_at == NOON + 61 * SECOND

    deliver(run, "retry", retries=1)
    run = stored(run)
    assert (run.state, run.attempts, run.retries, begun) == ("failed", 2, 1, [0, 1])
    assert run.started_at == NOON + SECOND


@pytest.mark.parametrize(("how", "state"), [("ignore", "succeeded"), ("reject", "started")])
def test_a_task_may_ignore_its_own_run(how: str, state: str) -> None:
    """Of a task that rejects its message, Celery's main process says the end."""
    run = sent()
    deliver(run, how)

    assert (stored(run).state, begun) == (state, [0])


def test_of_two_messages_of_a_run_one_begins() -> None:
    run = sent()
    deliver(run)
    deliver(run)

    assert (begun, stored(run).attempts, stored(run).state) == ([0], 1, "succeeded")


STATES = [(state, state in (State.SENT, State.RETRYING, State.LOST)) for state in State]


@pytest.mark.parametrize(("state", "may_begin"), STATES)
def test_a_run_begins_only_if_nobody_is_at_it(state: State, may_begin: bool) -> None:
    lives(THERE)
    run = sent(state=state, worker=THERE)
    deliver(run)

    assert bool(begun) == may_begin
    assert stored(run).state == ("succeeded" if may_begin else state)


def test_a_run_whose_worker_has_gone_begins_again() -> None:
    run = sent(state=State.STARTED, worker=THERE, attempts=1)
    deliver(run)

    assert (begun, stored(run).attempts, stored(run).worker) == ([0], 2, HERE)


def test_a_retry_begins_before_its_failure_is_written() -> None:
    lives(THERE)
    run = sent(state=State.STARTED, worker=THERE, attempts=1)
    deliver(run, retries=1)

    assert (begun, stored(run).state) == ([1], "succeeded")


def test_a_message_that_comes_back_to_the_broker_may_begin_again() -> None:
    run = sent(state=State.STARTED, worker=HERE, attempts=1)
    request = build_request(run)
    ledger.release(request)
    deliver(run)

    assert (begun, stored(run).attempts) == ([0], 2)


def build_request(run: Run) -> Any:
    from celery.app.task import Context

    return Context(message(run))


def test_a_run_whose_beat_died_before_its_commit_gets_its_row_from_the_message() -> None:
    run = sent()
    text = message(run)
    Run.objects.all().delete()
    build_tracer(work.name, work, app=current_app)(text["id"], ["succeed"], {}, text)

    [made] = Run.objects.all()
    assert (made.pk, made.schedule, made.scheduled_for) == (run.pk, "Some", NOON)
    assert (made.periodic_task, made.state, made.attempts) == (run.periodic_task, "succeeded", 1)


def test_a_worker_waits_for_the_row_that_beat_has_not_committed() -> None:
    if connection.vendor == "sqlite":
        pytest.skip("a database in memory has one connection")
    run = sent()
    text = message(run)
    Run.objects.all().delete()

    def begin() -> None:
        try:
            build_tracer(work.name, work, app=current_app)(text["id"], ["succeed"], {}, text)
        finally:
            connection.close()

    worker = Thread(target=begin)
    with transaction.atomic():
        run.save(force_insert=True)
        worker.start()
        while not waits_for_a_lock():
            time.sleep(0.01)
    worker.join()

    assert (Run.objects.get().state, Run.objects.get().attempts) == ("succeeded", 1)


def waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


def test_a_late_return_does_not_end_a_run_that_has_begun_anew() -> None:
    lives(THERE)
    run = sent(state=State.STARTED, worker=THERE, attempts=2)

    recorder.record(run, State.FAILED, OSError("of the first attempt"))

    assert (stored(run).state, stored(run).error) == ("started", "")


@pytest.mark.parametrize("state", ["succeeded", "failed", "expired", "skipped", "cancelled"])
def test_a_final_state_stays(state: str) -> None:
    run = sent(state=state, worker=HERE)

    recorder.record(run, State.RETRYING)

    assert stored(run).state == state


def revoke(run: Run, **how: Any) -> None:
    values = {"terminated": False, "signum": None, "expired": False} | how
    signals.task_revoked.send(sender=work, request=build_request(run), **values)


class Message:
    """What Celery's consumer has of a message that is no task's."""

    delivery_info = {"routing_key": "celery"}

    def __init__(self, run: Run) -> None:
        text = message(run)
        self.headers = {"id": text["id"], "task": "gone.task"} | text["headers"]


ENDS: list[tuple[Callable[[Run], object], str, str, str]] = [
    (lambda run: revoke(run), "cancelled", "revoked", ""),
    (lambda run: revoke(run, terminated=True), "cancelled", "terminated", ""),
    (lambda run: revoke(run, expired=True), "expired", "no worker began it in time", ""),
    (
        lambda run: signals.task_unknown.send(
            sender=None, message=Message(run), exc=KeyError(), name="gone.task", id=str(run.pk)
        ),
        *("failed", "", "NotRegistered: 'gone.task'"),
    ),
    (
        lambda run: signals.task_rejected.send(
            sender=None, message=Message(run), exc=ValueError("broken")
        ),
        *("failed", "", "ValueError: broken"),
    ),
]


@pytest.mark.parametrize(("end", "state", "reason", "error"), ENDS)
def test_what_is_no_more_than_a_message_ends_too(
    end: Callable[[Run], object], state: str, reason: str, error: str
) -> None:
    run = sent()
    end(run)

    run = stored(run)
    assert (run.state, run.reason, run.error) == (state, reason, error)
    assert run.finished_at == NOON + SECOND


def test_a_task_that_beat_did_not_send_is_no_run() -> None:
    request = message(sent()) | {"headers": {"scheduled_for": "tomorrow"}}
    Run.objects.all().delete()
    build_tracer(work.name, work, app=current_app)(request["id"], ["succeed"], {}, request)

    assert begun == [0]
    assert not Run.objects.exists()


def test_a_run_begins_while_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = sent()

    def fail(*arguments: Any) -> bool:
        raise OperationalError("away")

    monkeypatch.setattr(ledger, "_set_started", fail)
    deliver(run)

    assert begun == [0]
    assert "begins without its row: away" in caplog.text


def test_a_tasks_own_before_start_is_called_for_what_begins() -> None:
    calls = []

    class Watched(Task):  # type: ignore[type-arg]  # not generic at run time
        def before_start(self, *arguments: Any) -> None:
            calls.append(arguments)

    @shared_task(base=Watched, name="tests.watched")
    def watched() -> None:
        pass

    task: Any = watched
    run = sent()
    request = message(run) | {"task": "tests.watched"}
    for _ in range(2):
        tracer = build_tracer(task.name, current_app.tasks[task.name], app=current_app)
        tracer(request["id"], [], {}, request)

    assert calls == [(str(run.pk), [], {})]


# The recorder


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """As in a worker's process; its end waits as long as a busy machine needs."""
    monkeypatch.setattr(recorder, "DATABASE_RETRY", 60.0)
    recorder.start_recorder()
    assert recorder.recorder
    yield recorder.recorder
    recorder.end_recorder()
    recorder.recorder = None


def test_many_runs_are_written_at_once(monkeypatch: pytest.MonkeyPatch, writer: Recorder) -> None:
    written: list[int] = []

    def write(events: list[ledger.Event]) -> None:
        written.append(len(events))
        gate.wait(60)
        original(events)

    gate, original = Flag(), ledger.write
    monkeypatch.setattr(ledger, "write", write)
    runs = [sent(due=NOON + number * SECOND) for number in range(100)]
    for run in runs:
        deliver(run)
    gate.set()
    writer.end()

    assert sum(written) == 100
    assert len(written) <= 3
    assert set(Run.objects.values_list("state", flat=True)) == {"succeeded"}


def test_events_wait_for_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, writer: Recorder
) -> None:
    is_away = True

    def write(events: list[ledger.Event]) -> None:
        if is_away:
            raise OperationalError("away")
        original(events)

    original = ledger.write
    monkeypatch.setattr(ledger, "write", write)
    monkeypatch.setattr(recorder, "DATABASE_RETRY", 0.1)

    run = sent()
    deliver(run)
    while "wait for the database: away" not in caplog.text:
        time.sleep(0.01)
    is_away = False
    monkeypatch.setattr(recorder, "DATABASE_RETRY", 60.0)
    writer.end()

    assert stored(run).state == "succeeded"


def test_an_event_that_cannot_be_written_does_not_hold_up_the_others(
    caplog: pytest.LogCaptureFixture, writer: Recorder
) -> None:
    bad = ledger.Event(sent(due=NOON - HOUR), {"state": None}, HERE)
    good = [ledger.Event(sent(due=NOON + n * MINUTE), {"state": "failed"}, HERE) for n in range(2)]
    for event in (bad, *good):
        writer.put(event)
    writer.end()

    assert [stored(event.run).state for event in good] == ["failed", "failed"]
    assert f"ledger: {bad.run.pk} is not recorded" in caplog.text


def test_a_heartbeat_is_only_so_old(monkeypatch: pytest.MonkeyPatch) -> None:
    lives(THERE)
    with time_machine.travel(NOON + 31 * SECOND + timedelta(microseconds=1), tick=False):
        lives(HERE)
        run = sent(state=State.STARTED, worker=THERE)
        deliver(run)

    assert begun == [0]


def test_a_recorder_that_idles_gives_its_connection_back(
    monkeypatch: pytest.MonkeyPatch, writer: Recorder
) -> None:
    def close() -> None:
        connection.close()
        closed.set()

    closed = Flag()
    monkeypatch.setattr(recorder, "IDLE_SECONDS", 0.1)
    closing = SimpleNamespace(connection=lambda: SimpleNamespace(close=close))
    monkeypatch.setattr(recorder, "database", closing)

    for due in (NOON, NOON + MINUTE):
        run = sent(due=due)
        deliver(run)
        assert closed.wait(60)
        closed.clear()
        assert stored(run).state == "succeeded"
    writer.end()
