"""A task whose ETA Redis cannot hold is refused where it is sent; all else is as kombu does it."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import celery
import pytest
from celery import Celery, current_app
from celery.app.trace import build_tracer
from celery.exceptions import Reject
from kombu import Connection, Consumer, Queue
from kombu.transport import TRANSPORT_ALIASES

from scheduling.broker import server as broker
from scheduling.broker.waiting import LongWait

TIMEOUT = 600  # seconds


def work() -> None:
    """Do nothing."""


def try_again(self: Any) -> None:
    self.retry(countdown=1000)


@pytest.fixture
def app(tmp_path: Any) -> Iterator[Any]:
    app: Any = Celery("tests.waiting", set_as_current=False, broker=broker.url(tmp_path))
    with app:
        app.conf.broker_transport_options = {"visibility_timeout": TIMEOUT}
        app.task(work, name="tests.plain")
        app.task(work, name="tests.limited", time_limit=100)
        app.task(work, name="tests.unlimited", time_limit=TIMEOUT + 1)
        app.task(try_again, name="tests.retried", bind=True)
        yield app
    broker.stop_if_idle(tmp_path)


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


CANVAS: Any = celery  # its types take no app
WAYS = {
    "countdown": lambda task: task.apply_async(countdown=1000),
    "eta": lambda task: task.apply_async(eta=in_seconds(1000)),
    "eta without a zone": lambda task: task.apply_async(eta=in_seconds(1000).replace(tzinfo=None)),
    "send_task": lambda task: task.app.send_task("other.task", countdown=1000),
    "signature": lambda task: task.signature(countdown=1000).delay(),
    "group": lambda task: CANVAS.group(task.s(), task.s(), app=task.app).apply_async(
        countdown=1000
    ),
    "chain": lambda task: CANVAS.chain(task.si(), task.si(), app=task.app).apply_async(
        countdown=1000
    ),
    "limited": lambda task: task.app.tasks["tests.limited"].apply_async(countdown=550),
    "limited here": lambda task: task.apply_async(countdown=550, time_limit=100),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_long_wait_is_refused(app: Any, way: str) -> None:
    with pytest.raises(LongWait, match="was not sent: it waits") as raised:
        WAYS[way](app.tasks["tests.plain"])

    assert isinstance(raised.value, ValueError)
    assert "visibility_timeout, 600 s" in str(raised.value)
    assert "Use scheduling.run_at(task, when)" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "countdown"),
    [
        ("tests.plain", 0),
        ("tests.plain", 590),
        ("tests.plain", -1000),
        ("tests.limited", 490),
        ("tests.unlimited", 590),
    ],
)
def test_a_short_wait_is_sent(app: Any, name: str, countdown: int) -> None:
    app.tasks[name].apply_async(countdown=countdown)

    with app.connection_for_read() as connection:
        assert connection.SimpleQueue("celery").qsize() == 1


def test_a_limit_of_all_tasks_counts(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(current_app.conf, "task_time_limit", 100)

    with pytest.raises(LongWait, match=r"it waits 5\d\d s and may run for 100 s"):
        app.tasks["tests.plain"].apply_async(countdown=550.5)


def test_a_retry_after_too_long_ends_the_run(app: Any) -> None:
    """Celery itself writes a failure for it: see Request.on_failure."""
    task = app.tasks["tests.retried"]
    trace = build_tracer(task.name, task, app=app)

    message = {"delivery_info": {}, "id": "an-id", "retries": 0}
    ended: Any = trace("an-id", [], {}, message)

    assert ended.info.state == "REJECTED"
    rejected: Any = ended.info.retval
    assert isinstance(rejected, Reject)
    assert isinstance(rejected.args[0], LongWait)


def test_a_message_that_is_no_task_is_sent(app: Any) -> None:
    with app.connection_for_write() as connection:
        queue = connection.SimpleQueue("mine")
        queue.put({"a": 1})

        assert queue.qsize() == 1


def hand_to_hand(path: Path, transport: str, to: dict[str, Any]) -> float:
    """Seconds from sending to a consumer of two queues that waits, the median."""
    took: list[float] = []

    def receive(sent_at: float, message: Any) -> None:
        message.ack()
        took.append(time.perf_counter() - sent_at)
        received.set()

    def send() -> None:
        with connection.clone() as other, other.Producer() as producer:
            for _ in range(10):
                time.sleep(0.05)  # until the consumer waits
                received.clear()
                producer.publish(time.perf_counter(), **to)
                received.wait(10)

    received = threading.Event()
    sender = threading.Thread(target=send)
    queues = [Queue("one"), Queue("two")]
    connection: Any = Connection(f"redis+socket://{path}")
    connection.transport_cls = transport
    with connection:
        with Consumer(connection, queues, callbacks=[receive]):
            sender.start()
            while len(took) < 10:
                connection.drain_events(timeout=10)
            sender.join()
    return median(took)


@pytest.mark.parametrize(
    "to", [{"routing_key": "two"}, {"routing_key": "one", "priority": 6}], ids=str
)
def test_a_waiting_consumer_gets_a_message_as_soon_as_from_kombus_transport(
    tmp_path: Path, to: dict[str, Any]
) -> None:
    broker.start(tmp_path)
    path = broker.socket_path(tmp_path)

    with broker.connect(path) as client:  # without any, the server ends
        client.ping()
        ours = hand_to_hand(path, TRANSPORT_ALIASES["redis"], to)
        kombus = hand_to_hand(path, "kombu.transport.redis:Transport", to)

    broker.stop_if_idle(tmp_path)
    assert ours < 5 * kombus + 0.02, f"{ours:.3f} s and {kombus:.3f} s"
