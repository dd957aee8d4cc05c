"""What a row becomes as a message."""

from datetime import UTC, datetime

import pytest
from django_celery_beat.models import PeriodicTask

from scheduling.messages import RunMessage, run_id

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def row(**columns: object) -> PeriodicTask:
    return PeriodicTask(name="Nightly", task="some.task", **columns)


def test_a_message_says_which_run_it_is_and_never_waits_for_the_broker() -> None:
    message = RunMessage(row(args="[1]", kwargs='{"a": 2}', queue="long", headers='{"x": "y"}'))
    message.say_which_run(due=NOON, sent_at=NOON)

    assert (message.args, message.kwargs) == ([1], {"a": 2})
    assert message.options == {
        "queue": "long",
        "headers": {
            "x": "y",
            "periodic_task_name": "Nightly",
            "scheduled_for": "2026-06-01T12:00:00+00:00",
            "queued_at": "2026-06-01T12:00:00+00:00",
        },
        "ignore_result": False,
        "retry": False,
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
    first = run_id(row(pk=1, total_run_count=0), NOON)

    assert first == run_id(row(pk=1, total_run_count=0), NOON)
    assert first != run_id(row(pk=1, total_run_count=1), NOON)
    assert first != run_id(row(pk=2, total_run_count=0), NOON)
