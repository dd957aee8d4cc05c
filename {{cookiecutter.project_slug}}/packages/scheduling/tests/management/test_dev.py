"""manage.py dev. Tests with a real worker and beat show that it runs them."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import time_machine
from celery import current_app
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from pytest_django import Settings

from scheduling.declare import discovery
from scheduling.management.breakpoint import explain
from scheduling.management.commands.dev import Command, first_schedule
from scheduling.sync.apply import seed
from tests.factories import HOUR, MINUTE, NOON, at, every, make

pytestmark = pytest.mark.django_db


def said() -> str:
    """What dev says about the next run at noon UTC, without its prefix."""
    output = StringIO()
    with time_machine.travel(NOON, tick=False), timezone.override("Europe/Berlin"):
        Command(stdout=output).say_what_runs_next()
    return output.getvalue().removeprefix("dev    | ").rstrip("\n")


@pytest.fixture(autouse=True)
def no_schedules() -> None:
    PeriodicTask.objects.all().delete()


def test_the_first_run_of_the_enabled_schedules_is_next() -> None:
    assert said() == ""

    make("Later", last_run_at=NOON, **every(10))
    make("Paused", enabled=False, last_run_at=NOON, **every(1))
    make("Broken", **at("30"))
    make("Sooner", last_run_at=NOON - MINUTE, **every(6))

    assert said() == "Next: Sooner, at 14:05:00"


def test_an_overdue_run_is_next_at_once() -> None:
    make("Overdue", last_run_at=NOON - HOUR, **every(10))

    assert said() == "Next: Overdue, at 14:00:00"


def test_no_line_of_a_process_and_no_name_steers_the_terminal() -> None:
    make("Red \x1b[31m\nnext", last_run_at=NOON, **every(10))
    output = StringIO()

    Command(stdout=output).say("a\tb \x1b[2J\x1b[1A", "worker")

    assert output.getvalue() == "worker | a       b \\x1b[2J\\x1b[1A\n"
    assert said() == "Next: Red \\x1b[31m\\nnext, at 14:10:00"


def test_a_user_model_that_wants_more_is_left_to_createsuperuser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**fields: str) -> None:
        assert fields == {"email": "admin@example.com", "password": "admin"}
        raise TypeError("missing 'date_of_birth'")

    model = SimpleNamespace(  # as Django's documentation makes one from AbstractBaseUser
        _default_manager=SimpleNamespace(exists=lambda: False, create_superuser=refuse),
        _meta=User._meta,
        USERNAME_FIELD="email",
        REQUIRED_FIELDS=["date_of_birth"],
        get_email_field_name=User.get_email_field_name,
    )
    monkeypatch.setattr("scheduling.management.commands.dev.get_user_model", lambda: model)
    output = StringIO()

    assert Command(stdout=output).make_superuser()
    assert "Made no superuser (missing 'date_of_birth'): run python" in output.getvalue()


def test_dev_refuses_production(settings: Settings) -> None:
    settings.DEBUG = False

    with pytest.raises(CommandError, match="set DEBUG=true"):
        call_command("dev")


SCHEDULES = """
from celery.schedules import crontab
from datetime import timedelta
from scheduling import Schedule

task = "celery.backend_cleanup"
schedules = [
    Schedule("At night", task, crontab(hour=3, minute=0)),
    Schedule("Paused", task, timedelta(minutes=10), enabled=False),
    Schedule("First", task, timedelta(minutes=10)),
    Schedule("Second", task, timedelta(minutes=10)),
]
"""


def test_the_project_s_first_schedule_that_runs_every_so_often_is_run_first(
    make_app: Callable[..., None],
) -> None:
    seed(discovery.declared())
    assert PeriodicTask.objects.exists()  # the engine's own
    assert first_schedule() is None

    make_app("dev_first", schedules=SCHEDULES)
    seed(discovery.declared())

    assert first_schedule().name == "First"


def test_dev_says_all_that_a_project_lacks(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DEBUG = True
    settings.BASE_DIR = tmp_path
    settings.CELERY_BROKER_URL = ""
    monkeypatch.setattr(current_app, "main", "default")  # Celery's own app

    with pytest.raises(CommandError) as raised:
        call_command("dev")

    assert str(raised.value).splitlines() == [
        "dev needs",
        f"  manage.py in BASE_DIR, which is {tmp_path}",
        "  the project's Celery app: import it in the __init__.py beside settings.py",
        "  CELERY_BROKER_URL in the settings: redis://, rediss://, amqp:// or amqps://",
    ]


def test_a_breakpoint_without_a_terminal_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.breakpointhook", explain)

    breakpoint()

    assert f"{__file__}:" in capsys.readouterr().out.splitlines()[0]
