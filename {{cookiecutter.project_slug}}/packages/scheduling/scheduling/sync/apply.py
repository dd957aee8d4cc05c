"""Write a planned seeding to the database."""

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import django
from django.db.models import Model
from django.db.models.deletion import Collector
from django.utils import timezone
from django_celery_beat.models import PeriodicTask, PeriodicTasks

from scheduling import database
from scheduling.declare.schedule import Schedule
from scheduling.models import Declaration
from scheduling.sync.plan import Change, Removal, Update, plan, stored
from scheduling.timing import TIMINGS, describe

UPDATE_BATCH_SIZE = 500  # rows


def seed(declared: Collection[Schedule], reset: str | None = None) -> list[Change]:
    """Plan and apply in one transaction. Returns the plan. ``reset`` is as in ``plan``."""
    with database.atomic():
        _lock()
        changes = plan(declared, *stored(declared), reset=reset)
        if any(change.row and change.is_pending for change in changes):
            # Plan again with the rows locked, so that no operator's edit in between is lost.
            changes = plan(declared, *stored(declared, lock=True), reset=reset)
        apply(changes)
    return changes


def apply(changes: Iterable[Change]) -> None:
    """Write a plan within the caller's transaction. Makes beat reload only if a row changes."""
    updates: list[Update] = []
    removals: list[Removal] = []
    for change in changes:
        if isinstance(change, Removal):
            removals.append(change)
        elif change.is_pending:
            updates.append(change)
    if not updates and not removals:
        return
    _allow_many_parameters()
    _remove(removals)  # first: it frees names that the updates may take
    _release(updates)
    rows = _write_rows(updates)
    Declaration.objects.bulk_create(
        [
            Declaration(
                update.schedule.name,
                periodic_task=rows[update.schedule.name],
                values=update.schedule.values,
            )
            for update in updates
        ],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["periodic_task", "values"],
    )
    if any(change.row for change in removals) or any(not u.row or u.written for u in updates):
        PeriodicTasks.update_changed()


def _remove(removals: list[Removal]) -> None:
    _delete([removal.declaration for removal in removals])
    _delete([removal.row for removal in removals if removal.row])


def _release(updates: list[Update]) -> None:
    """Delete declarations of old names, and detach rows from the declarations of other names."""
    _delete(
        [
            update.declaration
            for update in updates
            if update.declaration and update.declaration.name != update.schedule.name
        ]
    )
    taken = [update.row.pk for update in updates if update.row and not update.is_linked]
    Declaration.objects.filter(periodic_task__in=taken).update(periodic_task=None)


def _write_rows(updates: list[Update]) -> dict[str, PeriodicTask]:
    """Add and change rows. Returns the row of each schedule, by the schedule's name."""
    timings = _timings(u.schedule for u in updates if not u.row or "when" in u.written)
    rows: dict[str, PeriodicTask] = {}
    added: list[PeriodicTask] = []
    changed: dict[tuple[str, ...], list[PeriodicTask]] = defaultdict(list)  # by changed columns
    for update in updates:
        row = update.row
        if row is None:
            row = PeriodicTask(**_columns(update.schedule.values, timings))
            added.append(row)
        elif update.written:
            changed[_change(row, update, timings)].append(row)
        rows[update.schedule.name] = row
    for columns, same in changed.items():
        PeriodicTask.objects.bulk_update(same, columns, batch_size=UPDATE_BATCH_SIZE)
    PeriodicTask.objects.bulk_create(added)
    return rows


def _change(row: PeriodicTask, update: Update, timings: dict[str, Any]) -> tuple[str, ...]:
    """Set code's values on a row, without saving it. Returns the changed columns."""
    values = {name: update.schedule.values[name] for name in update.written}
    columns = _columns(values, timings)
    if "when" in values:
        columns["last_run_at"] = None  # a new timing counts from now, as in keep_run_times
    columns["date_changed"] = timezone.now()
    for column, value in columns.items():
        setattr(row, column, value)
    return tuple(columns)


def _timings(schedules: Iterable[Schedule]) -> dict[str, Any]:
    """The timing rows of some schedules, by their descriptions.

    Uses existing rows, which schedules share, and adds missing ones. Never changes any.
    """
    wanted: dict[type[Model], dict[str, Any]] = defaultdict(dict)
    for schedule in schedules:
        wanted[type(schedule.timing())][schedule.values["when"]] = schedule.timing()
    timings: dict[str, Any] = {}
    for model, by_description in wanted.items():
        stored = model._default_manager.using(database.alias()).order_by("-pk")
        rows = {describe(row): row for row in stored}
        missing = [timing for text, timing in by_description.items() if text not in rows]
        model._default_manager.bulk_create(missing)
        timings |= by_description | rows
    return timings


def _columns(values: dict[str, Any], timings: dict[str, Any]) -> dict[str, Any]:
    """``Schedule.values`` as columns of ``PeriodicTask``."""
    columns = dict(values)
    if "when" in values:
        timing = timings[columns.pop("when")]
        for name, model in TIMINGS.items():
            columns[name] = timing if isinstance(timing, model) else None
    if "expires" in values:
        columns |= {"expire_seconds": values["expires"], "expires": None}
    return columns


def _lock() -> None:
    """Block other seedings until the end of the transaction."""
    connection = database.connection()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('scheduling.seed'))")
    else:  # a write makes this transaction SQLite's only writer before it reads
        Declaration.objects.filter(pk="").delete()


def _allow_many_parameters() -> None:
    """Let Django 5.2 use as many parameters as SQLite takes.

    It assumes SQLite's limit until 2020, 999, which costs 20 times the queries. Django 6 asks.
    """
    connection = database.connection()
    if connection.vendor == "sqlite" and django.VERSION < (6, 0):
        limit = connection.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        connection.features.max_query_params = min(limit, 2**15 - 1)


def _delete(objects: list[Any]) -> None:
    """Delete in bulk; ``QuerySet.delete`` would make beat reload once for each row."""
    for instance in objects:
        instance.no_changes = True  # django-celery-beat's signal handler then does nothing
    collector = Collector(using=database.alias())
    collector.collect(objects)
    collector.delete()
