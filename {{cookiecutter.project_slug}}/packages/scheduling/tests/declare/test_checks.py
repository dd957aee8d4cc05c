"""Trip each system check."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from celery import current_app
from celery.signals import beat_init, worker_init
from celery.utils.dispatch import Signal
from django.core import mail
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.db.utils import ConnectionHandler
from pytest_django import Settings

from scheduling.apps import check_driver

MakeApp = Callable[..., None]
SCHEDULES = """
from datetime import timedelta
from scheduling import Schedule
schedules = [Schedule({!r}, {!r}, timedelta(days=1), renamed_from={!r})]
"""
TASK = "celery.backend_cleanup"


def work() -> None:
    """Do nothing."""


def messages() -> list[str]:
    return [str(message) for message in run_checks()]


@pytest.fixture
def conf(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Changes one of Celery's settings."""
    return lambda name, value: monkeypatch.setitem(current_app.conf, name, value)


def test_a_sound_project_has_no_messages() -> None:
    assert messages() == []


def test_two_schedules_of_one_name(make_app: MakeApp) -> None:
    make_app("check_twin_a", schedules=SCHEDULES.format("Twin", TASK, ""))
    make_app("check_twin_b", schedules=SCHEDULES.format("Twin", TASK, ""))

    [message] = messages()

    assert "(scheduling.E001) 2 schedules are called 'Twin', in " in message
    assert "check_twin_a/schedules.py and in " in message
    assert "check_twin_b/schedules.py." in message


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ("celery.backend_clean", "Did you mean 'celery.backend_cleanup'?"),
        ("nothing.like.it", "Look at its app's tasks.py."),
    ],
)
def test_a_task_that_no_app_registers(make_app: MakeApp, task: str, hint: str) -> None:
    app = f"check_task_{len(task)}"
    make_app(app, schedules=SCHEDULES.format("Lost", task, ""))

    [message] = messages()

    assert "(scheduling.E002) Schedule 'Lost' in " in message
    assert f"{app}/schedules.py is for the task {task!r}, which no installed app" in message
    assert f"HINT: {hint}" in message


def test_a_task_that_an_app_registers(make_app: MakeApp) -> None:
    make_app(
        "check_app",
        tasks="from celery import shared_task\n@shared_task\ndef work() -> None: ...",
        schedules=SCHEDULES.format("Work", "check_app.tasks.work", ""),
    )

    assert messages() == []


def test_renamed_from_a_schedule_that_is_still_there(make_app: MakeApp) -> None:
    make_app("check_old", schedules=SCHEDULES.format("Old", TASK, ""))
    make_app("check_new", schedules=SCHEDULES.format("New", TASK, "Old"))

    [message] = messages()

    assert "(scheduling.E003) Schedule 'New' in " in message
    assert "check_new/schedules.py says renamed_from='Old'" in message


def test_beat_schedule_beside_schedules_py(conf: Callable[[str, Any], None]) -> None:
    conf("beat_schedule", {"Every day": {"task": TASK, "schedule": 86400}})

    [message] = messages()

    assert "(scheduling.W004) CELERY_BEAT_SCHEDULE has 'Every day': " in message


def test_two_time_zones(settings: Settings) -> None:
    celerys = str(current_app.timezone)
    settings.TIME_ZONE = "Asia/Tokyo" if celerys != "Asia/Tokyo" else "UTC"

    [message] = messages()

    assert f"(scheduling.W005) CELERY_TIMEZONE is {celerys!r}, " in message
    assert f"TIME_ZONE is {settings.TIME_ZONE!r}" in message


