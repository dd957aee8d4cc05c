"""manage.py run_schedule. The tests of the admin's actions show what a run now sends."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django_celery_beat.models import PeriodicTask

from scheduling import operations
from tests.factories import every, make

pytestmark = pytest.mark.django_db


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the rows that the command sends."""
    names: list[str] = []

    def run_now(rows: list[PeriodicTask]) -> dict[PeriodicTask, str]:
        names.extend(row.name for row in rows)
        return dict.fromkeys(rows, "")

    monkeypatch.setattr(operations, "run_now", run_now)
    return names


def run(name: str) -> str:
    output = StringIO()
    call_command("run_schedule", name, stdout=output)
    return output.getvalue().rstrip("\n")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "some.task, args []"),
        ({"args": '["x"]', "queue": "long"}, "some.task, args [\"x\"], to the queue 'long'"),
        ({"kwargs": '{"a": 1}', "enabled": False}, 'some.task, args [], kwargs {"a": 1}'),
    ],
)
def test_a_run_is_sent_and_said(sent: list[str], values: dict[str, Any], said: str) -> None:
    make("Send mails", **every(10), **values)

    assert run("Send mails") == f"Sent 'Send mails': {said}. A worker runs it."
    assert sent == ["Send mails"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Send mail", "Did you mean 'Send mails'?"),
        ("Nothing like it", "manage.py schedules lists the names."),
    ],
)
def test_an_unknown_name_is_refused(sent: list[str], name: str, hint: str) -> None:
    make("Send mails", **every(10))

    with pytest.raises(CommandError) as raised:
        run(name)

    assert str(raised.value) == f"There is no schedule {name!r}. {hint}"
    assert raised.value.returncode == 2
    assert sent == []


def test_what_cannot_be_sent_is_an_error() -> None:
    make("Lost", **every(10))

    with pytest.raises(CommandError, match="'Lost' was not sent: no worker knows") as raised:
        run("Lost")

    assert raised.value.returncode == 1


def test_no_reason_steers_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    make("Red \x1b[31m", **every(10))
    monkeypatch.setattr(operations, "run_now", lambda rows: dict.fromkeys(rows, "no \x1b[2J\n"))

    with pytest.raises(CommandError) as raised:
        run("Red \x1b[31m")

    assert str(raised.value) == "'Red \\x1b[31m' was not sent: no \\x1b[2J\\n"
