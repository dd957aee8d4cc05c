"""What a task can know of its run."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from celery import current_app, shared_task
from celery.signals import task_revoked
from kombu.utils.imports import symbol_by_name

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@shared_task(bind=True)
def due_time(self: Any) -> Any:
    return self.request.scheduled_for


@pytest.mark.parametrize(
    ("late", "said"), [(timedelta(seconds=60), False), (timedelta(seconds=61), True)]
)
def test_a_task_knows_when_it_was_due_and_a_late_one_is_logged(
    caplog: pytest.LogCaptureFixture, late: timedelta, said: bool
) -> None:
    headers = {"scheduled_for": NOON.isoformat(), "periodic_task_name": "Nightly"}
    with time_machine.travel(NOON + late, tick=False):
        assert due_time.apply(headers=headers).result == NOON

    assert ("Nightly, due at 2026-06-01 12:00:00+00:00, starts 61 s late" in caplog.text) is said


def test_a_retry_is_not_late(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"scheduled_for": NOON.isoformat()}
    with time_machine.travel(NOON + timedelta(days=1)):
        assert due_time.apply(headers=headers, retries=1).result == NOON

    assert "s late" not in caplog.text


def test_a_task_that_is_no_run_was_never_due() -> None:
    assert due_time.apply().result is None


RUN = {"scheduled_for": NOON.isoformat(), "periodic_task_name": "Nightly"}


def is_dropped(headers: dict[str, str], redelivered: bool = False, retries: int = 0) -> bool:
    """Whether a worker drops a message that had expired when it came."""
    sent = current_app.amqp.as_task_v2(
        str(uuid4()), due_time.name, (), {}, expires=NOON, retries=retries
    )
    message = SimpleNamespace(
        headers=sent.headers | headers,
        body=sent.body,
        payload=sent.body,
        content_type="application/json",
        content_encoding="utf-8",
        properties=sent.properties,
        delivery_info={"redelivered": redelivered},
    )
    request = symbol_by_name(due_time.Request)(message, app=current_app, task=due_time)
    with time_machine.travel(NOON + timedelta(hours=1)):
        return bool(request.revoked())


@pytest.mark.django_db
def test_a_run_that_waited_too_long_for_a_worker_is_dropped_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert is_dropped(RUN)
    assert "Nightly, due at 2026-06-01T12:00:00+00:00, was not started: it had ex" in caplog.text


def test_a_run_that_was_revoked_is_not_said_to_have_expired(
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = SimpleNamespace(headers=RUN, id="some-id")
    for expired in (False, True):
        task_revoked.send(sender=due_time, request=request, expired=expired)

    assert caplog.text.count("was not started: it had expired") == 1


@pytest.mark.parametrize("begun", [{"redelivered": True}, {"retries": 1}])
@pytest.mark.django_db
def test_a_run_that_was_begun_does_not_expire(begun: dict[str, Any]) -> None:
    assert not is_dropped(RUN, **begun)
    assert is_dropped({}, **begun)  # no run: who sent it said until when it is of use
