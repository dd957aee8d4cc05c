"""The Redis transport, on an embedded broker of the test's own."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from redis import Redis
from redis.exceptions import OutOfMemoryError

from scheduling.broker import server as broker

QUEUES = [Queue(name, Exchange("tests"), name) for name in ("first", "second")]


@pytest.fixture
def options() -> dict[str, Any]:
    return {}


@pytest.fixture
def connection(tmp_path: Path, options: dict[str, Any]) -> Iterator[Any]:
    with Connection(broker.url(tmp_path), transport_options=options) as connection:
        connection.connect()
        yield connection
    broker.stop_if_idle(tmp_path)


@pytest.fixture
def server(connection: Any, tmp_path: Path) -> Iterator[Redis]:
    with Redis(unix_socket_path=str(broker.socket_path(tmp_path))) as server:
        yield server


def put(connection: Any, *bodies: Any, queue: Queue = QUEUES[0], **options: Any) -> None:
    with connection.channel() as channel:
        producer = connection.Producer(channel)
        for body in bodies:
            producer.publish(body, declare=[queue], routing_key=queue.name, **options)


@contextmanager
def consumer(connection: Any, no_ack: bool = False) -> Iterator[list[Any]]:
    """What a consumer gets of all queues; it has one message at a time."""
    taken: list[Any] = []

    def receive(body: Any, message: Any) -> None:
        taken.append(body)
        if not no_ack:
            message.ack()

    with connection.channel() as channel:
        channel.basic_qos(0, 1, False)
        with Consumer(channel, QUEUES, callbacks=[receive], no_ack=no_ack):
            yield taken


def take(connection: Any, count: int, no_ack: bool = False) -> list[Any]:
    with consumer(connection, no_ack) as taken:
        while len(taken) < count:
            connection.drain_events(timeout=10)
    return taken


def unacknowledged(server: Redis) -> tuple[int, int]:
    return server.hlen("unacked"), server.zcard("unacked_index")


def test_messages_come_in_order_and_leave_nothing(connection: Any, server: Redis) -> None:
    put(connection, *range(100))
    assert take(connection, 100) == list(range(100))
    assert server.keys("unacked*") == []


def test_replies_are_not_kept_for_an_acknowledgement(connection: Any, server: Redis) -> None:
    """As those to ``celery inspect``."""
    put(connection, "reply")
    assert take(connection, 1, no_ack=True) == ["reply"]
    assert unacknowledged(server) == (0, 0)


@pytest.mark.parametrize("to", [{}, {"priority": 9}, {"queue": QUEUES[1]}])
def test_one_that_waits_gets_what_comes(connection: Any, to: dict[str, Any], server: Redis) -> None:
    def put_when_waiting() -> None:
        while not any("blmove" in client["cmd"] for client in server.client_list()):
            time.sleep(0.01)
        put(other, "awaited", **to)

    with connection.clone() as other:
        thread = threading.Thread(target=put_when_waiting)
        thread.start()
        assert take(connection, 1) == ["awaited"]
        thread.join()


def test_the_more_urgent_comes_first(connection: Any) -> None:
    put(connection, "later", priority=9)
    put(connection, "sooner", priority=0)
    assert take(connection, 2) == ["sooner", "later"]


def test_what_a_killed_consumer_did_not_read_is_delivered_again(
    connection: Any, server: Redis
) -> None:
    """As at a kill -9: what Redis has answered is in a socket that nobody reads."""
    put(connection, "kept")
    killed = connection.channel()
    Consumer(killed, QUEUES).consume()
    connection.transport.cycle.on_poll_start()
    assert killed.client.connection.can_read(timeout=10)
    assert server.llen("first") == 0
    assert unacknowledged(server) == (1, 1)
    killed.client.connection.disconnect()

    with connection.clone(transport_options={"visibility_timeout": 0}) as other:
        other.default_channel.qos.restore_visible()
        assert take(other, 1) == ["kept"]


def test_a_full_consumer_takes_nothing(connection: Any, server: Redis) -> None:
    """Not even if it waited for one when it became full, as at the end of a retry's waiting."""
    with connection.channel() as channel:
        with Consumer(channel, QUEUES, callbacks=[lambda body, message: None]):
            channel.basic_qos(0, 2, False)
            put(connection, "first")
            connection.drain_events(timeout=10)
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.1)
            channel.basic_qos(0, 1, False)
            put(connection, "second")
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=1)
            assert server.llen("first") == 1
            assert unacknowledged(server) == (1, 1)


def test_a_full_server_can_be_emptied_and_waited_for(connection: Any, server: Redis) -> None:
    put(connection, "first", "second")
    with consumer(connection) as taken:
        server.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            put(connection, "refused")
        while len(taken) < 2:
            connection.drain_events(timeout=10)
        assert unacknowledged(server) == (0, 0)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=1)
        server.config_set("maxmemory", 0)
        put(connection, "third")
        connection.drain_events(timeout=10)
    assert taken == ["first", "second", "third"]


@pytest.mark.parametrize("options", [{"global_keyprefix": "portal:"}])
def test_keys_may_have_a_prefix(connection: Any, server: Redis) -> None:
    put(connection, "prefixed", queue=QUEUES[1])
    assert server.llen("portal:second") == 1
    assert take(connection, 1) == ["prefixed"]
    assert server.keys("*unacked*") == []


def test_what_the_script_cannot_note_is_noted_all_the_same(connection: Any, server: Redis) -> None:
    """Half a character, which is JSON as Python writes it, and none as Redis reads it."""
    put(connection, "odd", headers={"name": "\ud800"})
    with connection.channel() as channel:
        with Consumer(channel, QUEUES, callbacks=[lambda body, message: None]):
            connection.drain_events(timeout=10)
            assert unacknowledged(server) == (1, 1)


def test_what_is_not_acknowledged_goes_back_when_the_connection_is_lost(
    connection: Any, server: Redis
) -> None:
    """As a worker ends a connection: it lets go of it first."""
    put(connection, "kept")
    with connection.clone() as lost:
        Consumer(lost.channel(), QUEUES, callbacks=[lambda body, message: None]).consume()
        lost.drain_events(timeout=10)
        server.client_kill_filter(_type="normal", skipme=True)
        lost.collect()
    assert unacknowledged(server) == (0, 0)
    assert take(connection, 1) == ["kept"]


def test_what_is_no_message_stands_in_nobodys_way(connection: Any, server: Redis) -> None:
    put(connection, "good")
    server.rpush("first", "bad")
    with pytest.raises(ValueError, match="Expecting value"):
        take(connection, 1)
    assert take(connection, 1) == ["good"]
