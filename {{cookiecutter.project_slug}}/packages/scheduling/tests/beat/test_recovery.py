"""What beat does about runs that nobody works on any more."""

from collections.abc import Iterator
from datetime import timedelta
from queue import Empty
from typing import Any

import pytest
import time_machine
from celery import current_app
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from kombu import Connection

from scheduling.beat.recovery import MAX_SENDS, recover
from scheduling.models import Node, Run, State
from tests.factories import HOUR, MINUTE, NOON, SECOND, every, make

pytestmark = pytest.mark.django_db(transaction=True)
QUEUE = "recovery"
HERE = "celery@here/1"


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


@pytest.fixture
def broker() -> Iterator[Connection]:
    with Connection("memory://") as connection:
        while taken(connection):
            pass
        yield connection


def taken(broker: Connection) -> Any:
    """The next message of the queue, as a worker takes it; None if there is none."""
    with broker.SimpleQueue(QUEUE) as queue:
        try:
            message = queue.get_nowait()
        except Empty:
            return None
        message.ack()
        return message


def lives(**columns: Any) -> None:
    values = {"is_worker": True, "seen_at": timezone.now(), "queues": [QUEUE]} | columns
    Node.objects.update_or_create(name=HERE, defaults=values)


def sent(ago: timedelta, **columns: Any) -> Run:
    """A run that beat sent some time ago; its message is in no queue."""
    row = make("Some", queue=QUEUE, args='["x"]', **every(10))
    moment = timezone.now() - ago
    values = {"queued_at": moment, "ready_at": moment, "queue": QUEUE, "schedule": row.name}
    return Run.objects.create(
        id="6b0f3f5e-26f7-5a3a-8d43-0b6f0a4f2c11",
        **values | {"periodic_task": row, "task": row.task, "scheduled_for": moment} | columns,
    )


def state() -> tuple[str, str, int]:
    run = Run.objects.get()
    return run.state, run.reason, run.sends


def test_what_has_vanished_is_sent_again_under_its_id(broker: Connection) -> None:
    run = sent(61 * SECOND, trigger="catch-up")

    recover(current_app, broker)

    message = taken(broker)
    assert message.headers["id"] == str(run.pk)
    assert message.headers["scheduled_for"] == run.scheduled_for.isoformat()
    assert (message.headers["run_trigger"], message.payload[0]) == ("catch-up", ["x"])
    assert state() == ("sent", "", 2)
    assert Run.objects.get().ready_at == NOON


def test_what_may_still_be_on_its_way_is_not_sent_again(broker: Connection) -> None:
    sent(59 * SECOND)

    recover(current_app, broker)

    assert taken(broker) is None


def test_what_waits_behind_other_messages_is_not_sent_again(broker: Connection) -> None:
    sent(HOUR)
    with broker.SimpleQueue(QUEUE) as queue:
        queue.put("another")

    recover(current_app, broker)

    assert taken(broker).payload == "another"
    assert taken(broker) is None


@pytest.mark.parametrize("state", [State.SENT, State.RETRYING])
def test_what_a_worker_that_lives_holds_is_not_sent_again(broker: Connection, state: State) -> None:
    run = sent(HOUR, state=state)
    lives(holds=[str(run.pk)])

    recover(current_app, broker)
    assert taken(broker) is None

    lives(seen_at=NOON - MINUTE)
    recover(current_app, broker)
    assert taken(broker).headers["id"] == str(run.pk)


def test_a_run_whose_worker_has_gone_is_lost_and_sent_again(broker: Connection) -> None:
    sent(HOUR, state=State.STARTED, worker=HERE, attempts=1, expires_at=NOON - MINUTE)
    lives()
    recover(current_app, broker)
    assert state() == ("started", "", 1)

    lives(seen_at=NOON - MINUTE)
    with broker.SimpleQueue(QUEUE) as queue:  # the broker may have brought it back
        queue.put("it")
    recover(current_app, broker)
    assert state() == ("lost", f"its worker has gone: {HERE}", 1)

    taken(broker)
    recover(current_app, broker)
    assert taken(broker).headers["expires"] is None  # it has begun
    assert state() == ("sent", "", 2)


def test_a_task_that_acknowledges_early_is_not_run_twice(
    broker: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(current_app.conf, "task_acks_late", False)
    sent(HOUR, state=State.STARTED, worker=HERE, attempts=1)

    for _ in range(2):
        recover(current_app, broker)

    assert taken(broker) is None
    assert state()[:2] == (
        "lost",
        "its worker has gone, and its task must not run twice: it has acks_late=False",
    )


def test_the_pauses_grow_and_then_the_run_is_lost(
    broker: Connection, clock: time_machine.Traveller
) -> None:
    sent(0 * SECOND)
    times = []
    for seconds in range(0, 3 * 3600, 10):
        clock.move_to(NOON + seconds * SECOND)
        recover(current_app, broker)
        if taken(broker):
            times.append(seconds)

    pauses = [later - sooner for sooner, later in zip([0, *times], times, strict=False)]
    assert [round(pause / 60) for pause in pauses] == [1, 2, 4, 8]
    assert state()[:2] == ("lost", f"sent {MAX_SENDS} times, and no worker began it")


def test_a_run_of_a_schedule_that_was_deleted_is_lost(broker: Connection) -> None:
    sent(HOUR)
    PeriodicTask.objects.all().delete()

    recover(current_app, broker)

    assert state()[:2] == ("lost", "its message has vanished, and its schedule was deleted")
    assert Run.objects.get().schedule == "Some"


@pytest.mark.parametrize(("attempts", "expected"), [(0, "expired"), (1, "sent")])
def test_what_no_worker_began_in_time_has_expired(
    broker: Connection, attempts: int, expected: str
) -> None:
    sent(30 * SECOND, expires_at=NOON - SECOND, attempts=attempts)

    recover(current_app, broker)

    assert state()[0] == expected
