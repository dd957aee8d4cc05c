"""Seeding: merges what code declares with the rows that operators may have changed.

The merge is three-way. Its base is what code declared at the last seeding: ``Declaration``.
"""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import django
from django.core.management.color import Style
from django.db import connection, transaction
from django.db.models import Model
from django.db.models.deletion import Collector
from django.utils import timezone
from django_celery_beat.models import PeriodicTask, PeriodicTasks

from scheduling import history
from scheduling.due import TIMINGS
from scheduling.models import Declaration
from scheduling.schedule import Schedule, canonical, describe
from scheduling.words import printable

MARKS = {"+": "added", "~": "changed", "!": "kept as an operator has it", "-": "deleted"}
Line = tuple[str, str]  # a mark, and what it marks


@dataclass
class Merge:
    """What becomes of a schedule that is declared."""

    schedule: Schedule
    row: PeriodicTask | None  # None: to be added
    remembered: Declaration | None  # None: never seeded
    written: list[str] = field(default_factory=list)  # the fields of the row that get code's value
    lines: list[Line] = field(default_factory=list)

    @property
    def is_linked(self) -> bool:
        """Whether the row is the one that was seeded."""
        return bool(
            self.row and self.remembered and self.remembered.periodic_task_id == self.row.pk
        )

    @property
    def is_pending(self) -> bool:
        """Whether there is anything to write, to the row or to what is remembered of it."""
        if not self.remembered or not self.is_linked or self.written:
            return True
        return bool(self.remembered.values != self.schedule.values)


@dataclass
class Drop:
    """What becomes of a schedule that is not declared any more: its row, if any, is deleted."""

    remembered: Declaration
    row: PeriodicTask | None
    lines: list[Line]
    is_pending = True


Change = Merge | Drop


def seed(declared: Collection[Schedule], reset: str | None = None) -> list[Change]:
    """Plan and apply, in one transaction. Returns the plan. ``reset`` is as in ``plan``."""
    with transaction.atomic():
        _lock()
        changes = plan(declared, *stored(declared), reset=reset)
        if any(change.row and change.is_pending for change in changes):
            # Once more with the rows locked: nothing that operators save meanwhile is overlooked.
            changes = plan(declared, *stored(declared, lock=True), reset=reset)
        apply(changes)
    return changes


def stored(
    declared: Iterable[Schedule], lock: bool = False
) -> tuple[list[Declaration], list[PeriodicTask]]:
    """What is remembered, and the rows that were seeded or have the name of a schedule."""
    tasks = PeriodicTask.objects.select_related(*TIMINGS)
    if lock:
        tasks = tasks.select_for_update(of=("self",))
    rows = list(tasks.filter(declaration__isnull=False))
    if others := {schedule.name for schedule in declared} - {row.name for row in rows}:
        rows += tasks.in_bulk(others, field_name="name").values()
    return list(Declaration.objects.all()), rows


def stored_values(row: PeriodicTask) -> dict[str, Any]:
    """The fields of a row, in the form of ``Schedule.values``."""
    timings = [getattr(row, name) for name in TIMINGS]
    return {
        "name": row.name,
        "task": row.task,
        "when": " and ".join(describe(timing) for timing in timings if timing) or "never",
        "args": _canonical_text(row.args or "[]"),
        "kwargs": _canonical_text(row.kwargs or "{}"),
        "queue": row.queue or None,
        "priority": row.priority,
        "expires": str(row.expires) if row.expires else row.expire_seconds,
        "one_off": row.one_off,
        "description": row.description,
        "enabled": row.enabled,
    }


