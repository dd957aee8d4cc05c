"""What django-celery-beat's own scheduler does, one setting away, this one does too."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import time_machine
from django.utils import timezone
from django_celery_beat.models import PeriodicTask, PeriodicTasks

from scheduling import operations
from tests.beat.in_process import Beat, StockBeat
from tests.factories import MINUTE, NOON, SECOND, every

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("beat_class", [Beat, StockBeat]),
]


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    PeriodicTask.objects.all().delete()
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


def make(name: str, **columns: Any) -> None:
    PeriodicTask.objects.create(name=name, task="some.task", **columns)


def save_enabled(row: PeriodicTask) -> None:
    row.enabled = True
    row.save()


def resume(row: PeriodicTask) -> None:
    assert operations.resume([row]) == [row]


@pytest.mark.parametrize("enable", [save_enabled, resume])
def test_what_runs_once_runs_again_when_it_is_enabled_again(
    beat_class: Any, enable: Callable[[PeriodicTask], None], clock: time_machine.Traveller
) -> None:
    make("Once", one_off=True, **every(1))
    beat = beat_class()
    for number in (1, 2):
        for _ in range(14):
            beat.run()
            clock.shift(10 * SECOND)
        row = PeriodicTask.objects.get()
        assert (len(beat.sent), row.enabled) == (number, False)
        enable(row)


def test_no_interval_loses_a_run_to_a_reset_of_the_last_runs(
    beat_class: Any, clock: time_machine.Traveller
) -> None:
    interval = every(1)
    for number in range(60):
        make(f"Row {number}", **interval)
    beat = beat_class()
    for second in range(0, 300, 10):
        if second == 150:
            PeriodicTask.objects.update(last_run_at=None)
            PeriodicTasks.update_changed()
        beat.run()
        clock.shift(10 * SECOND)

    assert Counter(run.at for run in beat.sent) == {NOON + n * MINUTE: 60 for n in (1, 2, 3, 4)}


def test_what_has_expired_is_disabled(beat_class: Any, clock: time_machine.Traveller) -> None:
    make("Ends", expires=NOON + 90 * SECOND, **every(1))
    beat = beat_class()
    while timezone.now() < NOON + 3 * MINUTE:
        beat.run()
        clock.shift(10 * SECOND)

    row = PeriodicTask.objects.get()
    assert (len(beat.sent), row.enabled, row.last_run_at) == (1, False, None)
