"""Seeding: from the schedules that code declares to the rows that beat reads."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.core.management.color import Style
from django.db import transaction
from django_celery_beat.models import PeriodicTask, PeriodicTasks

from scheduling.schedule import Schedule


@dataclass(frozen=True)
class Add:
    """A declared schedule that has no row yet."""

    schedule: Schedule


def plan(declared: Iterable[Schedule], stored: Iterable[str]) -> list[Add]:
    """What is to be done so that each declared schedule has a row among ``stored`` names."""
    names = set(stored)
    return [Add(schedule) for schedule in declared if schedule.name not in names]


def apply(changes: Iterable[Add]) -> list[PeriodicTask]:
    """Carry the changes out in one transaction; beat reloads once, or not at all."""
    with transaction.atomic():
        rows = [
            PeriodicTask(**change.schedule.fields(), **_timing_row(change.schedule))
            for change in changes
        ]
        if rows:
            # Of two deployments that seed at the same moment, one adds the row.
            PeriodicTask.objects.bulk_create(rows, ignore_conflicts=True)
            PeriodicTasks.update_changed()
    return rows


def seed(declared: Iterable[Schedule]) -> list[PeriodicTask]:
    """Add what is declared and not stored; what is stored stays as it is. Returns the new rows."""
    return apply(plan(declared, PeriodicTask.objects.values_list("name", flat=True)))


def report(rows: list[PeriodicTask], style: Style) -> str:
    """What seeding did, a line a schedule and a line for all."""
    lines = [style.SUCCESS(f"  + {row.name}: {row.scheduler}, {row.task}") for row in rows]
    return "\n".join(["Schedules:", *lines, f"  {len(rows) or 'nothing'} added"])


def _timing_row(schedule: Schedule) -> dict[str, Any]:
    """The row that says when: shared where one exists (django-celery-beat allows duplicates)."""
    foreign_key, model, columns = schedule.timing()
    manager = model._default_manager
    return {foreign_key: manager.filter(**columns).first() or manager.create(**columns)}
