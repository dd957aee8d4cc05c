"""run_at: a row that is sent once, and goes when its run has ended."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from celery import current_app, shared_task
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import Reject
from celery.signals import task_revoked
from django.db import transaction
from django_celery_beat.models import ClockedSchedule, PeriodicTask

from scheduling import run_at
from scheduling.operations import run_now
from scheduling.tasks import clean_up_history
from tests.beat.in_process import Beat
from tests.factories import DAY, HOUR, MINUTE, NOON, SECOND
from tests.project.tasks import remind

ARGS = ["a@example.com"]  # of remind

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


@pytest.fixture
def beat() -> Beat:
    beat = Beat()
    beat.run()
    return beat


@shared_task(bind=True, name="tests.end")
def end(self: Any, how: str) -> None:
    if how == "fail":
        raise OSError
    if how == "retry":
        self.retry(countdown=1)
    if how == "reject":
        raise Reject


def request(name: str, due: datetime) -> dict[str, Any]:
    """What beat's message says of a row's run."""
    headers = {"periodic_task_name": name, "scheduled_for": due.isoformat()}
    return {
        "id": str(uuid4()),
        "headers": headers | {"delete_when_done": True},
        "delivery_info": {},
        "retries": 0,
    }


def run(name: str, due: datetime, how: str = "succeed") -> None:
    """Run a task as a worker does that got beat's message of a row."""
    message = request(name, due)
    build_tracer(end.name, end, app=current_app)(message["id"], [how], {}, message)


def test_a_run_is_sent_once_at_its_time(beat: Beat, clock: time_machine.Traveller) -> None:
    row = run_at(remind, NOON + HOUR, args=["a@example.com"], queue="long")
    beat.run()
    assert beat.sent == []

    for _ in range(3):
        clock.shift(HOUR)
        beat.run()

    assert [(sent.name, sent.due) for sent in beat.sent] == [(row.name, NOON + HOUR)]
    with beat.connection.SimpleQueue("long") as queue:
        message: Any = queue.get_nowait()
    assert (message.headers["task"], message.payload[0]) == (remind.name, ["a@example.com"])
    assert message.headers["delete_when_done"] is True


@pytest.mark.parametrize("how", ["succeed", "fail", "reject"])
def test_the_row_and_its_time_go_when_the_run_has_ended(beat: Beat, how: str) -> None:
    row = run_at(end, NOON + SECOND, args=[how])

    run(row.name, NOON + SECOND, how)

    assert not PeriodicTask.objects.exists()
    assert not ClockedSchedule.objects.exists()


def test_the_row_goes_when_the_run_has_expired_or_was_revoked() -> None:
    row = run_at(end, NOON, args=["succeed"])
    dropped = Context(request(row.name, NOON))

    task_revoked.send(sender=end, request=dropped, terminated=False, signum=None, expired=True)

    assert not PeriodicTask.objects.exists()


@pytest.mark.parametrize(
    ("how", "due"),
    [
        ("retry", NOON + HOUR),
        ("succeed", NOON),  # an operator's "run now"
    ],
)
def test_the_row_stays_while_its_run_is_to_come(how: str, due: datetime) -> None:
    row = run_at(end, NOON + HOUR, args=[how])

    run(row.name, due, how)

    assert PeriodicTask.objects.get() == row


def test_a_row_that_run_at_did_not_make_stays() -> None:
    row = run_at(end, NOON + HOUR, args=["succeed"])
    PeriodicTask.objects.update(headers="{}")

    run(row.name, NOON + HOUR)

    assert PeriodicTask.objects.exists()


def test_a_time_that_another_row_has_too_stays() -> None:
    row = run_at(end, NOON + HOUR, args=["succeed"])
    other = PeriodicTask.objects.create(
        name="Other", task="some.task", clocked=row.clocked, one_off=True
    )

    run(row.name, NOON + HOUR)

    assert list(PeriodicTask.objects.all()) == [other]


def test_an_operator_may_run_it_now(sent_tasks: list[Any]) -> None:
    row = run_at(remind, NOON + HOUR, args=ARGS)

    assert run_now([row]) == {row: ""}
    assert [sent.name for sent in sent_tasks] == [remind.name]


def test_it_rolls_back_with_its_transaction() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        run_at(remind, NOON + HOUR, args=ARGS)
        raise ZeroDivisionError

    assert not PeriodicTask.objects.exists()
    assert not ClockedSchedule.objects.exists()


def test_it_runs_though_its_transaction_committed_after_its_time(
    beat: Beat, clock: time_machine.Traveller
) -> None:
    run_at(remind, NOON + SECOND, args=ARGS)
    clock.shift(10 * MINUTE)  # no beat could see the row
    beat.queue.read_at = NOON + 10 * MINUTE - SECOND

    beat.run()

    assert [sent.due for sent in beat.sent] == [NOON + SECOND]


@pytest.mark.parametrize("ago", [SECOND, MINUTE, HOUR])
def test_a_time_that_has_passed_is_due_at_once(beat: Beat, ago: timedelta) -> None:
    run_at(remind, NOON - ago, args=ARGS)
    beat.run()

    assert [sent.due for sent in beat.sent] == [NOON]


def test_without_a_name_each_has_its_own() -> None:
    names = {run_at(remind, NOON + HOUR, args=ARGS).name for _ in range(3)}

    assert len(names) == 3
    assert all(name.startswith("tests.project.tasks.remind ") for name in names)


def test_a_long_task_name_leaves_room_for_a_name() -> None:
    name = "tests." + "x" * 190
    current_app.task(name=name)(remind.run)

    assert len(run_at(name, NOON + HOUR, args=ARGS).name) <= 200


@pytest.mark.parametrize(
    ("task", "when", "options", "message"),
    [
        (remind, NOON.replace(tzinfo=None), {}, "has no time zone; add one"),
        (remind, NOON - HOUR - SECOND, {}, "has passed: .* at most beat_cron_starting_deadline"),
        ("tests.project.tasks.remid", NOON, {}, "did you mean 'tests.project.tasks.remind'"),
        ("nothing.like.it", NOON, {}, "No installed app registers the task 'nothing.like.it'"),
        (remind, NOON, {"args": []}, "missing 1 required positional argument: 'recipient'"),
        (remind, NOON, {"args": [NOON]}, "is not JSON"),
        (remind, NOON, {"kwargs": {1: 2}}, "is not JSON"),
        (remind, NOON, {"name": "Taken"}, "A schedule called 'Taken' exists already"),
        (remind, NOON, {"name": " "}, "write a name of 1 to 200 characters"),
        (remind, NOON, {"name": ""}, "write a name of 1 to 200 characters"),
    ],
)
def test_what_cannot_work_is_refused(
    task: Any, when: datetime, options: dict[str, Any], message: str
) -> None:
    run_at(remind, NOON + DAY, args=ARGS, name="Taken")

    with transaction.atomic():
        with pytest.raises((ValueError, TypeError), match=message):
            run_at(task, when, **{"args": ARGS} | options)
        assert PeriodicTask.objects.count() == 1  # the transaction goes on


def test_clean_up_deletes_what_no_worker_did(beat: Beat, clock: time_machine.Traveller) -> None:
    run_at(remind, NOON + SECOND, args=ARGS, name="Sent")
    run_at(remind, NOON + 30 * DAY, args=ARGS, name="To come")
    clock.shift(SECOND)
    beat.run()

    clock.shift(13 * DAY)
    clean_up_history()
    assert PeriodicTask.objects.count() == 2
    clock.shift(2 * DAY)
    clean_up_history()

    assert [row.name for row in PeriodicTask.objects.all()] == ["To come"]
