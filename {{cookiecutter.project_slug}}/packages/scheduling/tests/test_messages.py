"""What a row becomes as a message."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import current_app
from django_celery_beat.models import PeriodicTask
from kombu.transport import redis

from scheduling.messages import MAX_NESTING, RunMessage, check_destination, run_id
from scheduling.one_off import MARK

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def row(**columns: object) -> PeriodicTask:
    return PeriodicTask(name="Nightly", task="some.task", **columns)


def test_a_message_says_which_run_it_is_and_never_waits_for_the_broker() -> None:
    message = RunMessage(
        row(pk=7, args="[1]", kwargs='{"a": 2}', queue="long", headers='{"x": "y"}')
    )
    key = run_id(7, NOON)
    message.name_run(key, NOON, NOON, "schedule")

    assert (message.args, message.kwargs) == ([1], {"a": 2})
    assert message.options == {
        "queue": "long",
        "headers": {
            "x": "y",
            "periodic_task_name": "Nightly",
            "periodic_task_id": 7,
            "run_trigger": "schedule",
            "scheduled_for": "2026-06-01T12:00:00+00:00",
            "queued_at": "2026-06-01T12:00:00+00:00",
        },
        "ignore_result": True,
        "retry": False,
        "task_id": str(key),
    }


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"args": "[1"}, "args '[1' are not JSON"),
        ({"args": "{}"}, "args '{}' are not a JSON list"),
        ({"kwargs": "[]"}, "kwargs '\\[\\]' are not a JSON object"),
        ({"headers": "5"}, "headers '5' are not a JSON object"),
        ({"args": "[" * 100_000}, "it nests deeper than 300 levels"),
        ({"kwargs": '{"a": ' + "[" * 300 + "]" * 300 + "}"}, "it nests deeper than 300 levels"),
        ({"headers": '{"task": "other.task", "x": 1}'}, "headers task are Celery's"),
        ({"headers": '{"timelimit": "x", "id": ["a"]}'}, "headers id, timelimit are Celery's"),
        ({"headers": '{"x": [NaN]}'}, "Out of range float values"),
        ({"headers": '{"x": 1e400}'}, "Out of range float values"),
        ({"queue": "unacked"}, "'unacked' is a name that Celery or the broker uses itself"),
        ({"exchange": "celeryev", "routing_key": "worker.x"}, "'celeryev' is a name"),
        ({"routing_key": "unacked_index"}, "'unacked_index' is a name"),
    ],
)
def test_a_row_that_cannot_be_a_message_says_why(columns: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("[1", r"\[1")):
        RunMessage(row(**columns))


def test_a_run_has_one_id_and_each_other_run_its_own() -> None:
    first = run_id(1, NOON)

    assert first == run_id(1, NOON.astimezone(ZoneInfo("Europe/Berlin")))
    assert first != run_id(1, NOON + timedelta(microseconds=1))
    assert first != run_id(2, NOON)


def test_a_row_may_nest_as_deep_as_a_worker_reads() -> None:
    RunMessage(row(args="[" * MAX_NESTING + "]" * MAX_NESTING))


@pytest.mark.parametrize(
    "name",
    [
        *current_app.amqp.as_task_v2("an-id", "some.task").headers,
        *("compression", "headers", "delivery_info", "callbacks", "hostname", "is_eager", "utc"),
        *("periodic_task_name", "scheduled_for", "queued_at"),
    ],
)
def test_no_row_replaces_a_header_of_celery_or_the_scheduler(name: str) -> None:
    with pytest.raises(ValueError, match=f"headers {name} are Celery's or the scheduler's"):
        RunMessage(row(headers=f'{{"{name}": null}}'))


@pytest.mark.parametrize("name", ["customer", "x-trace", "Task", MARK])
def test_other_headers_are_the_rows_own(name: str) -> None:
    assert RunMessage(row(headers=f'{{"{name}": 5}}')).options["headers"][name] == 5


REDIS: Any = redis.Channel  # its stubs lack some
KEYS_OF_REDIS = [
    REDIS.unacked_key,
    REDIS.unacked_index_key,
    REDIS.unacked_mutex_key,
    REDIS.keyprefix_queue % "celery",
    REDIS.keyprefix_binding_deadlines,
    REDIS.keyprefix_binding_permanent % "celery",
    REDIS.keyprefix_fanout.format(db=0) + "celery.pidbox",
    f"celery{REDIS.sep}3",
]
OTHERS_OF_CELERY = [
    *("celeryev", "celeryev.6e2b", "celery.pidbox", "reply.celery.pidbox", "w@host.celery.pidbox"),
    *("amq.fanout", "amq.gen-1"),
]


@pytest.mark.parametrize("name", KEYS_OF_REDIS + OTHERS_OF_CELERY)
def test_what_celery_or_the_broker_uses_itself_is_no_queue(name: str) -> None:
    with pytest.raises(ValueError, match="is a name that Celery or the broker uses itself"):
        check_destination(name)


def test_keys_that_the_settings_rename_are_no_queues_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renamed = {"unacked_key": "shop:taken", "sep": ":p:", "global_keyprefix": "shop:"}
    monkeypatch.setitem(current_app.conf, "broker_transport_options", renamed)
    monkeypatch.setitem(current_app.conf, "event_exchange", "news")

    for name in ("shop:taken", "celery:p:3", "unacked_index", "news", "news.1"):
        with pytest.raises(ValueError, match="uses itself"):
            check_destination(name)
    for name in ("unacked", "celeryev"):
        check_destination(name)


@pytest.mark.parametrize("name", ["celery", "unacked2", "a/0.b", "/reports", "pidbox", "celery.ev"])
def test_all_other_names_are_queues(name: str) -> None:
    check_destination(name)
