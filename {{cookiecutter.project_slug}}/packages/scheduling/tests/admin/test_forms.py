"""The form of a schedule, and what it refuses."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from tests.admin.pages import TASK, form, messages, page_of, text_of
from tests.factories import every, make

pytestmark = pytest.mark.django_db


REFUSED = [
    ({"task": "no.such.task"}, "Select a valid choice"),
    ({"task": ""}, "This field is required"),
    ({"args": "[1"}, "This is not JSON"),
    ({"args": '{"a": 1}'}, "Write a list, such as [1, 2]"),
    ({"kwargs": "[]"}, "Write an object"),
    ({"headers": "[]"}, "Write an object"),
    (
        {"headers": '{"task": "other.task"}'},
        "headers task are Celery&#x27;s or the scheduler&#x27;s",
    ),
    ({"headers": '{"x": NaN}'}, "Out of range float values"),
    ({"args": "[" * 400 + "]" * 400}, "it nests deeper than 300 levels"),
    ({"queue": "unacked", "priority": "0"}, "&#x27;unacked&#x27; is a name that Celery"),
    ({"exchange": "celeryev"}, "&#x27;celeryev&#x27; is a name that Celery"),
    ({"routing_key": "amq.x"}, "&#x27;amq.x&#x27; is a name that Celery"),
    ({"args": "[1, 2]"}, "The task takes () -&gt; int: too many positional arguments."),
    ({"kwargs": '{"x": 1}'}, "unexpected keyword argument"),
    ({"interval": ""}, "One of clocked, interval, crontab, or solar must be set."),
    ({"crontab": "CRONTAB"}, "Only one of clocked, interval, crontab, or solar must be set"),
    (
        {"expire_seconds": "9", "expires_0": "2027-01-01", "expires_1": "00:00"},
        "Set either a date or seconds",
    ),
    ({"expire_seconds": "x"}, "Enter a whole number"),
]


@pytest.mark.parametrize(("values", "reason"), REFUSED)
def test_a_form_refuses_what_no_worker_could_run(
    admin_client: Client, values: dict[str, Any], reason: str
) -> None:
    data = form(**{"interval": form()["interval"]} | values)
    if data.get("crontab"):
        data["crontab"] = CrontabSchedule.objects.create(hour="3").pk

    answer = admin_client.post(reverse("admin:django_celery_beat_periodictask_add"), data)

    assert reason in text_of(answer)
    assert not PeriodicTask.objects.exists()


def test_a_form_that_is_right_is_saved(admin_client: Client) -> None:
    add = reverse("admin:django_celery_beat_periodictask_add")
    assert f"{TASK}: Delete runs older than" in text_of(admin_client.get(add))

    answer = admin_client.post(add, form(headers='{"customer": "x"}'), follow=True)

    assert "was added successfully" in messages(answer)[0]
    assert PeriodicTask.objects.get().task == TASK


def test_a_row_whose_task_is_gone_must_get_another(admin_client: Client) -> None:
    row = make("Row", **every(10))
    assert "some.task: no worker knows it" in text_of(admin_client.get(page_of(row)))

    answer = admin_client.post(page_of(row), form(task="some.task", interval=row.interval_id))

    assert "No worker knows this task. Choose another one." in text_of(answer)
