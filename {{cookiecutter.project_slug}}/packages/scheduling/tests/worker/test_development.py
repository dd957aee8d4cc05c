"""In development, a worker consumes all queues that anything names, and rereads templates."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.app.amqp import Queues
from django.db import DatabaseError, connections
from django.template.loader import render_to_string
from django_celery_beat.models import PeriodicTask
from kombu import Queue
from pytest_django import Settings

from scheduling.declare import queues
from scheduling.worker import development
from tests.factories import every, make

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def in_development(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DEBUG = True
    monkeypatch.setattr(queues, "named", lambda: {"declared": ["a schedule"]})
    monkeypatch.setattr(connections, "close_all", lambda: None)  # of the test, too
    make("Row", queue="of a row", **every(10))


def consumed(**options: Any) -> set[str]:
    """The queues of a worker that is about to start."""
    selection: Any = Queues([Queue("celery")])
    worker = SimpleNamespace(app=SimpleNamespace(amqp=SimpleNamespace(queues=selection)))
    development.consume_all_queues(worker, options)
    return set(selection.consume_from)


def test_a_worker_consumes_what_schedules_tasks_and_rows_name() -> None:
    assert consumed() == {"celery", "declared", "of a row"}


def test_a_worker_does_not_consume_a_key_of_the_broker_that_a_row_names() -> None:
    make("Wrong", queue="unacked", **every(10))

    assert "unacked" not in consumed()


@pytest.mark.parametrize("options", [{"queues": ["celery"]}, {"exclude_queues": ["declared"]}])
def test_what_the_command_line_says_wins(options: dict[str, Any]) -> None:
    assert consumed(**options) == {"celery"}


def test_production_consumes_what_is_configured(settings: Settings) -> None:
    settings.DEBUG = False

    assert consumed() == {"celery"}


def test_a_worker_starts_without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**kwargs: Any) -> Any:
        raise DatabaseError("no such table")

    monkeypatch.setattr(PeriodicTask.objects, "exclude", fail)

    assert consumed() == {"celery", "declared"}


@pytest.mark.parametrize(("debug", "rendered"), [(True, "after"), (False, "before")])
def test_a_task_renders_a_template_as_it_is_now(
    settings: Settings, tmp_path: Path, debug: bool, rendered: str
) -> None:
    settings.DEBUG = debug
    settings.TEMPLATES = [settings.TEMPLATES[0] | {"DIRS": [tmp_path]}]
    mail = tmp_path / "mail.txt"
    mail.write_text("before")
    assert render_to_string("mail.txt") == "before"
    mail.write_text("after")

    development.read_templates_anew()

    assert render_to_string("mail.txt") == rendered
