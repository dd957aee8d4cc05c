"""The format of a JSON log line. Tests with real workers and beats show that they use it."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import shared_task

from scheduling import logs

ODD = 'two\nlines, "quotes", \\, \x00, \x1b[31m, \u2028, %s, é, 🚀, \udcff'
logger = logging.getLogger("some_app.some_module")
Log = Callable[[], dict[str, Any]]


@shared_task
def say_something() -> None:
    logger.warning("Inside")


@pytest.fixture
def logged() -> Iterator[Log]:
    """Reads the one line that was logged since the last call."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.Formatter())
    handler.addFilter(logs.RunFilter())
    logger.addHandler(handler)

    def logged() -> dict[str, Any]:
        text = stream.getvalue()
        assert text.isascii()
        assert text.count("\n") == 1
        stream.seek(stream.truncate(0))
        line: dict[str, Any] = json.loads(text)
        return line

    yield logged
    logger.removeHandler(handler)


def test_a_line_says_when_who_and_what(logged: Log) -> None:
    before = datetime.now(UTC)
    logger.warning("%s left", 3, extra={"order": 5})
    after = datetime.now(UTC)

    line = logged()
    time = datetime.fromisoformat(line.pop("time"))
    assert before <= time <= after
    assert time.tzinfo == UTC
    assert line == {
        "level": "WARNING",
        "logger": "some_app.some_module",
        "message": "3 left",
        "order": 5,
    }


def test_whatever_a_message_contains_it_is_one_line(logged: Log) -> None:
    logger.warning(ODD, "{")

    assert logged()["message"] == ODD % "{"


def test_an_exception_comes_with_its_traceback(logged: Log) -> None:
    try:
        raise ValueError("no\ngood")
    except ValueError:
        logger.exception("Failed")

    line = logged()
    assert line["message"] == "Failed"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: no\ngood")


@pytest.mark.parametrize(
    ("headers", "schedule"), [({"periodic_task_name": "Nightly"}, "Nightly"), (None, None)]
)
def test_inside_a_task_a_line_names_task_schedule_and_run(
    logged: Log, headers: dict[str, str] | None, schedule: str | None
) -> None:
    say_something.apply(task_id="some-id", headers=headers)

    line = logged()
    assert line["task"] == f"{__name__}.say_something"
    assert (line["run"], line["schedule"]) == ("some-id", schedule)

    logger.warning("Outside")
    assert not {"task", "run", "schedule"} & set(logged())


def test_arguments_and_requests_stay_out(logged: Log) -> None:
    logger.warning("Celery", extra={"data": {"args": "('ada@example.com',)"}})
    assert "data" not in logged()

    logger.warning("Django", extra={"request": "GET /?token=secret", "status_code": 404})
    line = logged()
    assert ("request" in line, line["status_code"]) == (False, 404)
