"""The operator's view: pages, levers, forms, and who may see and do what."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from celery import current_app
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
)
from django_celery_results.models import TaskResult
from kombu import Connection
from pytest_django import Settings

from scheduling import history, registry, seed
from scheduling.models import Heartbeat, Pause, Run
from scheduling.tests.beat import Beat
from scheduling.tests.test_history import at, every, make, store

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
LIST = reverse("admin:django_celery_beat_periodictask_changelist")
TIMELINE = reverse("admin:scheduling_timeline")
TASK = "scheduling.tasks.clean_up_history"
SCRIPT = "<script>alert(1)</script>"

pytestmark = [
    pytest.mark.filterwarnings("ignore:No directory at"),  # WhiteNoise, before collectstatic
    pytest.mark.django_db,
]


@pytest.fixture(autouse=True)
def at_noon(settings: Settings) -> Any:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
    with timezone.override(UTC), time_machine.travel(NOON, tick=False) as clock:
        PeriodicTask.objects.all().delete()
        yield clock


@pytest.fixture
def user() -> Callable[..., Client]:
    """A client of a member of the staff with some permissions."""

    def make_user(*permissions: str) -> Client:
        user = User.objects.create_user("operator", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client = Client()
        client.force_login(user)
        return client

    return make_user


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """The messages in a queue of a broker in memory."""
    monkeypatch.setattr(current_app.conf, "broker_write_url", "memory://")
    monkeypatch.setattr(current_app.amqp, "_producer_pool", None)

    def received(queue: str = current_app.conf.task_default_queue) -> list[Any]:
        with Connection("memory://") as broker, broker.SimpleQueue(queue) as messages:
            found = [messages.get(block=False) for _ in range(messages.qsize())]
            for message in found:
                message.ack()
            return found

    received()
    return received


def page_of(row: PeriodicTask) -> str:
    return reverse("admin:django_celery_beat_periodictask_change", args=[row.pk])


def text_of(answer: Any) -> str:
    text: str = answer.content.decode()
    return text


def pull(client: Client, action: str, *rows: PeriodicTask, **data: Any) -> Any:
    """Choose an action for rows, and confirm it."""
    chosen = {"action": action, "_selected_action": [row.pk for row in rows], **data}
    asked = client.post(LIST, chosen)
    if asked.status_code == 200:
        assert 'name="confirmed" value="yes"' in text_of(asked)
    return client.post(LIST, chosen | {"confirmed": "yes"}, follow=True)


def messages(answer: Any) -> list[str]:
    return [str(message) for message in answer.context["messages"]]


def declared(name: str = "Clean up the run history") -> PeriodicTask:
    seed.seed(registry.declared())
    return PeriodicTask.objects.get(name=name)


# The pages


def test_the_list_says_what_ran_and_what_comes(admin_client: Client) -> None:
    row = make("Often", last_run_at=NOON - 3 * MINUTE, **every(10))
    for number in range(25):
        state = "FAILURE" if number == 24 else "SUCCESS"
        late = 2 * MINUTE if number == 23 else 0 * MINUTE
        store("Often", NOON - 3 * MINUTE - (24 - number) * HOUR, "STARTED", state, late=late)
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
            store(f"Row {number}", NOON - minute * MINUTE, "STARTED", "SUCCESS")

    with CaptureQueriesContext(connection) as queries:
        answer = admin_client.get(LIST)

    assert len(answer.context["cl"].result_list) == 100
    assert len(queries) <= 12


def test_the_list_says_whether_beat_ticks(admin_client: Client) -> None:
    assert '<strong class="bad">No beat</strong> has ticked today' in text_of(
        admin_client.get(LIST)
    )
    Heartbeat.objects.create(beat="here:1", ticked_at=NOON - MINUTE)
    assert '<strong class="bad">No beat ticks</strong>' in text_of(admin_client.get(LIST))
    Heartbeat.objects.create(beat="there:2", ticked_at=NOON - timedelta(seconds=3))
    assert "Beat ticks:" in text_of(admin_client.get(LIST))
    assert "there:2, 3 s ago" in text_of(admin_client.get(LIST))
    assert "here:1" not in text_of(admin_client.get(LIST))


@pytest.mark.django_db(transaction=True)  # beat closes connections
def test_beat_says_that_it_ticks() -> None:
    Beat().run()

    [(beat, ticked_at)] = history.heartbeats().items()
    assert ticked_at == NOON


def test_badges_tell_what_code_declares_and_an_operator_changed(admin_client: Client) -> None:
    row = declared()
    assert "declared in scheduling/schedules.py" in text_of(admin_client.get(LIST))
    pull(admin_client, "pause", row)
    assert "changed by an operator" not in text_of(admin_client.get(LIST))  # a pause is no change

    row.crontab, row.interval = None, IntervalSchedule.objects.create(every=60, period="minutes")
    row.save()

    text = text_of(admin_client.get(LIST))
    assert "changed by an operator: when 15 4 * * * UTC → every hour" in text.replace(
        row.declaration.values["when"], "15 4 * * * UTC"
    )


def test_what_no_worker_takes_up_is_said(admin_client: Client) -> None:
    make("Row", last_run_at=NOON - 3 * MINUTE, **every(10))

    assert '<strong class="bad">No worker</strong> took it up' in text_of(admin_client.get(LIST))


def test_a_row_that_cannot_run_says_why(admin_client: Client) -> None:
    make("Row", **at("30"))

    text = text_of(admin_client.get(LIST))

    assert '<strong class="bad">Cannot run</strong>: ' in text


def test_the_page_of_a_schedule_shows_runs_times_and_changes(admin_client: Client) -> None:
    row = make("Hourly", last_run_at=NOON, **at("*"))
    store("Hourly", NOON, "STARTED", "FAILURE", late=5 * timedelta(seconds=1))
    pull(admin_client, "pause", row)
    pull(admin_client, "resume", row)

    text = text_of(admin_client.get(page_of(row)))

    assert "<dd>every hour, UTC</dd>" in text
    assert '<svg class="chart"' in text
    assert (
        reverse("admin:django_celery_results_taskresult_change", args=[Run.objects.get().pk])
        in text
    )
    for hour in range(13, 23):
        assert f">{hour}:00:00</time>" in text
    assert "admin: Paused." in text and "admin: Resumed." in text


def test_lateness_shown_is_start_minus_due_time(admin_client: Client) -> None:
    row = make("Row", last_run_at=NOON - 5 * MINUTE, **every(10))
    queued, late = timedelta(seconds=40), timedelta(seconds=83)
    store("Row", NOON - 5 * MINUTE, "STARTED", "SUCCESS", queued=queued, late=late)
    [started] = Run.objects.values_list("started_at", flat=True)

    assert started == Run.objects.get().scheduled_for + timedelta(seconds=83)
    assert "1 min 23 s late" in text_of(admin_client.get(LIST))
    assert "<td>1 min 23 s</td>" in text_of(admin_client.get(page_of(row)))


def test_the_timeline_shows_what_was_and_what_comes(admin_client: Client) -> None:
    make("Often", last_run_at=NOON, **every(10))
    make("Overdue", last_run_at=NOON - 20 * MINUTE, **every(10))
    make("Every second", last_run_at=NOON, **every(1, "seconds"))
    for number, states in enumerate((["STARTED", "SUCCESS"], ["STARTED", "FAILURE"], ["STARTED"])):
        store("Often", NOON - number * HOUR - MINUTE, *states)

    text = text_of(admin_client.get(TIMELINE))

    assert 'aria-label="3 runs: 1 succeeded, 1 failed, 1 running"' in text
    for kind in ("succeeded", "failed", "running", "coming"):
        assert f'<path class="{kind}" d="M' in text
    assert text.count("72 runs to come") == 2 and "many runs to come" in text
    assert '<path class="now"' in text


FILTERS = [
    ("app=scheduling.", ["Another app"]),
    ("app=some.", ["Failed", "Fine", "Late", "Overdue", "Paused"]),
    ("state=failed", ["Failed"]),
    ("state=late", ["Late"]),
    ("state=overdue", ["Overdue"]),
    ("state=paused", ["Paused"]),
    ("q=fine", ["Fine"]),
    ("q=scheduling.tasks", ["Another app"]),
    ("q=nothing", []),
]


@pytest.mark.parametrize(("query", "names"), FILTERS)
def test_the_timeline_is_filtered(admin_client: Client, query: str, names: list[str]) -> None:
    shared = every(10)
    for name in ("Failed", "Fine", "Late", "Paused", "Another app"):
        make(name, last_run_at=NOON, **shared)
    make("Overdue", last_run_at=NOON - 20 * MINUTE, **shared)
    PeriodicTask.objects.filter(name="Paused").update(enabled=False)
    PeriodicTask.objects.filter(name="Another app").update(task=TASK)
    store("Failed", NOON - HOUR, "STARTED", "FAILURE")
    store("Late", NOON - HOUR, "STARTED", "SUCCESS", late=2 * MINUTE)
    store("Fine", NOON - HOUR, "STARTED", "SUCCESS")
    store("Fine", NOON - 13 * HOUR, "STARTED", "FAILURE")

    answer = admin_client.get(f"{TIMELINE}?{query}")

    assert [row.name for row, _ in answer.context["lines"]] == names
    listed = admin_client.get(f"{LIST}?{query}") if query.startswith(("state", "q")) else None
    assert listed is None or [row.name for row in listed.context["cl"].result_list] == names


def test_markup_in_names_arguments_and_errors_stays_text(admin_client: Client) -> None:
    row = make(SCRIPT, last_run_at=NOON, args=json.dumps([SCRIPT]), **every(10))
    PeriodicTask.objects.update(description=SCRIPT, task=SCRIPT, queue=SCRIPT)
    store(SCRIPT, NOON, "STARTED", "FAILURE")
    error = {"exc_type": SCRIPT, "exc_message": [SCRIPT]}
    TaskResult.objects.update(result=json.dumps(error))

    for url in (LIST, page_of(row), TIMELINE, f"{TIMELINE}?q={SCRIPT}&app={SCRIPT}"):
        text = text_of(admin_client.get(url))
        assert SCRIPT not in text, url
    asked = admin_client.post(LIST, {"action": "pause", "_selected_action": [row.pk]})
    assert SCRIPT not in text_of(asked)
    assert SCRIPT not in text_of(pull(admin_client, "run_now", row))


# The levers


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("lever", ["resume", "resume_all"])
def test_what_is_resumed_is_due_at_its_next_time_with_a_restart_or_without(
    admin_client: Client, at_noon: Any, lever: str, restart: bool
) -> None:
    at_noon.move_to(NOON - DAY)
    row = make("Hourly", last_run_at=NOON - DAY, **at("*"))
    if lever == "resume":
        pull(admin_client, "pause", row)
    else:
        admin_client.post(reverse("admin:scheduling_pause_all"))
    PeriodicTask.objects.update(last_run_at=NOON - 3 * HOUR)  # as a beat that was in the middle
    at_noon.move_to(NOON + 20 * MINUTE)
    beat = Beat()
    beat.run()
    if lever == "resume":
        assert "Resumed: Hourly." in messages(pull(admin_client, lever, row))
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

    answer = pull(admin_client, "run_now", row)

    [message] = sent("quick")
    headers = message.headers
    assert headers["task"] == TASK
    assert headers["ignore_result"] is False
    assert datetime.fromisoformat(headers["expires"]) == NOON + timedelta(seconds=90)
    assert headers["customer"] == "x"
    assert headers["periodic_task_name"] == "Row"
    assert headers["scheduled_for"] == headers["queued_at"] == NOON.isoformat()
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

    told = messages(pull(admin_client, "run_now", *rows))

    assert len(sent()) == 1
    assert "Not sent: Unknown: no worker knows the task 'some.task'." in told
    assert any(text.startswith("Not sent: Broken: ValueError: args 'no JSON'") for text in told)
    assert "Sent a run: Known." in told


def test_a_pause_is_remembered_when_all_are_resumed(admin_client: Client) -> None:
    shared = every(10)
    before, later, running = (make(name, **shared) for name in ("Before", "Later", "Running"))
    pull(admin_client, "pause", before)

    assert 'name="confirmed"' in text_of(admin_client.get(reverse("admin:scheduling_pause_all")))
    assert PeriodicTask.objects.filter(enabled=True).count() == 2
    answer = admin_client.post(reverse("admin:scheduling_pause_all"), follow=True)
    assert messages(answer) == ["Paused with all: Later, Running."]
    assert "Paused, with all" in text_of(answer) and "2 paused with all" in text_of(answer)
    assert not PeriodicTask.objects.filter(enabled=True).exists()

    pull(admin_client, "resume", later)
    pull(admin_client, "pause", later)
    answer = admin_client.post(reverse("admin:scheduling_resume_all"), follow=True)
    assert messages(answer) == ["Resumed with all: Running."]
    assert list(PeriodicTask.objects.filter(enabled=True)) == [running]
    assert not Pause.objects.exists()


def test_reset_gives_code_its_values_back(admin_client: Client) -> None:
    row, mine = declared(), make("Mine", **every(10))
    row.crontab, row.interval = None, mine.interval
    row.save()

    told = messages(pull(admin_client, "reset", row, mine))

    row.refresh_from_db()
    assert row.interval is None and row.crontab.hour == "4"
    assert "Not changed, as no code declares it: Mine." in told
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
        pull(admin_client, "reset", row)
    row.refresh_from_db()
    assert row.enabled
    row.enabled = False
    row.save()

    admin_client.post(reverse("admin:scheduling_resume_all"))

    row.refresh_from_db()
    assert not row.enabled


def test_what_an_operator_has_renamed_is_still_declared(admin_client: Client) -> None:
    row = declared()
    PeriodicTask.objects.filter(pk=row.pk).update(name="Another name")
    delete = reverse("admin:django_celery_beat_periodictask_delete", args=[row.pk])

    assert "declared in scheduling/schedules.py" in text_of(admin_client.get(LIST))
    assert "Remove it there" in text_of(admin_client.post(delete, {"post": "yes"}))
    pull(admin_client, "reset", row)
    row.refresh_from_db()
    assert row.name == "Clean up the run history"


def test_what_has_run_once_is_done_not_paused(admin_client: Client) -> None:
    make("Once", enabled=False, one_off=True, total_run_count=1, **every(10))

    assert "Done: it runs once" in text_of(admin_client.get(LIST))
    assert not admin_client.get(f"{LIST}?state=paused").context["cl"].result_list


def test_what_is_confirmed_does_not_depend_on_a_filter(admin_client: Client) -> None:
    row = make("Row", last_run_at=NOON - 20 * MINUTE, **every(10))
    chosen = {"action": "pause", "_selected_action": [row.pk]}

    asked = text_of(admin_client.post(f"{LIST}?state=overdue", chosen))

    assert f'<form method="post" action="{LIST}">' in asked


def test_a_time_at_the_end_of_times_is_shown(admin_client: Client, settings: Settings) -> None:
    settings.TIME_ZONE = "UTC"  # east of it, ClockedSchedule's own text overflows
    end = datetime(9999, 12, 31, 23, 30, tzinfo=UTC)
    make("Far", clocked=ClockedSchedule.objects.create(clocked_time=end), one_off=True)

    with timezone.override("Asia/Tokyo"):
        assert admin_client.get(LIST).status_code == 200


def test_a_lever_on_a_page_leads_back_to_it(admin_client: Client) -> None:
    row = make("Row", **every(10))

    answer = pull(admin_client, "pause", row, page="1")

    assert answer.redirect_chain == [(page_of(row), 302)]


def test_what_code_declares_is_not_deleted(admin_client: Client) -> None:
    row, mine = declared(), make("Mine", **every(10))
    reason = "Clean up the run history: declared in scheduling/schedules.py. Remove it there"
    delete = reverse("admin:django_celery_beat_periodictask_delete", args=[row.pk])
    timing = reverse("admin:django_celery_beat_crontabschedule_delete", args=[row.crontab_id])
    selected = {"action": "delete_selected", "_selected_action": [row.pk, mine.pk], "post": "yes"}

    for answer in (
        admin_client.post(delete, {"post": "yes"}),
        admin_client.post(timing, {"post": "yes"}),
        admin_client.post(LIST, selected),
    ):
        assert reason in text_of(answer)
    assert PeriodicTask.objects.filter(pk__in=[row.pk, mine.pk]).count() == 2

    admin_client.post(LIST, selected | {"_selected_action": [mine.pk]})
    assert not PeriodicTask.objects.filter(pk=mine.pk).exists()


# Who may


LEVERS = ["run_now", "pause", "resume", "reset", "delete_selected"]


def test_without_permission_nothing_is_seen_or_done(user: Callable[..., Client]) -> None:
    row, client = declared(), user("view_user")
    urls = [
        reverse(f"admin:scheduling_{n}") for n in ("timeline", "preview", "pause_all", "resume_all")
    ]

    for url in (LIST, page_of(row), *urls):
        assert client.get(url).status_code == 403, url
        assert client.post(url).status_code == 403, url
    for lever in LEVERS:
        assert (
            client.post(
                LIST,
                {"action": lever, "_selected_action": [row.pk], "confirmed": "yes", "post": "yes"},
            ).status_code
            == 403
        )
    row.refresh_from_db()
    assert row.enabled


def test_nobody_without_a_login_sees_anything(client: Client) -> None:
    for url in (LIST, TIMELINE, page_of(declared()), reverse("admin:scheduling_preview")):
        assert reverse("admin:login") in client.get(url).headers["Location"]


def test_who_may_look_may_not_pull(
    user: Callable[..., Client], sent: Callable[..., list[Any]]
) -> None:
    row, client = declared(), user("view_periodictask")
    store(row.name, NOON, "STARTED", "FAILURE")
    TaskResult.objects.update(result='{"exc_type": "Oh", "exc_message": ["secret"]}')

    text = text_of(client.get(LIST))
    assert "declared in" in text and "Pause all" not in text
    page = text_of(client.get(page_of(row)))
    assert '<svg class="chart"' in page
    assert "secret" not in page and 'name="action"' not in page
    assert client.get(TIMELINE).status_code == 200
    for name in ("preview", "pause_all", "resume_all"):
        assert client.post(reverse(f"admin:scheduling_{name}")).status_code == 403
    for lever in LEVERS:
        client.post(
            LIST, {"action": lever, "_selected_action": [row.pk], "confirmed": "yes", "post": "yes"}
        )
    assert PeriodicTask.objects.filter(pk=row.pk, enabled=True).exists()
    assert not sent() and not LogEntry.objects.exists()


def test_running_needs_its_own_permission(
    user: Callable[..., Client], sent: Callable[..., list[Any]]
) -> None:
    row, client = declared(), user("view_periodictask", "run_schedule")

    pull(client, "run_now", row)
    client.post(LIST, {"action": "pause", "_selected_action": [row.pk], "confirmed": "yes"})

    assert len(sent()) == 1
    assert PeriodicTask.objects.filter(pk=row.pk, enabled=True).exists()


# The form


def form(**values: Any) -> dict[str, Any]:
    given = {"name": "New", "task": TASK, "enabled": "on", "args": "[]", "kwargs": "{}"}
    if "interval" not in values and "crontab" not in values:
        given["interval"] = IntervalSchedule.objects.create(every=10, period="minutes").pk
    return given | values


REFUSED = [
    ({"task": "no.such.task"}, "Select a valid choice"),
    ({"task": ""}, "This field is required"),
    ({"args": "[1"}, "This is no JSON"),
    ({"args": '{"a": 1}'}, "write a list, such as [1, 2]"),
    ({"kwargs": "[]"}, "write an object"),
    ({"headers": "[]"}, "write an object"),
    ({"args": "[1, 2]"}, "The task takes () -&gt; int: too many positional arguments."),
    ({"kwargs": '{"x": 1}'}, "unexpected keyword argument"),
    ({"interval": ""}, "One of clocked, interval, crontab, or solar must be set."),
    ({"crontab": "CRONTAB"}, "Only one of clocked, interval, crontab, or solar must be set"),
    ({"expire_seconds": "9", "expires_0": "2027-01-01", "expires_1": "00:00"}, "Give either"),
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
    assert f"{TASK}: Delete what is older than" in text_of(admin_client.get(add))

    answer = admin_client.post(add, form(headers='{"customer": "x"}'), follow=True)

    assert "was added successfully" in messages(answer)[0]
    assert PeriodicTask.objects.get().task == TASK


def test_a_row_whose_task_is_gone_must_get_another(admin_client: Client) -> None:
    row = make("Row", **every(10))
    assert "some.task: no worker knows it" in text_of(admin_client.get(page_of(row)))

    answer = admin_client.post(page_of(row), form(task="some.task", interval=row.interval_id))

    assert "No worker knows this task: choose another." in text_of(answer)


def test_a_schedule_that_is_renamed_keeps_its_history(admin_client: Client) -> None:
    row = make("Old", last_run_at=NOON, **every(10))
    store("Old", NOON, "STARTED", "SUCCESS")
    data = form(name="New", interval=row.interval_id)

    assert (
        "was changed successfully"
        in messages(admin_client.post(page_of(row), data, follow=True))[0]
    )

    assert [run.schedule for run in Run.objects.all()] == ["New"]
    assert TaskResult.objects.filter(periodic_task_name="New").exists()


def test_the_next_five_times_are_shown_before_saving(admin_client: Client) -> None:
    crontab = CrontabSchedule.objects.create(hour="3", minute="0", timezone="UTC")

    text = text_of(admin_client.get(reverse("admin:scheduling_preview"), form(crontab=crontab.pk)))

    assert "at 03:00, UTC" in text
    assert text.count("<time ") == 5 and ">02 Jun 03:00:00</time>" in text


def test_a_preview_of_a_row_counts_as_its_saving_would(admin_client: Client) -> None:
    row = make("Row", last_run_at=NOON - 4 * MINUTE, **every(10))
    preview = reverse("admin:scheduling_preview")
    another = IntervalSchedule.objects.create(every=20, period="minutes")

    unchanged = admin_client.get(preview, form(interval=row.interval_id, pk=row.pk))
    changed = admin_client.get(preview, form(interval=another.pk, pk=row.pk))

    assert ">12:06:00</time>" in text_of(unchanged)
    assert ">12:20:00</time>" in text_of(changed)
    row.refresh_from_db()
    assert row.last_run_at == NOON - 4 * MINUTE


@pytest.mark.parametrize(
    "values", [{"interval": ""}, {"crontab": "999"}, {"start_time_0": "x"}, {}]
)
def test_a_preview_of_what_is_not_right_yet_is_no_error(
    admin_client: Client, values: dict[str, str]
) -> None:
    answer = admin_client.get(
        reverse("admin:scheduling_preview"), form(**{"interval": ""} | values)
    )

    assert answer.status_code == 200
    assert "it has no schedule, or several" in text_of(answer)
