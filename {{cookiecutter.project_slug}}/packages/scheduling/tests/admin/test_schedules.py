"""The list of schedules, and the page of each."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import (
    ClockedSchedule,
    IntervalSchedule,
)
from pytest_django import Settings

from scheduling.models import Node, Run
from tests.admin.pages import (
    LIST,
    choose,
    declared,
    form,
    messages,
    page_of,
    text_of,
)
from tests.beat.in_process import Beat
from tests.factories import HOUR, MINUTE, NOON, at, every, make, store

pytestmark = pytest.mark.django_db


def test_the_list_says_what_ran_and_what_comes(admin_client: Client) -> None:
    row = make("Often", last_run_at=NOON - 3 * MINUTE, **every(10))
    for number in range(25):
        state = "failed" if number == 24 else "succeeded"
        late = 2 * MINUTE if number == 23 else 0 * MINUTE
        store("Often", NOON - 3 * MINUTE - (24 - number) * HOUR, "started", state, late=late)
    make("Nightly", last_run_at=NOON, **at("3", zone="Europe/Berlin"))

    text = text_of(admin_client.get(LIST))

    assert page_of(row) in text
    assert "every 10 minutes" in text and "at 03:00, Europe/Berlin" in text
    assert "in 7 min" in text
    assert "Failed" in text and "took 1 s" in text
    assert 'aria-label="20 runs: 18 succeeded, 1 late, 1 failed"' in text
    for kind, count in (("succeeded", 18), ("late", 1), ("failed", 1)):
        assert text.count(f'<path class="run {kind}"') == count


def test_overdue_schedules_come_first(admin_client: Client) -> None:
    make("A", last_run_at=NOON, **every(10))
    make("Z", last_run_at=NOON - 20 * MINUTE, **every(10))

    answer = admin_client.get(LIST)

    assert [row.name for row in answer.context["cl"].result_list] == ["Z", "A"]
    assert "1 overdue" in text_of(answer)
    assert '<strong class="bad">Overdue</strong> since' in text_of(answer)


def test_a_page_of_100_schedules_takes_12_queries_at_most(admin_client: Client) -> None:
    shared = every(10)
    for number in range(100):
        make(f"Row {number}", last_run_at=NOON - number * MINUTE, **shared)
        for minute in range(3):
            store(f"Row {number}", NOON - minute * MINUTE, "started", "succeeded")

    with CaptureQueriesContext(connection) as queries:
        answer = admin_client.get(LIST)

    assert len(answer.context["cl"].result_list) == 100
    assert len(queries) <= 12


def test_the_list_says_whether_beat_ticks(admin_client: Client) -> None:
    assert '<strong class="bad">No beat</strong> has ticked today' in text_of(
        admin_client.get(LIST)
    )
    Node.objects.create(name="here:1", is_worker=False, seen_at=NOON - MINUTE)
    assert '<strong class="bad">No beat ticks</strong>' in text_of(admin_client.get(LIST))
    Node.objects.create(name="there:2", is_worker=False, seen_at=NOON - timedelta(seconds=3))
    assert "Beat ticks:" in text_of(admin_client.get(LIST))
    assert "there:2, 3 s ago" in text_of(admin_client.get(LIST))
    assert "here:1" not in text_of(admin_client.get(LIST))


@pytest.mark.django_db(transaction=True)  # beat closes connections
def test_beat_says_that_it_ticks() -> None:
    Beat().run()

    assert Node.objects.get(is_worker=False).seen_at == NOON


def test_badges_tell_what_code_declares_and_an_operator_changed(admin_client: Client) -> None:
    row = declared()
    assert "declared in scheduling/schedules.py" in text_of(admin_client.get(LIST))
    choose(admin_client, "pause", row)
    assert "changed by an operator" not in text_of(
        admin_client.get(LIST)
    )  # a pause is not a change

    row.crontab, row.interval = None, IntervalSchedule.objects.create(every=60, period="minutes")
    row.save()

    text = text_of(admin_client.get(LIST))
    assert "changed by an operator: when 15 4 * * * UTC → every hour" in text.replace(
        row.declaration.values["when"], "15 4 * * * UTC"
    )


def test_why_a_run_waits_is_said(admin_client: Client) -> None:
    make("Row", last_run_at=NOON - 3 * MINUTE, **every(10))
    store("Row", NOON - 3 * MINUTE, "sent")

    text = text_of(admin_client.get(LIST))
    assert '<strong class="bad">Waits</strong> since' in text
    assert "no worker consumes the queue &#x27;celery&#x27;" in text

    worker = Node(name="celery@a", is_worker=True, seen_at=NOON, queues=["celery"], slots=2, busy=2)
    worker.save()
    text = text_of(admin_client.get(LIST))
    assert "all workers of the queue &#x27;celery&#x27; are busy: celery@a" in text


def test_a_row_that_cannot_run_says_why(admin_client: Client) -> None:
    make("Row", **at("30"))

    text = text_of(admin_client.get(LIST))

    assert '<strong class="bad">Cannot run</strong>: ' in text


def test_what_has_run_once_is_done_not_paused(admin_client: Client) -> None:
    make("Once", enabled=False, one_off=True, total_run_count=1, **every(10))

    assert "Done: it runs once" in text_of(admin_client.get(LIST))
    assert not admin_client.get(f"{LIST}?state=paused").context["cl"].result_list


@pytest.mark.parametrize("enabled", [True, False])  # before and after beat disables it
def test_what_has_expired_is_neither_paused_nor_overdue(
    admin_client: Client, enabled: bool
) -> None:
    row = make(
        "Row",
        enabled=enabled,
        last_run_at=NOON - 65 * MINUTE,  # its last run was not sent
        expires=NOON - 2 * MINUTE,
        **every(1, "hours"),
    )

    assert "Expired " in text_of(admin_client.get(LIST))
    for state in ("paused", "overdue"):
        assert not admin_client.get(f"{LIST}?state={state}").context["cl"].result_list
    assert "Resume" not in dict(admin_client.get(page_of(row)).context["schedule_actions"]).values()


def test_a_time_at_the_end_of_times_is_shown(admin_client: Client, settings: Settings) -> None:
    settings.TIME_ZONE = "UTC"  # east of it, ClockedSchedule's own text overflows
    end = datetime(9999, 12, 31, 23, 30, tzinfo=UTC)
    make("Far", clocked=ClockedSchedule.objects.create(clocked_time=end), one_off=True)

    with timezone.override("Asia/Tokyo"):
        assert admin_client.get(LIST).status_code == 200


def test_the_page_of_a_schedule_shows_runs_times_and_changes(admin_client: Client) -> None:
    row = make("Hourly", last_run_at=NOON, **at("*"))
    store("Hourly", NOON, "started", "failed", late=5 * timedelta(seconds=1))
    choose(admin_client, "pause", row)
    choose(admin_client, "resume", row)

    text = text_of(admin_client.get(page_of(row)))

    assert "<dd>every hour, UTC</dd>" in text
    assert '<svg class="chart"' in text
    assert reverse("admin:scheduling_run_change", args=[Run.objects.get().pk]) in text
    for hour in range(13, 23):
        assert f">{hour}:00:00</time>" in text
    assert "admin: Paused." in text and "admin: Resumed." in text


def test_lateness_shown_is_start_minus_due_time(admin_client: Client) -> None:
    row = make("Row", last_run_at=NOON - 5 * MINUTE, **every(10))
    queued, late = timedelta(seconds=40), timedelta(seconds=83)
    store("Row", NOON - 5 * MINUTE, "started", "succeeded", queued=queued, late=late)
    [started] = Run.objects.values_list("started_at", flat=True)

    assert started == Run.objects.get().scheduled_for + timedelta(seconds=83)
    assert "1 min 23 s late" in text_of(admin_client.get(LIST))
    assert "<td>1 min 23 s</td>" in text_of(admin_client.get(page_of(row)))


def test_a_schedule_that_is_renamed_keeps_its_history(admin_client: Client) -> None:
    row = make("Old", last_run_at=NOON, **every(10))
    store("Old", NOON, "started", "succeeded")
    data = form(name="New", interval=row.interval_id)

    assert (
        "was changed successfully"
        in messages(admin_client.post(page_of(row), data, follow=True))[0]
    )

    assert '<svg class="chart"' in text_of(admin_client.get(page_of(row)))
