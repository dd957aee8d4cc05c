"""A queue that no worker consumes by default is said in development."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import current_app
from django.core.checks import run_checks
from kombu import Queue
from pytest_django import Settings

MakeApp = Callable[..., None]
SCHEDULES = """
from datetime import timedelta
from scheduling import Schedule
schedules = [Schedule("To a queue", "celery.backend_cleanup", timedelta(days=1), queue="long")]
"""


@pytest.fixture
def conf(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Changes one of Celery's settings."""
    return lambda name, value: monkeypatch.setitem(current_app.conf, name, value)


@pytest.fixture(autouse=True)
def in_development(settings: Settings) -> None:
    settings.DEBUG = True


def messages() -> list[str]:
    return [str(message) for message in run_checks()]


def test_a_queue_that_only_a_schedule_names(make_app: MakeApp) -> None:
    make_app("queues_schedule", schedules=SCHEDULES)

    [message] = messages()

    assert "(scheduling.W007) Only a worker with -Q long consumes the queue 'long'" in message
    assert "What sends to it: the schedule 'To a queue'." in message
    assert "CELERY_TASK_QUEUES = {CELERY_TASK_DEFAULT_QUEUE: {}, 'long': {}}." in message


def test_a_queue_that_only_a_task_or_a_route_names(
    conf: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current_app.tasks["celery.backend_cleanup"], "queue", "long", raising=False)
    conf("task_routes", {"orders.*": {"queue": "routed"}, "orders.quick": "quick"})

    found = messages()

    assert len(found) == 3
    for who in ("task 'celery.backend_cleanup'", "route 'orders.*'", "route 'orders.quick'"):
        assert any(f"What sends to it: the {who}." in message for message in found)


@pytest.mark.parametrize("queues", [{"celery": {}, "long": {}}, [Queue("celery"), Queue("long")]])
def test_a_declared_queue_is_quiet(
    make_app: MakeApp, conf: Callable[[str, Any], None], queues: Any
) -> None:
    make_app(f"queues_{type(queues).__name__}", schedules=SCHEDULES)
    conf("task_queues", queues)

    assert messages() == []


def test_the_default_queue_is_quiet(make_app: MakeApp, conf: Callable[[str, Any], None]) -> None:
    make_app("queues_default", schedules=SCHEDULES)
    conf("task_default_queue", "long")

    assert messages() == []


def test_production_is_quiet(make_app: MakeApp, settings: Settings) -> None:
    """Its workers may well have a -Q."""
    make_app("queues_production", schedules=SCHEDULES)
    settings.DEBUG = False

    assert messages() == []