def test_eager_tasks(conf: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    conf("task_always_eager", True)
    assert messages() == []  # in tests

    monkeypatch.delattr(mail, "outbox")
    [message] = messages()

    assert "(scheduling.W006) CELERY_TASK_ALWAYS_EAGER is on: " in message


@pytest.fixture
def mysql(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database says that it is MySQL, which needs no driver here."""
    monkeypatch.setattr(connection, "vendor", "mysql")
    monkeypatch.setattr(connection, "display_name", "MySQL")


@pytest.mark.usefixtures("mysql")
def test_a_database_that_is_not_supported() -> None:
    [message] = messages()

    assert "(scheduling.E007) The database 'default' is MySQL, which the scheduler" in message
    assert "HINT: Use PostgreSQL, or SQLite" in message


@pytest.mark.usefixtures("mysql")
@pytest.mark.parametrize(
    ("command", "options"), [("check", {}), ("migrate", {"skip_checks": False})]
)
def test_commands_refuse_a_database_that_is_not_supported(
    command: str, options: dict[str, bool]
) -> None:
    with pytest.raises(SystemCheckError, match="scheduling.E007"):
        call_command(command, **options)


@pytest.mark.usefixtures("mysql")
@pytest.mark.parametrize("start", [worker_init, beat_init])
def test_a_worker_and_beat_refuse_a_database_that_is_not_supported(
    start: Signal, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="1"):
        start.send(sender=None)

    assert "(scheduling.E007) The database 'default' is MySQL" in caplog.text


def test_a_driver_that_is_missing_would_not_help(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = "django.db.backends.mysql"
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", engine)
    monkeypatch.setattr(
        "scheduling.apps.connections", ConnectionHandler({"default": {"ENGINE": engine}})
    )
    monkeypatch.setitem(sys.modules, "MySQLdb", None)

    with pytest.raises(ImproperlyConfigured) as raised:
        check_driver()

    said = f"The scheduler does not support {engine}: use PostgreSQL or SQLite."
    assert raised.value.__notes__ == [said]


@pytest.mark.parametrize(
    ("options", "wait", "run"),
    [
        ({"time_limit": 60 * 60}, 180, 3600),
        ({"time_limit": 57 * 60}, 180, 3420),
        ({"soft_time_limit": 60 * 60}, 180, 3600),
        ({"time_limit": 60 * 60, "max_retries": 0}, 0, 3600),
        ({"time_limit": 60, "default_retry_delay": 3600}, 3600, 60),
        (
            {
                "time_limit": 60,
                "autoretry_for": (OSError,),
                "retry_backoff": True,
                "retry_backoff_max": 7200,
            },
            7200,
            60,
        ),
    ],
)
def test_a_task_that_may_take_longer_than_redis_waits(
    options: dict[str, Any], wait: int, run: int, caplog: pytest.LogCaptureFixture
) -> None:
    app: Any = current_app
    app.task(name="check.long", **options)(work)
    try:
        [message] = messages()
        worker_init.send(sender=None)
    finally:
        current_app.tasks.unregister("check.long")

    said = f"Task 'check.long' may wait {wait} s for a retry and then run for {run} s"
    assert f"(scheduling.W008) {said}" in message
    assert "after visibility_timeout, 3600 s," in message
    assert 'HINT: Set CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"] = ' in message
    assert "scheduling.W008" in caplog.text


@pytest.mark.parametrize(
    ("options", "broker"),
    [
        ({"time_limit": 56 * 60}, "redis://"),
        ({"time_limit": 59 * 60, "max_retries": 0}, "redis://"),
        ({}, "redis://"),
        ({"time_limit": 60 * 60}, "amqp://"),  # it has no such timeout
    ],
)
def test_a_task_that_is_short_enough(
    options: dict[str, Any],
    broker: str,
    conf: Callable[[str, Any], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)  # Celery prefers it to its settings
    conf("broker_url", broker)
    app: Any = current_app
    app.task(name="check.short", **options)(work)
    try:
        assert messages() == []
    finally:
        current_app.tasks.unregister("check.short")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("check", {}),
        ("migrate", {"skip_checks": False}),
        ("seed_schedules", {"skip_checks": False}),
    ],
)
def test_an_error_stops_the_command(
    make_app: MakeApp, command: str, options: dict[str, bool]
) -> None:
    make_app(f"check_before_{command}", schedules=SCHEDULES.format("Lost", "no.task", ""))

    with pytest.raises(SystemCheckError, match="scheduling.E002"):
        call_command(command, verbosity=0, **options)
