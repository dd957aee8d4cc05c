"""Puts broken messages into a service's queue, and good ones between them. Prints the good names.

python broken_messages.py SEED COUNT, in the environment and folder of a service with a task `note`.
"""

import base64
import copy
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import amqp
import django
import kombu
from redis import Redis

TASK = "application.tasks.note"
GOOD_EVERY = 50  # broken messages


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: list[Any] = [
    *(None, True, 0, -1, 5, 1.5, 10**9, 2**62),
    *("", "x", "5", "\x1b[31m\0\n", "é" * 300, "2026-13-01", "0001-01-01T00:00:00", "utf-16"),
    *([], [5], [[5]], ["a"], [{"a": 1}], [5, "x"], ["x", 5], [-1, None], [None, None, None]),
    *({}, {"a": 1}, {"a": ["b"]}, {"task": "x"}, {"__type__": "uuid", "__value__": 5}),
]
TEXTS = [
    b"",
    b"\xff\xfe\0",
    b"garbage",
    b"null",
    b"5",
    b"[]",
    b"{}",
    b'{"properties": {}}',
    b"[" * 5_000,
]
EMBEDDED = ["callbacks", "errbacks", "chain", "chord", "id", "retries", "delivery_info"]
MORE_HEADERS = ["compression", "headers", "update", "x", "scheduled_for", "periodic_task_name"]
Message = dict[str, Any]  # as kombu writes it into Redis


def good(app: Any, name: str, random: Random) -> Message:
    task_id, tag = (str(UUID(int=random.getrandbits(128))) for _ in range(2))
    sent = app.amqp.as_task_v2(task_id, TASK, (name,), {}, ignore_result=True)
    return {
        "headers": dict(sent.headers),
        "body": json.dumps(sent.body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "properties": {
            "correlation_id": task_id,
            "reply_to": "",
            "delivery_mode": 2,
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": tag,
            "delivery_info": {"exchange": "", "routing_key": app.conf.task_default_queue},
        },
    }


def spoil(message: Message, random: Random) -> None:
    """Change one thing in place."""
    place = random.choice(["header", "header", "body", "text", "content", "deep"])
    if place == "header":
        change_one(message["headers"], MORE_HEADERS, random)
    elif place == "body":
        body = json.loads(message["body"])
        match random.randrange(4):
            case 0:
                body[random.randrange(3)] = random.choice(VALUES)
            case 1:
                change_one(body[2], EMBEDDED, random)
            case 2:
                body = body[: random.randrange(3)]
            case 3:
                body = random.choice(VALUES)
        message["body"] = json.dumps(body)
    elif place == "text":
        message["body"] = message["body"][: random.randrange(len(message["body"]))]
    elif place == "content":
        message[random.choice(["content-type", "content-encoding"])] = random.choice(VALUES)
    else:
        message["body"] = json.dumps([["x", deep(random.choice([250, 400, 600]))], {}, {}])


def change_one(values: dict[str, Any], more: list[str], random: Random) -> None:
    name = random.choice([*values, *more])
    if random.random() < 0.3:
        values.pop(name, None)
    else:
        values[name] = random.choice(VALUES)


def put_into_redis(client: "Redis", queue: str, message: Message, random: Random | None) -> None:
    """As it is, or with what only a message in Redis can have wrong."""
    message["body"] = base64.b64encode(message["body"].encode()).decode()
    text = None
    match random.randrange(8) if random else None:
        case 0:
            change_one(message["properties"], [], random)
        case 1:
            change_one(message["properties"]["delivery_info"], [], random)
        case 2:
            change_one(message, [], random)
        case 3:
            text = random.choice(TEXTS)
        case 4:
            text = json.dumps(message).encode()
            text = text[: random.randrange(len(text))]
        case 5:
            text = bytearray(json.dumps(message).encode())
            text[random.randrange(len(text))] = random.randrange(256)
            text = bytes(text)
    client.lpush(queue, json.dumps(message) if text is None else text)


class Raw(amqp.Message):
    """A message whose properties are given as bytes."""

    raw = b""

    def _serialize_properties(self) -> bytes:
        return self.raw


def put_into_rabbitmq(channel: Any, queue: str, message: Message, random: Random | None) -> None:
    """As it is, or with properties that py-amqp cannot read."""
    text = {
        name: value
        for name in ("content-type", "content-encoding")
        if isinstance(value := message[name], str) and len(value.encode()) < 256
    }
    body = message["body"].encode()
    sent = amqp.Message(
        body,
        application_headers=message["headers"],
        **{name.replace("-", "_"): value for name, value in text.items()},
    )
    match random.randrange(20) if random else None:
        case 0:  # a correlation id that is no UTF-8
            sent = Raw(body)
            sent.raw = b"\x04\x00" + b"\x03\xff\xfe\xfd"
        case 1:  # a header with a time in milliseconds
            sent = Raw(body)
            sent.raw = b"\x20\x00" + b"\0\0\0\x0b" + b"\x01tT" + (2**61).to_bytes(8, "big")
    channel.basic_publish(sent, exchange="", routing_key=queue)


def messages(app: Any, seed: int, count: int) -> Iterator[tuple[Message, Random | None]]:
    """Good ones, each with None, and broken ones, each with the source of their chances."""
    random = Random(seed)
    for number in range(count):
        if not number % GOOD_EVERY:
            yield good(app, f"good-{number}", random), None
        broken = good(app, f"broken-{number}", random)
        for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
            with_one_more = copy.deepcopy(broken)
            try:
                spoil(with_one_more, random)
            except (TypeError, ValueError, KeyError, AttributeError, IndexError):
                continue  # what was spoiled before cannot be spoiled so
            broken = with_one_more
        yield broken, random
    yield good(app, "good-last", random), None


def main(seed: int, count: int) -> None:
    sys.path.insert(0, os.getcwd())
    project = Path.cwd().name
    os.environ["DJANGO_SETTINGS_MODULE"] = f"{project}.settings"
    django.setup()
    app = import_module(f"{project}.celery").app
    queue = app.conf.task_default_queue
    with kombu.Connection(app.conf.broker_url) as connection:
        for message, random in messages(app, seed, count):
            if random is None:
                print(json.loads(message["body"])[0][0])
            if connection.transport.driver_type == "redis":
                put_into_redis(connection.default_channel.client, queue, message, random)
            else:
                put_into_rabbitmq(connection.default_channel, queue, message, random)


main(int(sys.argv[1]), int(sys.argv[2]))
