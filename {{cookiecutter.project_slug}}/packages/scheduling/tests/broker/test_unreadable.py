"""What kombu cannot read reaches the consumer, which can acknowledge it."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue
from redis import Redis

from scheduling.broker import server as broker
from scheduling.broker.unreadable import KEPT, frame_handler


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
def server(connection: Any, tmp_path: Path) -> Iterator["Redis"]:
    with Redis(unix_socket_path=str(broker.socket_path(tmp_path))) as server:
        yield server


def message(**parts: Any) -> dict[str, Any]:
    """A message as kombu writes it, with other parts."""
    properties = {
        "delivery_tag": "a-tag",
        "delivery_info": {"exchange": "", "routing_key": "queue"},
        "body_encoding": "base64",
    }
    return {
        "body": base64.b64encode(b"text").decode(),
        "headers": {"task": "some.task"},
        "content-type": "text/plain",
        "content-encoding": "utf-8",
        "properties": properties | parts.pop("properties", {}),
    } | parts


def without(name: str) -> dict[str, Any]:
    text = message()
    (text if name in text else text["properties"]).pop(name)
    return text


BROKEN: list[Any] = [
    *(b"", b"garbage", b"\xff\xfe\0", b"[" * 100_000, "é" * 10_000),
    *(None, 5, "text", [], {}, {"__type__": "uuid", "__value__": 5}),
    *(without("properties"), without("delivery_tag"), without("delivery_info")),
    *(message(headers=headers) for headers in ("task", ["task"], 5)),
    *(message(body=body) for body in ("abc", 5, ["a"], {"a": 1})),
    *(message() | {"properties": wrong} for wrong in (None, 5, ["a"], dict[str, Any]())),
    *(message(properties={"delivery_tag": tag}) for tag in (None, 5, ["a"], {"a": 1})),
    *(message(properties={"body_encoding": name}) for name in ("rot13", 5, ["a"])),
    *(message(properties={"delivery_info": wrong}) for wrong in (None, 5, ["a"], dict[str, Any]())),
    message(properties={"delivery_info": {"exchange": 5, "routing_key": ["a"]}}),
    message(properties={"delivery_info": {"exchange": "", "routing_key": ""}}),
]


@pytest.mark.parametrize("options", [{}, {"global_keyprefix": "shop:"}], ids=["", "prefix"])
def test_what_is_no_message_is_delivered_as_one_without_headers(
    connection: Any, server: "Redis", options: dict[str, Any]
) -> None:
    prefix = options.get("global_keyprefix", "")
    taken: list[Any] = []
    for text in BROKEN:
        raw = text if isinstance(text, bytes) else json.dumps(text)
        server.lpush(f"{prefix}queue", raw)
    server.lpush(f"{prefix}queue", json.dumps(message()))

    with Consumer(connection.channel(), [Queue("queue")], on_message=taken.append):
        for _ in range(len(BROKEN) + 1):
            connection.drain_events(timeout=10)

    *broken, good = taken
    assert [each.headers for each in broken] == [{}] * len(BROKEN)
    assert {each.delivery_info["routing_key"] for each in broken} == {"queue"}
    assert all(len(each.body) <= 4 * KEPT for each in broken)
    assert broken[1].body == b"garbage"
    assert (good.payload, good.headers) == ("text", {"task": "some.task"})
    assert server.hlen(f"{prefix}unacked") == len(BROKEN) + 1
    for each in taken:
        each.reject()
    assert not server.exists(f"{prefix}unacked", f"{prefix}unacked_index")


@pytest.mark.parametrize(
    "parts",
    [
        {"headers": None},
        {"body": None},
        {"properties": {"body_encoding": None}, "body": "plain"},
        {"properties": {"delivery_info": {"exchange": "events", "routing_key": ""}}},
        {"content-type": None, "content-encoding": 5},
    ],
)
def test_what_kombu_reads_is_delivered_as_it_is(
    connection: Any, server: "Redis", parts: dict[str, Any]
) -> None:
    taken: list[Any] = []
    server.lpush("queue", json.dumps(message(**parts)))

    with Consumer(connection.channel(), [Queue("queue")], on_message=taken.append):
        connection.drain_events(timeout=10)

    assert taken[0].delivery_tag == "a-tag"


# RabbitMQ

CORRELATION_ID, HEADERS = b"\x04\x00", b"\x20\x00"  # flags


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def table(name: bytes, value: bytes) -> bytes:
    return pack(">I", len(short(name) + value)) + short(name) + value


def deliver(properties: bytes, body: bytes, receive: Callable[..., Any]) -> None:
    """Hand py-amqp the frames of a message."""
    on_frame = frame_handler(SimpleNamespace(bytes_recv=0), receive)
    on_frame((1, 1, pack(">HH", 60, 60) + b"where it came from"))
    on_frame((2, 1, pack(">HxxQ", 60, len(body)) + properties))
    if body:
        on_frame((3, 1, body))


@pytest.mark.parametrize("body", [b"text", b""])
@pytest.mark.parametrize(
    "properties",
    [
        CORRELATION_ID + short(b"\xff\xfe"),
        HEADERS + table(b"when", b"T" + pack(">Q", 2**61)),  # a time in milliseconds, or worse
        HEADERS + table(b"what", b"?"),
        HEADERS + pack(">I", 1_000),
        b"",
    ],
)
def test_properties_that_cannot_be_read_are_left_out(properties: bytes, body: bytes) -> None:
    taken: list[Any] = []

    deliver(properties, body, lambda *delivered: taken.append(delivered))

    ((channel, method, arguments, received),) = taken
    assert (channel, method, arguments[4:]) == (1, (60, 60), b"where it came from")
    assert (received.properties, received.body) == ({}, body or "")


@pytest.mark.parametrize("body", [b"text", b""])
def test_properties_that_can_be_read_are_there(body: bytes) -> None:
    taken: list[Any] = []

    deliver(
        HEADERS + table(b"task", b"S" + pack(">I", 4) + b"some"),
        body,
        lambda *delivered: taken.append(delivered[-1]),
    )

    (received,) = taken
    assert received.properties == {"application_headers": {"task": "some"}}


@pytest.mark.parametrize("body", [b"text", b""])
def test_what_a_receiver_raises_is_raised_once(body: bytes) -> None:
    taken: list[Any] = []

    def receive(*delivered: Any) -> None:
        taken.append(delivered)
        raise OSError("The connection is lost.")

    with pytest.raises(OSError, match="is lost"):
        deliver(CORRELATION_ID + short(b"an-id"), body, receive)

    assert len(taken) == 1
