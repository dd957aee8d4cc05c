"""What Sentry is told by a real beat and worker, on a server that only writes it down."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.harness.processes import Live, wait_for
from tests.harness.project import Project

SCHEDULES = """
from datetime import timedelta

from scheduling import Schedule

minute = timedelta(minutes=1)
schedules = [
    Schedule("Good", "application.tasks.send_email_task", minute, args=["ada@example.com"]),
    Schedule("Bad", "application.tasks.send_email_task", minute, args=["nobody"]),
]
"""
MAKE_DUE = """
from datetime import timedelta
from django.utils.timezone import now
from django_celery_beat.models import PeriodicTask, PeriodicTasks
PeriodicTask.objects.update(last_run_at=now() - timedelta(minutes=1))
PeriodicTasks.update_changed()
"""


class Sentry(ThreadingHTTPServer):
    """Takes envelopes; ``items`` has what was in them."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Envelopes)

    def events(self) -> list[dict[str, Any]]:
        return [item for item in self.items if "exception" in item]

    def check_ins(self, monitor: str) -> list[dict[str, Any]]:
        return [item for item in self.items if item.get("monitor_slug") == monitor]


class Envelopes(BaseHTTPRequestHandler):
    server: Sentry

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        for line in body.splitlines():
            with suppress(ValueError):
                self.server.items.append(json.loads(line))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    with Sentry() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_sentry_is_told_nothing_personal_and_without_a_dsn_nothing(service: Project) -> None:
    code = """
import json, sentry_sdk
options = sentry_sdk.get_client().options
names = ["dsn", "release", "send_default_pii", "include_local_variables"]
print(json.dumps([options.get(name) for name in [*names, "max_request_body_size"]]))
"""

    def options(**env: str) -> list[Any]:
        shell = ["python", "manage.py", "shell", "-v0", "-c", code]
        found: list[Any] = json.loads(service.run(*shell, env=env).stdout)
        return found

    dsn = "http://key@127.0.0.1:9/1"
    told = options(SENTRY_DSN=dsn, SENTRY_RELEASE="portal@1.2")
    assert told == [dsn, "portal@1.2", False, False, "never"]
    assert options()[0] is None


def test_sentry_hears_of_errors_and_of_each_run(live: Live, sentry: Sentry) -> None:
    (live.project.path / "application/schedules.py").write_text(SCHEDULES)
    live.env |= {
        "SENTRY_DSN": f"http://key@127.0.0.1:{sentry.server_port}/1",
        "SENTRY_ENVIRONMENT": "staging",
        "LATE_AFTER": "-1",
    }
    live.migrate()
    live.python(MAKE_DUE)
    worker = live.celery("worker", "--loglevel=info")
    live.celery("beat", "--loglevel=info")

    wait_for(lambda: len(sentry.check_ins("Good")) >= 2, "two check-ins of Good")
    wait_for(lambda: len(sentry.check_ins("Bad")) >= 2, "two check-ins of Bad")
    wait_for(sentry.events, "an error")
    worker.wait_for("Bad, due at ")  # Sentry's headers have not replaced beat's

    for monitor, end in (("Good", "ok"), ("Bad", "error")):
        first, last = sentry.check_ins(monitor)[:2]
        assert (first["status"], last["status"]) == ("in_progress", end)
        assert first["check_in_id"] == last["check_in_id"]
        assert first["environment"] == "staging"
        assert first["monitor_config"]["schedule"] == {
            "type": "interval",
            "value": 1,
            "unit": "minute",
        }
    event = sentry.events()[0]
    assert event["exception"]["values"][-1]["type"] == "PermanentMailError"
    assert event["transaction"] == "application.tasks.send_email_task"
    text = json.dumps(sentry.items)
    assert "ada@example.com" not in text
    assert '"vars"' not in text
