"""Logs as JSON, by real processes: each line is one, also Celery's, gunicorn's and of children."""

import json
import urllib.request
from typing import Any

import pytest

from tests.harness.deployment import VARIABLES
from tests.harness.processes import Live, wait_for

ODD_TASK = '''

@shared_task
def odd_task() -> None:
    """Says all sorts of things."""
    import logging
    import warnings

    from celery.utils.log import get_task_logger

    logging.getLogger("ours").warning("two\\nlines {%s", "x", extra={"order": 5})
    get_task_logger(__name__).info("by the task's logger")
    print("printed")
    warnings.warn("warned", stacklevel=1)
    raise ValueError("no\\ngood")
'''
SCHEDULES = """
from datetime import timedelta

from scheduling import Schedule

every = timedelta(seconds=1)
schedules = [Schedule("Odd", "application.tasks.odd_task", every, expires=None)]
"""


def lines(output: str) -> list[dict[str, Any]]:
    """What was logged after a process's banner; fails if there is anything but JSON in it."""
    whole = output[output.index('{"time"') : output.rindex("\n")]
    return [json.loads(line) for line in whole.splitlines()]


@pytest.fixture
def odd(live: Live) -> Live:
    """A service with a task that says all sorts of things every second, and logs JSON."""
    tasks = live.project.path / "application/tasks.py"
    tasks.write_text(tasks.read_text() + ODD_TASK)
    (live.project.path / "application/schedules.py").write_text(SCHEDULES)
    live.env["LOG_FORMAT"] = "json"
    live.migrate()
    return live


def test_every_line_of_a_worker_and_of_beat_is_json(odd: Live) -> None:
    worker = odd.celery("worker", "--loglevel=info")
    beat = odd.celery("beat", "--loglevel=info")
    worker.wait_for("raised unexpected", count=2)
    beat.wait_for("Sending due task", count=2)

    logged = lines(worker.output)
    inside = [line for line in logged if "run" in line]
    run = [line for line in inside if line["run"] == inside[0]["run"]]
    assert {line["task"] for line in run} == {"application.tasks.odd_task"}
    assert {line["schedule"] for line in run} == {"Odd"}
    assert [(line["logger"], line["message"]) for line in run if line["logger"] == "ours"] == [
        ("ours", "two\nlines {x")
    ]
    by_logger = {line["logger"]: line for line in run}
    assert by_logger["application.tasks"]["message"] == "by the task's logger"
    assert by_logger["celery.redirected"]["message"] == "printed"
    assert by_logger["celery.app.trace"]["exception"].endswith("ValueError: no\ngood")
    assert any("ready." in line["message"] for line in logged)
    assert any(line["message"].startswith("Scheduler: Sending") for line in lines(beat.output))


def test_the_command_line_says_how_much_and_where_to(odd: Live) -> None:
    worker = odd.celery("worker", "--loglevel=warning", "--logfile=worker.log")
    beat = odd.celery("beat", "--loglevel=debug")
    beat.wait_for("Sending due task")
    log = odd.project.path / "worker.log"
    wait_for(lambda: log.exists() and "raised" in log.read_text(), "the worker's log")

    assert {line["level"] for line in lines(log.read_text())} == {"WARNING", "ERROR"}
    assert '{"time"' not in worker.output
    assert "DEBUG" in {line["level"] for line in lines(beat.output)}


def test_gunicorns_workers_log_json_too(live: Live) -> None:
    address = f"127.0.0.1:{live.port}"
    live.env |= VARIABLES | {
        "DEBUG": "false",  # gunicorn refuses it
        "DATABASE_URL": "sqlite://:memory:",
        "CELERY_BROKER_URL": "redis://127.0.0.1:9/0",
    }
    web = live.start("gunicorn", f"{live.project.slug}.wsgi", "-b", address)
    web.wait_for("Booting worker")
    request = urllib.request.Request(
        f"http://{address}/health/live", headers={"User-Agent": "curl/0"}
    )
    urllib.request.urlopen(request, timeout=30).close()
    web.wait_for('curl/0\\""}')

    [line] = [line for line in web.output.splitlines() if '"gunicorn.access"' in line]
    assert "GET /health/live" in json.loads(line)["message"]
