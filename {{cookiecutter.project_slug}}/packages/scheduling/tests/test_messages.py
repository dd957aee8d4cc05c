"""What a row becomes as a message."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django_celery_beat.models import PeriodicTask

from scheduling.messages import RunMessage, run_id

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
            "trigger": "schedule",
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
