"""The formats of log lines. Tests with real workers and beats show that they write JSON."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import current_app, shared_task
from celery.signals import after_setup_logger
from pytest_django import Settings

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


# Plain lines

FORGED = "Fine\x1b[2J\x1b]0;title\x07\r\n2026-06-01 12:00 INFO: all is well\x9b1A\u202e"
TAMED = "Fine\\x1b[2J\\x1b]0;title\\x07\\r\\n2026-06-01 12:00 INFO: all is well\\x9b1A\\u202e"
INDENTED = TAMED.replace("\\n", "\n    ")


def plain(record: logging.LogRecord) -> str:
    return logs.PlainFormatter().format(record)


def record_of(message: str, *args: Any, error: Exception | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, None) if error else None
    return logging.LogRecord("some_app", logging.ERROR, __file__, 1, message, args, exc_info)


def test_a_plain_line_says_when_who_and_what() -> None:
    line = plain(record_of("%s left: Café 🚀", 3))

    assert datetime.fromisoformat(line[:19])
    assert line[23:] == " ERROR some_app: 3 left: Café 🚀"


@pytest.mark.parametrize(
    ("message", "args"), [("Skipping %s (%d)", (FORGED, 3)), ("Skipping %(it)s", {"it": FORGED})]
)
def test_no_name_forges_a_plain_line_or_steers_a_terminal(message: str, args: Any) -> None:
    record = record_of(message, *(args if isinstance(args, tuple) else [args]))

    expected = (message % args).replace(FORGED, TAMED)
    assert plain(record).endswith(f" ERROR some_app: {expected}")
    assert record.getMessage() == message % args  # for the other handlers


def test_nor_does_an_error_and_a_traceback_stays_readable() -> None:
    lines = plain(record_of("Failed", error=ValueError(FORGED))).splitlines()

    assert lines[1:] == f"ValueError: {INDENTED}".splitlines()


def test_what_is_printed_on_several_lines_stays_so() -> None:
    mail = "Subject: Hi\n\nDear Ada\tLovelace,\n"

    assert plain(record_of(mail)).endswith("Subject: Hi\n    \n    Dear Ada        Lovelace,\n    ")


def test_celery_s_own_lines_keep_their_format_and_colours_and_carry_no_others(
    settings: Settings,
) -> None:
    settings.LOG_FORMAT = "plain"
    stream, celery_s = io.StringIO(), logging.getLogger("plain lines of Celery")
    current_app.log.setup_handlers(celery_s, stream, "[%(levelname)s] %(message)s", colorize=True)

    for _ in range(2):  # Celery sends it twice
        after_setup_logger.send(sender=None, logger=celery_s)
    celery_s.propagate = False
    celery_s.error("Scheduler: Sending %s", FORGED)

    assert stream.getvalue() == f"\x1b[1;31m[ERROR] Scheduler: Sending {TAMED}\x1b[0m\n"