def plan(
    declared: Iterable[Schedule],
    remembered: Iterable[Declaration],
    rows: Iterable[PeriodicTask],
    reset: str | None = None,
) -> list[Change]:
    """What is to be written so that the rows are as code declares, and what is to be said.

    Field by field: what only code has changed since the last seeding is code's, what only an
    operator has changed is the operator's, what both have changed is code's. ``reset`` names the
    one schedule to plan for, and all of it is code's.
    """
    code = {schedule.name: schedule for schedule in declared}
    memory = {declaration.name: declaration for declaration in remembered}
    by_key = {row.pk: row for row in rows}
    by_name = {row.name: row for row in by_key.values()}

    def seeded(declaration: Declaration | None) -> PeriodicTask | None:
        """The row that was seeded, unless by its present name it is another schedule's."""
        row = by_key.get(declaration.periodic_task_id) if declaration else None
        return None if row and row.name in code else row

    merges = []
    for name, schedule in code.items():
        row, known, old = by_name.get(name), memory.pop(name, None), schedule.renamed_from
        if not known and old in memory and old not in code:
            if row in (None, by_key.get(memory[old].periodic_task_id)):
                known = memory.pop(old)
        merges.append(_merge(schedule, row or seeded(known), known, reset=name == reset))
    if reset is not None:
        return [merge for merge in merges if merge.schedule.name == reset]
    return [*merges, *(_drop(known, seeded(known)) for known in memory.values())]


def apply(changes: Iterable[Change]) -> None:
    """Carry out a plan, in the caller's transaction. Beat reloads only if a row has changed."""
    merges = [change for change in changes if isinstance(change, Merge) and change.is_pending]
    drops = [change for change in changes if isinstance(change, Drop)]
    if not merges and not drops:
        return
    _allow_many_parameters()

    # What goes goes first, so that its name is free.
    renamed = [
        m.remembered for m in merges if m.remembered and m.remembered.name != m.schedule.name
    ]
    _delete([drop.remembered for drop in drops] + renamed)
    deleted = [drop.row for drop in drops if drop.row]
    _delete(deleted)
    taken = [merge.row.pk for merge in merges if merge.row and not merge.is_linked]
    Declaration.objects.filter(periodic_task__in=taken).update(periodic_task=None)

    timings = _timings(m.schedule for m in merges if not m.row or "when" in m.written)
    added, changed = [], defaultdict(list)
    for merge in merges:
        values = merge.schedule.values
        if not merge.row:
            merge.row = PeriodicTask(**_columns(values, timings))
            added.append(merge.row)
        elif merge.written:
            columns = _columns({what: values[what] for what in merge.written}, timings)
            if "name" in merge.written:
                history.rename(merge.row.name, merge.schedule.name)
            if "when" in merge.written:
                columns["last_run_at"] = None  # another time counts from now, as in keep_run_times
            for column, value in columns.items():
                setattr(merge.row, column, value)
            merge.row.date_changed = timezone.now()
            changed[(*columns, "date_changed")].append(merge.row)
    for columns_written, rows in changed.items():
        PeriodicTask.objects.bulk_update(rows, columns_written, batch_size=500)
    PeriodicTask.objects.bulk_create(added)
    Declaration.objects.bulk_create(
        [
            Declaration(m.schedule.name, periodic_task=m.row, values=m.schedule.values)
            for m in merges
        ],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["periodic_task", "values"],
    )
    if deleted or changed or added:
        PeriodicTasks.update_changed()


def report(changes: Iterable[Change], style: Style) -> str:
    """A plan, to be read at a glance: a line for each difference, and one for all."""
    changes = list(changes)
    styles = {"+": style.SUCCESS, "~": style.WARNING, "!": style.NOTICE, "-": style.ERROR}
    lines = [
        styles[mark](f"  {mark} {printable(text)}")
        for change in changes
        for mark, text in change.lines
    ]
    counts = Counter(mark for change in changes for mark in {mark for mark, _ in change.lines})
    summary = [f"{counts[mark]} {done}" for mark, done in MARKS.items() if counts[mark]]
    if not any(change.is_pending for change in changes):
        summary.insert(0, "nothing to do")
    return "\n".join(["Schedules:", *lines, f"  {', '.join(summary)}"])


