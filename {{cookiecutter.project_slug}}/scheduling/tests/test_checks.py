"""Each system check, tripped."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import current_app
from django.core import mail
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from pytest_django import Settings

MakeApp = Callable[..., None]
SCHEDULES = """
from datetime import timedelta
from scheduling.schedule import Schedule
schedules = [Schedule({!r}, {!r}, timedelta(days=1), renamed_from={!r})]
"""
TASK = "celery.backend_cleanup"


def messages() -> list[str]:
    return [str(message) for message in run_checks()]


@pytest.fixture
def conf(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Changes a setting of Celery's."""
    return lambda name, value: monkeypatch.setitem(current_app.conf, name, value)


def test_this_service_has_nothing_to_complain_of() -> None:
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
