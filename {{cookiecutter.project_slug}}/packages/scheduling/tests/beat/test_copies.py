"""A copy is equal to what Celery builds, and where somebody else has a say, Celery builds."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest
import time_machine
from celery import Celery, Task, current_app, shared_task, signals
from celery.app.routes import prepare
from celery.beat import Scheduler
from django_celery_beat.models import PeriodicTask
from kombu import Connection, Producer
from kombu.transport import pyamqp

from scheduling.beat.batch import Batch
from scheduling.messages import RunMessage, run_id
from scheduling.models import Trigger
from tests.beat.in_process import Beat
from tests.factories import HOUR, NOON
from tests.project.tasks import remind


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


class Overriding(Task):  # type: ignore[type-arg]
    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        return super().apply_async(*args, **kwargs)


class Shadowed(Task):  # type: ignore[type-arg]
    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> Any:
        return f"for {args}"


def work(*args: Any, **kwargs: Any) -> None:
    """Take anything."""


OPTIONS: dict[str, dict[str, Any]] = {
    "copies.plain": {},
    "copies.limited": {"time_limit": 60, "soft_time_limit": 50},
    "copies.pickled": {"serializer": "pickle"},
    "copies.compressed": {"compression": "zlib"},
    "copies.short_lived": {"expires": 30},
    "copies.overriding": {"base": Overriding},
    "copies.shadowed": {"base": Shadowed},
}
share: Any = shared_task
for name, options in OPTIONS.items():
    share(name=name, **options)(work)


def entry(task: str, key: int, **columns: Any) -> RunMessage:
    made = RunMessage(PeriodicTask(pk=key, name=f"Row {key}", task=task, **columns))
    made.name_run(run_id(key, NOON), NOON, NOON, Trigger.SCHEDULE)
    return made


class AmqpMessages:
    """A channel in memory whose messages are RabbitMQ's."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self.channel, name)

    def prepare_message(self, *parts: Any) -> Any:
        return vars(pyamqp.Channel.prepare_message(self, *parts))  # type: ignore[arg-type]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the messages that Celery has built."""
    ids: list[str] = []
    build = current_app.amqp.create_task_message

    def note(task_id: str, *args: Any, **kwargs: Any) -> Any:
        ids.append(task_id)
        return build(task_id, *args, **kwargs)

    monkeypatch.setitem(vars(current_app.amqp), "create_task_message", note)
    return ids


def published(beat: Beat, message: RunMessage, wrap: Any = None) -> Any:
    """What beat publishes for an entry, with its exchange and routing key."""
    with Connection("memory://") as connection, connection.channel() as channel:
        batch = Batch(current_app, wrap(channel) if wrap else channel)
        beat.apply_entry(message, producer=batch.producer)
    if message.failure:
        raise message.failure
    return batch.messages[0]


ROWS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "arguments": {"args": '["\u00e9", 1, null]', "kwargs": '{"x": [1, {"y": "z"}], "n": 1.5}'},
    "long arguments": {"args": f'["{"x" * 3000}"]', "kwargs": f'{{"x": "{"y" * 3000}"}}'},
    "a queue": {"queue": "reports"},
    "a queue, a routing key and a priority": {"queue": "a", "routing_key": "b", "priority": 9},
    "headers": {"headers": '{"tenant": "a", "trigger": "mine"}'},
    "seconds until it expires": {"expire_seconds": 90},
    "a moment when it expires": {"expires": NOON + HOUR},
}
TASKS = ("copies.plain", "copies.limited", "copies.pickled", "a task of another service")


@pytest.mark.parametrize("wrap", [None, AmqpMessages])
@pytest.mark.parametrize("routes", [None, {"copies.*": {"queue": "routed", "priority": 7}}])
@pytest.mark.parametrize("task", TASKS)
def test_a_copy_is_equal_to_what_celery_builds(
    task: str, routes: Any, wrap: Any, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current_app.amqp, "_rtable", prepare(routes))
    monkeypatch.setitem(vars(current_app.amqp), "router", current_app.amqp.Router())
    for name, columns in ROWS.items():
        beat, celerys = Beat(), Beat()
        others = {"args": '["other"]', "kwargs": '{"a": 1}', "headers": '{"b": 2}'}
        published(beat, entry(task, 1, **columns | others), wrap)
        built.clear()
        copy = published(beat, entry(task, 2, **columns), wrap)
        assert not built, name
        assert copy == published(celerys, entry(task, 2, **columns), wrap), name
        assert built, name


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """As tools that trace and monitor wrap functions of Celery and kombu."""

    @wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


