"""The admin's pages, as these tests ask for them and read them."""

from typing import Any

from django.test import Client
from django.urls import reverse
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from scheduling.declare import discovery
from scheduling.sync.apply import seed

LIST = reverse("admin:django_celery_beat_periodictask_changelist")
TIMELINE = reverse("admin:scheduling_timeline")
TASK = "scheduling.tasks.clean_up_history"


def page_of(row: PeriodicTask) -> str:
    return reverse("admin:django_celery_beat_periodictask_change", args=[row.pk])


def text_of(answer: Any) -> str:
    text: str = answer.content.decode()
    return text


def choose(client: Client, action: str, *rows: PeriodicTask, **data: Any) -> Any:
    """Choose an action for rows, and confirm it."""
    chosen = {"action": action, "_selected_action": [row.pk for row in rows], **data}
    asked = client.post(LIST, chosen)
    if asked.status_code == 200:
        assert 'name="confirmed" value="yes"' in text_of(asked)
    return client.post(LIST, chosen | {"confirmed": "yes"}, follow=True)


def messages(answer: Any) -> list[str]:
    return [str(message) for message in answer.context["messages"]]


def declared(name: str = "Clean up the run history") -> PeriodicTask:
    seed(discovery.declared())
    return PeriodicTask.objects.get(name=name)


def form(**values: Any) -> dict[str, Any]:
    """What a browser sends of the form of a schedule; every 10 minutes by default."""
    given = {"name": "New", "task": TASK, "enabled": "on", "args": "[]", "kwargs": "{}"}
    if "interval" not in values and "crontab" not in values:
        given["interval"] = IntervalSchedule.objects.create(every=10, period="minutes").pk
    return given | values
