"""A batch at a real RabbitMQ, whose URL is in RABBITMQ_URL: one wait for all, one refusal for one."""

import os
from collections.abc import Iterator
from socket import MSG_PEEK
from typing import Any
from uuid import uuid4

import amqp
import pytest
import time_machine
from celery import current_app
from django_celery_beat.models import PeriodicTask
from kombu import Connection, Queue
from kombu.utils.objects import cached_property
from scheduling.broker import batches
from scheduling.models import Run
from tests.beat.in_process import Beat
from tests.factories import HOUR, NOON, every, make

pytestmark = pytest.mark.django_db(transaction=True)


class OnRabbitMQ(Beat):
    @cached_property
    def connection(self) -> Connection:
        return Connection(
            os.environ["RABBITMQ_URL"],
            transport_options={"confirm_publish": True},
            connect_timeout=30,
        )


@pytest.fixture
def queues() -> list[str]:
    """Names for queues of this test's own."""
    PeriodicTask.objects.all().delete()
    return [f"scheduling-{uuid4()}" for _ in range(3)]


@pytest.fixture
def beat(queues: list[str]) -> Iterator[Beat]:
    """A beat with ten runs that are due, in two of the queues."""
    with time_machine.travel(NOON, tick=False) as clock:
        for number in range(10):
            make(f"Row {number}", changed=NOON, queue=queues[number % 2], **every(1, "hours"))
        beat = OnRabbitMQ()
        beat.run()
        clock.shift(HOUR)
        yield beat
    for queue in queues:
        beat.producer.channel.queue_delete(queue)
    beat.close()


def waiting(beat: Beat, queue: str) -> int:
    with beat.connection.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).message_count)


def unsent() -> set[str]:
    return set(PeriodicTask.objects.filter(total_run_count=0).values_list("name", flat=True))


def test_all_are_confirmed_in_one_wait(
    beat: Beat, queues: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches_sent = []
    publish = batches._publish_confirmed

    def note(channel: Any, messages: Any) -> Any:
        batches_sent.append(len(messages))
        return publish(channel, messages)

    monkeypatch.setattr(batches, "_publish_confirmed", note)
    beat.run()
    assert batches_sent == [10]
    assert [waiting(beat, queue) for queue in queues[:2]] == [5, 5]
    assert not unsent()


def test_a_confirm_that_comes_while_others_are_published_counts(
    beat: Beat, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = amqp.Channel.basic_publish

    def slowly(self: Any, *args: Any, **kwargs: Any) -> Any:
        publish(self, *args, **kwargs)
        self.connection.transport.sock.recv(1, MSG_PEEK)  # until its confirm is there

    monkeypatch.setattr(amqp.Channel, "basic_publish", slowly)
    beat.run()
    assert not unsent()


def test_what_rabbitmq_does_not_confirm_is_put_off_alone(
    beat: Beat, queues: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that is full, and refuses what comes."""
    full = Queue(
        queues[1],
        current_app.amqp.default_exchange,
        routing_key=queues[1],
        queue_arguments={"x-max-length": 2, "x-overflow": "reject-publish"},
    )
    monkeypatch.setitem(current_app.amqp.queues, queues[1], full)
    beat.run()
    assert [waiting(beat, queue) for queue in queues[:2]] == [5, 2]
    assert unsent() == {"Row 5", "Row 7", "Row 9"}
    assert set(Run.objects.values_list("schedule", flat=True)).isdisjoint(unsent())


def test_an_exchange_that_is_missing_is_one_rows_fault(beat: Beat, queues: list[str]) -> None:
    PeriodicTask.objects.filter(name="Row 4").update(
        queue=None, exchange=f"missing-{uuid4()}", routing_key="a"
    )
    beat.run()
    assert [waiting(beat, queue) for queue in queues[:2]] == [4, 5]
    assert unsent() == {"Row 4"}
    assert not Run.objects.filter(schedule="Row 4").exists()


def test_a_connection_that_dies_before_the_confirms_leaves_no_trace(
    beat: Beat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.connection.transport.sock.close()
        raise ConnectionResetError("It died.")

    with monkeypatch.context() as patch:
        patch.setattr(amqp.Channel, "basic_publish", die)
        beat.tick()
    assert len(unsent()) == 10
    assert not Run.objects.exists()

    beat.run()
    assert not unsent()