def wrap(owner: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(owner, name, wrapped(getattr(owner, name)))


def hear(signal: Any) -> Callable[[pytest.MonkeyPatch], None]:
    def connect(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(signal, "receivers", [])
        signal.connect(work, weak=False)

    return connect


OTHERS_HAVE_A_SAY: dict[str, tuple[dict[str, Any], Callable[[pytest.MonkeyPatch], Any]]] = {
    "a task's own apply_async": ({"task": "copies.overriding"}, id),
    "a name that depends on the arguments": ({"task": "copies.shadowed"}, id),
    "compression": ({"task": "copies.compressed"}, id),
    "the expiry of a task": ({"task": "copies.short_lived"}, id),
    "an exchange": ({"exchange": "news", "routing_key": "a"}, id),
    "a moment that has passed": ({"expires": NOON}, id),
    "a wrapped Task.apply_async": ({}, wrap(Task, "apply_async")),
    "a wrapped send_task": ({}, wrap(Celery, "send_task")),
    "a wrapped send_task of beat": ({}, wrap(Scheduler, "send_task")),
    "a wrapped Producer.publish": ({}, wrap(Producer, "publish")),
    "a receiver of before_task_publish": ({}, hear(signals.before_task_publish)),
    "a receiver of after_task_publish": ({}, hear(signals.after_task_publish)),
    "a router": ({}, lambda patch: patch.setattr(current_app.amqp, "_rtable", [print])),
    "events": ({}, lambda patch: patch.setitem(current_app.conf, "task_send_sent_event", True)),
}


@pytest.mark.parametrize("who", OTHERS_HAVE_A_SAY)
def test_celery_builds_each_message_in_which_others_have_a_say(
    who: str, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, change = OTHERS_HAVE_A_SAY[who]
    change(monkeypatch)
    columns = {"task": "copies.plain"} | columns
    beat = Beat()
    for key in (1, 2):
        published(beat, entry(key=key, **columns))
    assert built == [str(run_id(key, NOON)) for key in (1, 2)]


def test_a_receiver_that_connects_later_hears_of_each_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beat, heard = Beat(), []
    published(beat, entry("copies.plain", 1))

    def hear(headers: Any, **kwargs: Any) -> None:
        heard.append(headers["id"])
        headers["traced"] = True

    signals.before_task_publish.connect(hear)
    try:
        message, _, _ = published(beat, entry("copies.plain", 2))
    finally:
        signals.before_task_publish.disconnect(hear)
    assert heard == [message["headers"]["id"]] == [str(run_id(2, NOON))]
    assert message["headers"]["traced"]


def test_arguments_that_a_task_does_not_take_are_refused_in_a_copy_too() -> None:
    beat = Beat()
    published(beat, entry(remind.name, 1, args='["x"]'))
    with pytest.raises(TypeError, match="recipient"):
        published(beat, entry(remind.name, 2))


def test_a_header_that_is_added_as_a_run_is_sent_is_in_the_copy() -> None:
    """As Sentry's beat monitoring adds its own, in a wrapper of ``apply_entry``."""
    beat = Beat()
    published(beat, entry("copies.plain", 1))
    monitored = entry("copies.plain", 2)
    monitored.options["headers"] = monitored.options.pop("headers") | {"monitor": "x"}
    message, _, _ = published(beat, monitored)
    assert message["headers"]["monitor"] == "x"
    assert beat.copies.originals


def test_a_new_connection_starts_with_celerys_messages() -> None:
    """Celery declares the queue with them, which the broker may have lost."""
    beat = Beat()
    published(beat, entry("copies.plain", 1))
    beat._disconnect()
    assert not beat.copies.originals
