"""A worker puts aside what it cannot read, and goes on."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, signals
from celery.contrib.testing.worker import TestWorkController
from celery.worker import state as worker_state
from django.db import DatabaseError
from kombu import Connection, Message

from scheduling import defaults
from scheduling.models import Counter


@pytest.fixture
def done() -> "SimpleQueue[str]":
    return SimpleQueue()


@pytest.fixture
def app(done: "SimpleQueue[str]", monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # What a worker changes in its process is as it was, for the other tests.
    monkeypatch.setattr("celery._state._task_join_will_block", False)
    for signal in (signals.worker_init, signals.worker_process_init):
        monkeypatch.setattr(signal, "receivers", [])
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)  # Celery prefers it to the argument
    app: Any = Celery("tests.consumer", set_as_current=False, broker="memory://")
    app.config_from_object(defaults, namespace="CELERY")
    app.conf.task_default_queue = str(uuid4())
    app.conf.broker_transport_options = {"polling_interval": 0.05}  # seconds
    app.conf.result_backend = "cache+memory://"

    @app.task(name="tests.note", shared=False)  # type: ignore[untyped-decorator]
    def note(name: str) -> None:
        done.put(name)

    with app:
        yield app


@contextmanager
def worker(app: Any) -> Iterator[Any]:
    """A worker in a thread, which has stopped in the end. Yields its Consumer."""
    controller: Any = TestWorkController(
        app=app,
        pool="solo",
        concurrency=1,
        loglevel="ERROR",
        without_heartbeat=True,
        without_mingle=True,
        without_gossip=True,
    )

    def run() -> None:
        app.set_current()  # in this thread: the solo pool runs the tasks of the current app
        controller.start()

    state: Any = worker_state  # its stubs know one kind of "no"
    thread = Thread(target=run)
    thread.start()
    controller.ensure_started()
    try:
        yield controller.consumer
    finally:
        state.should_stop = 0
        for _ in range(2):
            put(app)  # it waits 2 s for a message, twice, before it ends
        thread.join(30)
        state.should_stop = None
        assert not thread.is_alive()


def put(app: Any, change: Callable[[dict[str, Any]], None] = lambda message: None) -> None:
    """Put a message into the queue, after a change to it."""
    sent = app.amqp.as_task_v2("an-id", "tests.note", ("done",), {})
    message: dict[str, Any] = {"headers": dict(sent.headers), "body": json.dumps(sent.body)}
    message |= {"content-type": "application/json", "content-encoding": "utf-8"}
    change(message)
    with Connection("memory://") as broker:
        broker.Producer().publish(
            message["body"].encode(),
            routing_key=app.conf.task_default_queue,
            headers=message["headers"],
            content_type=message["content-type"],
            content_encoding=message["content-encoding"],
        )


def header(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda message: message["headers"].update(values)


def part(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda message: message.update({name: value})


def without_id(message: dict[str, Any]) -> None:
    del message["headers"]["id"]


BROKEN: dict[str, Callable[[dict[str, Any]], None]] = {
    "a time limit that is no pair": header(timelimit="x"),
    "no id": without_id,
    "an id that is a list": header(id=["a"]),
    "a task that is an object": header(task={"a": 1}),
    "a task that is none, without an id": lambda m: m.update(headers={"task": "none"}),
    "a task that is none, with a list as id": header(task="none", id=["a"]),
    "an ETA that is no time": header(eta="x"),
    "an ETA that is empty": header(eta=""),
    "a compression that is unknown": header(compression="x"),
    "no headers": part("headers", {}),
    "a body that is no JSON": part("body", "{"),
    "a body that a terminal obeys": lambda m: m.update(
        headers={}, body="\x1b[31mgarbage\n" + "é" * 10_000
    ),
    "a body of nothing": part("body", ""),
    "a body that is null": part("body", "null"),
    "a body that nests without end": part("body", "[" * 100_000),
    "a body of the first protocol, with a list as id": lambda m: m.update(
        headers={}, body='{"task": "tests.note", "id": ["a"], "args": [], "kwargs": {}}'
    ),
    "a body of the first protocol, for an object": lambda m: m.update(
        headers={}, body='{"task": {"a": 1}, "id": "x"}'
    ),
    "a content type that is not accepted": part("content-type", "application/x-python-serialize"),
    "a content type that is a list": part("content-type", ["a"]),
    "an encoding that is a number": part("content-encoding", 5),
}


@pytest.mark.django_db(transaction=True)
def test_what_cannot_be_read_is_put_aside_said_and_counted(
    app: Any, done: "SimpleQueue[str]", caplog: pytest.LogCaptureFixture
) -> None:
    rejected: list[Any] = []
    receiver = signals.task_rejected.connect(lambda message, **_: rejected.append(message))
    for change in BROKEN.values():
        put(app, change)
    put(app)

    with worker(app):
        assert done.get(timeout=30) == "done"
    signals.task_rejected.disconnect(receiver)

    said = [r.getMessage() for r in caplog.records if "Put aside a message" in r.getMessage()]
    assert len(said) == len(rejected) == len(BROKEN), "\n".join(said)
    assert any("garbage" in text for text in said)
    assert all(text.isprintable() and text.isascii() and len(text) < 1_000 for text in said)
    assert Counter.objects.get(name=Counter.UNREADABLE).value == len(BROKEN)


@pytest.mark.django_db(transaction=True)
def test_the_count_waits_for_a_database_that_is_away(
    app: Any,
    done: "SimpleQueue[str]",
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add, away = Counter.add, [True, False]

    def add_later(*args: Any) -> None:
        if away.pop(0):
            put(app)
            raise DatabaseError("It is away.")
        add(*args)

    monkeypatch.setattr(Counter, "add", add_later)
    put(app, header(id=["a"]))

    with worker(app):
        done.get(timeout=30)

    assert "1 messages that cannot be read are not counted yet: It is away." in caplog.text
    assert Counter.objects.get(name=Counter.UNREADABLE).value == 1


@pytest.mark.django_db(transaction=True)
def test_what_wants_no_answer_gets_none(app: Any, caplog: pytest.LogCaptureFixture) -> None:
    """RabbitMQ would close the channel of the events, or of remote control."""
    answers: list[str] = []
    channel = SimpleNamespace(
        no_ack_consumers={"events"}, basic_reject=lambda tag, requeue: answers.append(tag)
    )

    def event(consumer_tag: str) -> Any:
        info = {"routing_key": "worker.x", "consumer_tag": consumer_tag}
        content: Any = {"body": "[]", "content_type": "application/json", "delivery_info": info}
        return Message(delivery_tag=consumer_tag, channel=channel, **content)

    with worker(app) as consumer:
        consumer.gossip.on_message(lambda body: body, event("events"))
        consumer.on_decode_error(event("events"), ValueError())
        consumer.on_decode_error(event("tasks"), ValueError())

    assert answers == ["tasks"]
    assert caplog.text.count("Put aside a message that cannot be read") == 3
