"""manage.py schedules."""

import re
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from celery import current_app
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, PeriodicTask

from scheduling.management.commands import schedules
from scheduling.models import Node
from tests.factories import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    SECOND,
    STOCK_SCHEDULER,
    at,
    every,
    make,
    store,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def noon() -> Iterator[None]:
    PeriodicTask.objects.all().delete()
    with time_machine.travel(NOON, tick=False), timezone.override("Europe/Berlin"):
        yield


def listed(*arguments: str, **options: Any) -> str:
    output = StringIO()
    call_command("schedules", *arguments, stdout=output, **options)
    return output.getvalue()


def make_one_of_each() -> None:
    make("Punctual", last_run_at=NOON - MINUTE, **every(10))
    store("Punctual", NOON - MINUTE, "started", "succeeded")
    make("Overdue", last_run_at=NOON - 15 * MINUTE, **every(10))
    store("Overdue", NOON - 15 * MINUTE, "started", "succeeded", late=200 * SECOND)
    make("Failing", last_run_at=NOON - HOUR, **at("3", zone="Europe/Berlin"))
    for hours in (1, 2):
        store("Failing", NOON - hours * HOUR, "started", "failed")
    make("Waiting", last_run_at=NOON - 20 * SECOND, **every(10))
    store("Waiting", NOON - 20 * SECOND, "sent")
    make("Paused", enabled=False, **every(10))
    make("Broken", **at("30", "2"))
    once = ClockedSchedule.objects.create(clocked_time=NOON - DAY)
    make("Ended", enabled=False, one_off=True, clocked=once, total_run_count=1)
    make("Expired", enabled=False, expires=NOON - DAY, **every(10))
    later = ClockedSchedule.objects.create(clocked_time=NOON + 3 * DAY)
    make("Later", one_off=True, clocked=later)
    Node.objects.create(name="here:1", is_worker=False, seen_at=NOON - 3 * SECOND)
    Node.objects.create(name="ended:2", is_worker=False, seen_at=NOON - MINUTE)


LIST = """\
beat: here:1 ticked 3 s ago
STATE   NEXT                 LAST        LATE   TOOK WHEN                    SCHEDULE
broken                                               at 30:02, UTC           Broken: ValueError: \
Invalid end range: 30 > 23.
ended                                                once at 2026-05-31 12:… Ended
expired                                              every 10 minutes        Expired
failing 03:00 in 13 h        failed       0 s    1 s at 03:00, Europe/Berlin Failing
        04 Jun in 3 d                                once at 2026-06-04 12:… Later
overdue 13:55 5 min ago      late       3 min    1 s every 10 minutes        Overdue
paused                                               every 10 minutes        Paused
        14:09 in 9 min       succeeded    0 s    1 s every 10 minutes        Punctual
waiting 14:09 in 9 min       waiting     20 s        every 10 minutes        Waiting: \
no worker consumes the queue 'celery'
9 schedules, 1 broken, 1 ended, 1 expired, 1 failing, 1 overdue, 1 paused, 1 waiting
"""


def test_the_list_says_what_was_and_what_comes() -> None:
    make_one_of_each()

    assert listed() == LIST


def test_only_what_is_overdue_is_listed_and_is_an_error() -> None:
    make_one_of_each()
    make("Longer", last_run_at=NOON - 19 * MINUTE, **every(10))
    store("Waiting", NOON - 2 * MINUTE, "sent")
    output = StringIO()

    with pytest.raises(CommandError, match="Overdue: 3") as raised:
        call_command("schedules", "--overdue", stdout=output)

    assert raised.value.returncode == 1
    lines = output.getvalue().splitlines()[2:]
    assert [line.split()[-1] for line in lines] == ["Longer", "Overdue", "'celery'"]


def test_that_nothing_is_overdue_is_no_error() -> None:
    make("Punctual", last_run_at=NOON, **every(10))

    assert listed("--overdue").splitlines()[2:] == ["0 schedules"]


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (None, "beat: never ticked"),
        (3 * SECOND, "beat: here:1 ticked 3 s ago"),
        (3 * DAY, "beat: ticked 3 d ago"),
    ],
)
def test_the_heartbeat_comes_first(ago: timedelta | None, words: str) -> None:
    if ago:
        Node.objects.create(name="here:1", is_worker=False, seen_at=NOON - ago)

    assert listed().splitlines()[0] == words


def test_a_scheduler_without_a_heartbeat_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(current_app.conf, "beat_scheduler", STOCK_SCHEDULER)

    assert listed().splitlines()[0] == "beat: its scheduler has no heartbeat"


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_and_lines_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    make("x" * 200, last_run_at=NOON - 15 * MINUTE, **every(10))
    monkeypatch.setenv("COLUMNS", "100")
    output = Terminal()

    call_command("schedules", stdout=output, force_color=True)

    line = output.getvalue().splitlines()[2]
    plain = re.sub(r"\x1b\[[\d;]*m", "", line)
    assert (len(plain), plain[-2:], line != plain) == (100, "x…", True)


def test_a_pipe_gets_whole_names_without_colours() -> None:
    name = "x" * 200
    make(name, last_run_at=NOON - 15 * MINUTE, **every(10))

    assert listed().splitlines()[2].endswith(f" {name}")
    assert "\x1b" not in listed()


def test_no_name_and_no_crontab_steers_the_terminal() -> None:
    row = make("Red \x1b[31m\nnext", **at("3"))
    CrontabSchedule.objects.filter(pk=row.crontab_id).update(minute="\x1b[2J\n")
    Node.objects.create(name="here\x1b[2J", is_worker=False, seen_at=NOON)

    text = listed()

    assert "\x1b" not in text
    assert len(text.splitlines()) == 4
    assert "\\x1b[2J\\n" in text
    assert "Red \\x1b[31m\\nnext" in text


def test_many_schedules_are_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "ROWS_PER_QUERY", 10)
    shared = every(10)
    for number in range(35):
        make(f"Number {number:02}", last_run_at=NOON - MINUTE, **shared)
        store(f"Number {number:02}", NOON - MINUTE, "started", "succeeded")

    with CaptureQueriesContext(connection) as queries:
        lines = listed().splitlines()

    assert [line.split()[-1] for line in lines[2:-1]] == [f"{number:02}" for number in range(35)]
    assert all("succeeded" in line for line in lines[2:-1])
    assert len(queries) <= 5 + 4  # of them, one for each chunk
