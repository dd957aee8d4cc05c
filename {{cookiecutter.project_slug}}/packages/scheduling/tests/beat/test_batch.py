"""A batch at a real Redis: all of it or nothing, and what Redis refuses holds up nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import time_machine
from celery import current_app
from django_celery_beat.models import PeriodicTask
from kombu import Connection, Queue
from kombu.utils.objects import cached_property
from redis.connection import AbstractConnection

from scheduling.beat.scheduler import REFUSED_RUN_RETRY
from scheduling.broker import server
from scheduling.models import Run
from tests.beat.in_process import Beat
from tests.factories import HOUR, NOON, every, make

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


@pytest.fixture
def beat(tmp_path: Path, clock: time_machine.Traveller) -> Iterator[Beat]:
    """A beat with five runs that are due, each with a queue of its own."""

    class OnRedis(Beat):
        @cached_property
        def connection(self) -> Connection:
            return Connection(server.url(tmp_path))

    server.start(tmp_path)
    for number in range(5):
        make(f"Row {number}", changed=NOON, queue=f"queue {number}", **every(1, "hours"))
    beat = OnRedis()
    beat.run()
    clock.shift(HOUR)
    yield beat
    beat.close()
    server.stop_if_idle(tmp_path)


def client(beat: Beat) -> Any:
    channel: Any = beat.connection.default_channel
    return channel.client


def waiting(beat: Beat) -> list[int]:
    """How many messages are in each queue that is one."""
    keys = [f"queue {number}" for number in range(5)]
    return [client(beat).llen(key) for key in keys if client(beat).type(key) != b"string"]


def test_a_batch_is_one_call(beat: Beat, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    send: Any = AbstractConnection.send_packed_command

    def note(self: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(b"".join(command))
        return send(self, command, *args, **kwargs)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", note)
    beat.run()
    assert waiting(beat) == [1] * 5
    [call] = [call for call in calls if b"LPUSH" in call]
    assert call.count(b"LPUSH") == 5


def test_what_redis_refuses_is_put_off_alone(beat: Beat, clock: Any) -> None:
    """Another program has taken the key of a queue for a text, after beat has declared the queue."""
    beat.run()
    before = PeriodicTask.objects.get(name="Row 2")
    client(beat).set("queue 2", "a text")
    clock.shift(HOUR)
    beat.run()
    assert waiting(beat) == [2] * 4
    others = PeriodicTask.objects.exclude(name="Row 2")
    assert set(others.values_list("total_run_count", flat=True)) == {2}
    after = PeriodicTask.objects.get(name="Row 2")
    assert (after.last_run_at, after.total_run_count) == (before.last_run_at, 1)
    assert Run.objects.count() == 9

    client(beat).delete("queue 2")
    clock.shift(REFUSED_RUN_RETRY)
    beat.run()
    assert waiting(beat) == [2, 2, 1, 2, 2]
    assert Run.objects.count() == 10


@pytest.mark.parametrize(("sent", "doubled"), [(0.5, 0), (1, 1)])
def test_a_connection_that_dies_loses_nothing(
    beat: Beat, monkeypatch: pytest.MonkeyPatch, sent: float, doubled: int
) -> None:
    """In the middle of the push, nothing is there; before the answer, all is, and comes again."""
    send: Any = AbstractConnection.send_packed_command

    def die(self: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
        text = b"".join(command)
        if b"LPUSH" not in text:
            return send(self, command, *args, **kwargs)
        self._sock.sendall(text[: int(sent * len(text))])
        if sent == 1:
            self._sock.recv(1)  # Redis has it all
        self.disconnect()
        raise redis.ConnectionError("It died.")

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", die)
        beat.tick()
    assert waiting(beat) == [doubled] * 5
    assert not Run.objects.exists()
    assert not PeriodicTask.objects.exclude(total_run_count=0).exists()

    beat.run()
    assert waiting(beat) == [1 + doubled] * 5
    assert set(PeriodicTask.objects.values_list("total_run_count", flat=True)) == {1}


def test_a_queue_that_expires_is_in_the_batch(beat: Beat, monkeypatch: pytest.MonkeyPatch) -> None:
    """kombu sets the expiry of such a queue with each message."""
    exchange = current_app.amqp.default_exchange
    expiring = Queue("queue 1", exchange, routing_key="queue 1", expires=60)
    monkeypatch.setitem(current_app.amqp.queues, "queue 1", expiring)
    beat.run()
    assert waiting(beat) == [1] * 5
    assert client(beat).pttl("queue 1") > 0
    assert client(beat).pttl("queue 2") == -1
