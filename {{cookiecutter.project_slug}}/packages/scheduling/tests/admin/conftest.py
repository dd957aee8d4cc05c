from collections.abc import Callable
from datetime import UTC
from typing import Any

import pytest
import time_machine
from celery import current_app
from django.utils import timezone, translation
from django_celery_beat.models import PeriodicTask
from kombu import Connection
from pytest_django import Settings

from tests.factories import NOON


@pytest.fixture(autouse=True)
def at_noon(settings: Settings) -> Any:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
    english = translation.override("en")  # whatever LANGUAGE_CODE says
    with timezone.override(UTC), english, time_machine.travel(NOON, tick=False) as clock:
        PeriodicTask.objects.all().delete()
        yield clock


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """The messages in a queue of a broker in memory."""
    monkeypatch.setattr(current_app.conf, "broker_write_url", "memory://")
    monkeypatch.setattr(current_app.amqp, "_producer_pool", None)

    def received(queue: str = current_app.conf.task_default_queue) -> list[Any]:
        with Connection("memory://") as broker, broker.SimpleQueue(queue) as messages:
            found = [messages.get(block=False) for _ in range(messages.qsize())]
            for message in found:
                message.ack()
            return found

    received()
    return received
