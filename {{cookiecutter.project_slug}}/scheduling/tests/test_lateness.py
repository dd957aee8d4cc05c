"""What a task can know of its run."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from celery import shared_task

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