def _merge(
    schedule: Schedule, row: PeriodicTask | None, known: Declaration | None, reset: bool
) -> Merge:
    merge, code = Merge(schedule, row, known), schedule.values

    def say(mark: str, text: str) -> None:
        merge.lines.append((mark, f"{schedule.name}: {text}"))

    if row is None:
        again = ", again: an operator had deleted it" if known else ""
        say("+", f"{code['when']}, {code['task']}{again}")
        return merge
    if known is None:
        say("!", "adopted, an operator had made it")
    base, stored = known.values if known else code, stored_values(row)
    for what, new in code.items():
        old, theirs = base.get(what, new), stored[what]
        if theirs == new:
            if old != new:
                say("~", f"{what} {show(old)} → {show(new)}, which an operator had set already")
        elif reset or (old != new and what != "enabled"):
            merge.written.append(what)
            both = f" (an operator's; code had {show(old)})" if theirs != old else ""
            say("~", f"{what} {show(theirs)}{both} → {show(new)}")
        elif what != "enabled" or old != new or known is None or "when" in merge.written:
            # "enabled" is the operator's once it is seeded, and no difference to be reported.
            say("!", f"{what} {show(theirs)} (code: {show(new)})")
    if merge.is_pending and not merge.lines:
        say("~", "remembered anew")
    return merge


def _drop(known: Declaration, row: PeriodicTask | None) -> Drop:
    text = f"{known.name}: {known.values['when']}, {known.values['task']}"
    if row is None:
        return Drop(known, row, [("-", f"{text}; its row had gone already")])
    edited = [
        f"{what} {show(theirs)}"
        for what, theirs in stored_values(row).items()
        if theirs != known.values.get(what)
    ]
    by_operator = f"; an operator had set {', '.join(edited)}" if edited else ""
    return Drop(known, row, [("-", text + by_operator)])


def _timings(schedules: Iterable[Schedule]) -> dict[str, Any]:
    """The rows that say when, by their words: those that are there are shared, never changed."""
    wanted: dict[type[Model], dict[str, Any]] = defaultdict(dict)
    for schedule in schedules:
        wanted[type(schedule.timing())][schedule.values["when"]] = schedule.timing()
    timings: dict[str, Any] = {}
    for model, by_words in wanted.items():
        rows = {describe(row): row for row in model._default_manager.order_by("-pk")}
        missing = [timing for words, timing in by_words.items() if words not in rows]
        model._default_manager.bulk_create(missing)
        timings |= by_words | rows
    return timings


def _columns(values: dict[str, Any], timings: dict[str, Any]) -> dict[str, Any]:
    """Values by the columns of ``PeriodicTask``."""
    columns = dict(values)
    if "when" in values:
        timing = timings[columns.pop("when")]
        for name, model in TIMINGS.items():
            columns[name] = timing if isinstance(timing, model) else None
    if "expires" in values:
        columns |= {"expire_seconds": values["expires"], "expires": None}
    return columns


def _lock() -> None:
    """Until the end of the transaction nobody else seeds."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('scheduling.seed'))")
    else:  # SQLite has one writer at a time: this one, before it reads
        Declaration.objects.filter(pk="").delete()


def _allow_many_parameters() -> None:
    """Django 6 asks SQLite; 5.2 takes 999, its limit until 2020: 20 times the queries."""
    if connection.vendor == "sqlite" and django.VERSION < (6, 0):
        limit = connection.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        connection.features.max_query_params = min(limit, 2**15 - 1)


def _delete(objects: list[Any]) -> None:
    """Delete in bulk; ``QuerySet.delete`` would make beat reload for each row."""
    for instance in objects:
        instance.no_changes = True  # for the signal of django-celery-beat's
    collector = Collector(using=connection.alias)
    collector.collect(objects)
    collector.delete()


def _canonical_text(text: str) -> str:
    try:
        return canonical(json.loads(text))
    except ValueError:  # an operator's typing error is a value too
        return text


def show(value: Any) -> str:
    """A value of ``stored_values``, to be read by people."""
    return "none" if value is None else str(value) or '""'
