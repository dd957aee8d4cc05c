"""What an operator does to schedules, and what becomes of them."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import (
    PeriodicTask,
)

from scheduling.models import Pause, Run
from tests.admin.pages import (
    LIST,
    TASK,
    choose,
    declared,
    messages,
    page_of,
    text_of,
)
from tests.beat.in_process import Beat
from tests.factories import DAY, HOUR, MINUTE, NOON, at, every, make

pytestmark = pytest.mark.django_db


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("action", ["resume", "resume_all"])
def test_what_is_resumed_is_due_at_its_next_time_with_a_restart_or_without(
    admin_client: Client, at_noon: Any, action: str, restart: bool
) -> None:
    at_noon.move_to(NOON - DAY)
    row = make("Hourly", last_run_at=NOON - DAY, **at("*"))
    if action == "resume":
        choose(admin_client, "pause", row)
    else:
        admin_client.post(reverse("admin:scheduling_pause_all"))
    PeriodicTask.objects.update(
        last_run_at=NOON - 3 * HOUR
    )  # as a beat would that was in the middle
    at_noon.move_to(NOON + 20 * MINUTE)
    beat = Beat()
    beat.run()
    if action == "resume":
        assert "Resumed: Hourly." in messages(choose(admin_client, action, row))
    else:
        admin_client.post(reverse("admin:scheduling_resume_all"))

    beat = Beat() if restart else beat
    beat.run()
    assert beat.sent == []
    at_noon.move_to(NOON + HOUR)
    beat.run()
    assert [run.due for run in beat.sent] == [NOON + HOUR]


def test_a_run_now_is_sent_as_beat_would(
    admin_client: Client, sent: Callable[..., list[Any]]
) -> None:
    row = make("Row", last_run_at=NOON - MINUTE, **every(10))
    PeriodicTask.objects.update(
        task=TASK, queue="quick", priority=7, expire_seconds=90, headers='{"customer": "x"}'
    )

    answer = choose(admin_client, "run_now", row)

    [message] = sent("quick")
    headers = message.headers
    assert headers["task"] == TASK
    assert headers["ignore_result"] is True
    assert datetime.fromisoformat(headers["expires"]) == NOON + timedelta(seconds=90)
    assert headers["customer"] == "x"
    assert headers["periodic_task_name"] == "Row"
    assert headers["scheduled_for"] == headers["queued_at"] == NOON.isoformat()
    run = Run.objects.get()
    assert (str(run.pk), run.periodic_task, run.trigger) == (headers["id"], row, "manual")
    assert (run.state, run.queue, run.scheduled_for) == ("sent", "quick", NOON)
    assert message.properties["priority"] == 7
    row.refresh_from_db()
    assert row.last_run_at == NOON - MINUTE
    assert messages(answer) == ["Sent a run: Row."]
    assert LogEntry.objects.get().get_change_message() == "Sent a run."


def test_one_unknown_task_does_not_stop_the_others(
    admin_client: Client, sent: Callable[..., list[Any]]
) -> None:
    shared = every(10)
    rows = [make(name, **shared) for name in ("Unknown", "Broken", "Known")]
    PeriodicTask.objects.exclude(name="Unknown").update(task=TASK)
    PeriodicTask.objects.filter(name="Broken").update(args="no JSON")

    told = messages(choose(admin_client, "run_now", *rows))

    assert len(sent()) == 1
    assert "Not sent: Unknown: no worker knows the task 'some.task'." in told
    assert any(text.startswith("Not sent: Broken: ValueError: args 'no JSON'") for text in told)
    assert "Sent a run: Known." in told


def test_a_pause_is_remembered_when_all_are_resumed(admin_client: Client) -> None:
    shared = every(10)
    before, later, running = (make(name, **shared) for name in ("Before", "Later", "Running"))
    choose(admin_client, "pause", before)

    assert 'name="confirmed"' in text_of(admin_client.get(reverse("admin:scheduling_pause_all")))
    assert PeriodicTask.objects.filter(enabled=True).count() == 2
    answer = admin_client.post(reverse("admin:scheduling_pause_all"), follow=True)
    assert messages(answer) == ["Paused with all: Later, Running."]
    assert "Paused, with all" in text_of(answer) and "2 paused with all" in text_of(answer)
    assert not PeriodicTask.objects.filter(enabled=True).exists()

    choose(admin_client, "resume", later)
    choose(admin_client, "pause", later)
    answer = admin_client.post(reverse("admin:scheduling_resume_all"), follow=True)
    assert messages(answer) == ["Resumed with all: Running."]
    assert list(PeriodicTask.objects.filter(enabled=True)) == [running]
    assert not Pause.objects.exists()


def test_reset_gives_code_its_values_back(admin_client: Client) -> None:
    row, mine = declared(), make("Mine", **every(10))
    row.crontab, row.interval = None, mine.interval
    row.save()

    told = messages(choose(admin_client, "reset", row, mine))

    row.refresh_from_db()
    assert row.interval is None and row.crontab.hour == "4"
    assert "Not changed: no code declares Mine." in told
    assert any("when every 10 minutes" in text for text in told)
    assert "when every 10 minutes" in LogEntry.objects.get().get_change_message()


@pytest.mark.parametrize("way", ["form", "reset"])
def test_what_was_resumed_by_itself_is_not_resumed_with_all(admin_client: Client, way: str) -> None:
    row = declared()
    admin_client.post(reverse("admin:scheduling_pause_all"))
    if way == "form":
        row.refresh_from_db()
        row.enabled = True
        row.save()
    else:
        choose(admin_client, "reset", row)
    row.refresh_from_db()
    assert row.enabled
    row.enabled = False
    row.save()

    admin_client.post(reverse("admin:scheduling_resume_all"))

    row.refresh_from_db()
    assert not row.enabled


def test_what_has_expired_is_not_resumed(admin_client: Client) -> None:
    """Beat would disable it again at once."""
    row = make("Row", enabled=False, expires=NOON - DAY, **every(10))

    assert messages(choose(admin_client, "resume", row)) == ["Nothing was changed."]
    row.refresh_from_db()
    assert not row.enabled


def test_what_is_confirmed_does_not_depend_on_a_filter(admin_client: Client) -> None:
    row = make("Row", last_run_at=NOON - 20 * MINUTE, **every(10))
    chosen = {"action": "pause", "_selected_action": [row.pk]}

    asked = text_of(admin_client.post(f"{LIST}?state=overdue", chosen))

    assert f'<form method="post" action="{LIST}">' in asked


def test_an_action_on_a_page_leads_back_to_it(admin_client: Client) -> None:
    row = make("Row", **every(10))

    answer = choose(admin_client, "pause", row, page="1")

    assert answer.redirect_chain == [(page_of(row), 302)]
