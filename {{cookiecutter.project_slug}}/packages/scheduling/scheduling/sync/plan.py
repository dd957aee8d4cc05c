"""Plan a seeding: a three-way merge of declared schedules and the rows that operators may edit.

The base of the merge is what code declared at the last seeding: ``Declaration``. Nothing here
writes to the database.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from django_celery_beat.models import PeriodicTask

from scheduling import database
from scheduling.declare.schedule import Schedule, canonical
from scheduling.models import Declaration
from scheduling.timing import TIMINGS, describe

# "written": the row gets code's value. "kept": it keeps the operator's. "agreed": code now declares
# what an operator had set.
Outcome = Literal["written", "kept", "agreed"]


@dataclass(frozen=True)
class Difference:
    """A field whose value is not the same in the row, in code and at the last seeding."""

    field: str
    base: Any  # at the last seeding
    stored: Any  # in the row
    declared: Any  # in code
    outcome: Outcome


@dataclass
class Update:
    """What seeding does for a declared schedule: add its row, change it or leave it."""

    schedule: Schedule
    row: PeriodicTask | None  # None: add one
    declaration: Declaration | None  # of the last seeding; None: the schedule was never seeded
    differences: list[Difference] = field(default_factory=list)

    @property
    def written(self) -> list[str]:
        """The fields of the row that get code's value."""
        return [each.field for each in self.differences if each.outcome == "written"]

    @property
    def is_linked(self) -> bool:
        """Whether the row is the one that was seeded."""
        return bool(
            self.row and self.declaration and self.declaration.periodic_task_id == self.row.pk
        )

    @property
    def is_pending(self) -> bool:
        """Whether there is anything to write, to the row or to its ``Declaration``."""
        if not self.declaration or not self.is_linked or self.written:
            return True
        return bool(self.declaration.values != self.schedule.values)


@dataclass
class Removal:
    """What seeding does for a schedule that code no longer declares: delete its row."""

    name: str  # deleting the declaration empties its own
    declaration: Declaration
    row: PeriodicTask | None  # None: already deleted
    edited: dict[str, Any]  # the row's fields that an operator had changed
    is_pending = True


Change = Update | Removal


@dataclass(frozen=True)
class Match:
    """A declared schedule with its row and its declaration at the last seeding, if any."""

    schedule: Schedule
    row: PeriodicTask | None
    declaration: Declaration | None


def stored(
    declared: Iterable[Schedule], lock: bool = False
) -> tuple[list[Declaration], list[PeriodicTask]]:
    """Read the declarations of the last seeding, and the rows that seeding may touch.

    These are the rows that were seeded, and those that have the name of a declared schedule.
    ``lock`` locks them until the end of the transaction.
    """
    tasks = PeriodicTask.objects.using(database.alias()).select_related(*TIMINGS)
    if lock:
        tasks = tasks.select_for_update(of=("self",))
    rows = list(tasks.filter(declaration__isnull=False))
    if others := {schedule.name for schedule in declared} - {row.name for row in rows}:
        rows += tasks.in_bulk(others, field_name="name").values()
    return list(Declaration.objects.using(database.alias())), rows


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
    declarations: Iterable[Declaration],
    rows: Iterable[PeriodicTask],
    reset: str | None = None,
) -> list[Change]:
    """Decide field by field, without touching the database, what seeding writes.

    If only code has changed a field since the last seeding, or both code and an operator have, the
    row gets code's value. If only an operator has, the row keeps the operator's. ``reset`` limits
    the plan to the schedule of that name, which gets all of code's values.
    """
    matches, leftovers = match(declared, declarations, rows)
    if reset is not None:
        return [_update(each, reset=True) for each in matches if each.schedule.name == reset]
    updates = [_update(each, reset=False) for each in matches]
    removals = [_removal(declaration, row) for declaration, row in leftovers]
    return [*updates, *removals]


def match(
    declared: Iterable[Schedule],
    declarations: Iterable[Declaration],
    rows: Iterable[PeriodicTask],
) -> tuple[list[Match], list[tuple[Declaration, PeriodicTask | None]]]:
    """Find the row and the declaration of each schedule.

    A schedule's row is the row of its name, else the row that was seeded for it. Also returns the
    leftover declarations, which no schedule continues, with the rows that were seeded for them.
    """
    schedules = {schedule.name: schedule for schedule in declared}
    row_by_key = {row.pk: row for row in rows}
    row_by_name = {row.name: row for row in row_by_key.values()}
    declarations = list(declarations)
    continued = {each.name: each for each in declarations if each.name in schedules}
    leftover = {each.name: each for each in declarations if each.name not in schedules}

    def seeded(declaration: Declaration) -> PeriodicTask | None:
        """The seeded row, unless an operator gave it the name of a declared schedule."""
        row = row_by_key.get(declaration.periodic_task_id)
        return None if row and row.name in schedules else row

    matches: list[Match] = []
    for name, schedule in schedules.items():
        row, declaration = row_by_name.get(name), continued.get(name)
        if not declaration and (renamed := leftover.get(schedule.renamed_from)):
            # A row that has the new name already is taken only if it is the seeded one.
            if row in (None, row_by_key.get(renamed.periodic_task_id)):
                declaration = renamed
                del leftover[renamed.name]
        if not row and declaration:
            row = seeded(declaration)
        matches.append(Match(schedule, row, declaration))
    return matches, [(declaration, seeded(declaration)) for declaration in leftover.values()]


def _update(found: Match, reset: bool) -> Update:
    update = Update(found.schedule, found.row, found.declaration)
    if found.row is None:
        return update
    declared, current = found.schedule.values, stored_values(found.row)
    base = found.declaration.values if found.declaration else declared
    for name, new in declared.items():
        old, theirs = base.get(name, new), current[name]
        outcome: Outcome
        if theirs == old == new:
            continue
        if theirs == new:
            outcome = "agreed"
        elif reset or (old != new and name != "enabled"):
            outcome = "written"
        elif old == new and name == "enabled" and found.declaration and not may_go_on(update):
            continue  # an operator's pause: no difference to report, unless it stops what is new
        else:
            outcome = "kept"
        update.differences.append(Difference(name, old, theirs, new, outcome))
    return update


def may_go_on(update: Update) -> bool:
    """Whether a schedule that is enabled would run at other times, or again: its end is undone."""
    is_endless = "expires" in update.written and update.row and update.row.expires
    return "when" in update.written or bool(is_endless)


def _removal(declaration: Declaration, row: PeriodicTask | None) -> Removal:
    current = stored_values(row) if row else {}
    edited = {
        name: theirs for name, theirs in current.items() if theirs != declaration.values.get(name)
    }
    return Removal(declaration.name, declaration, row, edited)


def _canonical_text(text: str) -> str:
    try:
        return canonical(json.loads(text))
    except ValueError:  # not JSON: compare what the operator typed
        return text
