"""Whatever code, operators and seedings do, in whatever order: the design's table holds.

Runs among the engine's tests. The oracle below knows nothing of scheduling/sync: it keeps what
code declares, what it declared at the last seeding, and what is in the rows.
"""

import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.schedules import crontab
from django.core.management.color import no_style
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    PeriodicTasks,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scheduling.declare.schedule import Schedule
from scheduling.models import Declaration
from scheduling.sync.apply import seed
from scheduling.sync.plan import plan, stored
from scheduling.sync.report import report

NAMES = ["Backup", "Report", "Reminder"]
NEW_YEAR = datetime(2100, 1, 1, tzinfo=UTC)
# What code may declare and operators may set: its name here and in reports, and its two forms.
WHENS: dict[str, tuple[Any, dict[str, Any]]] = {
    "every hour": (timedelta(hours=1), {"interval": (IntervalSchedule, (1, "hours"))}),
    "every 2 days": (timedelta(days=2), {"interval": (IntervalSchedule, (2, "days"))}),
    "0 3 * * * UTC": (crontab("0", "3"), {"crontab": (CrontabSchedule, ("0", "3"))}),
    "once at 2100-01-01 00:00:00+00:00": (NEW_YEAR, {"clocked": (ClockedSchedule, (NEW_YEAR,))}),
}
COLUMNS = {
    IntervalSchedule: ("every", "period"),
    CrontabSchedule: ("minute", "hour"),
    ClockedSchedule: ("clocked_time",),
}
VALUES: dict[str, list[Any]] = {
    "when": list(WHENS),
    "task": ["a.task", "b.task", "c.task"],
    "args": [[], [1], [2]],
    "kwargs": [{}, {"x": 1}, {"x": 2}],
    "queue": [None, "one", "two"],
    "priority": [None, 1, 2],
    "expires": [None, 60, 120],
    "description": ["", "Why", "How"],
}
Values = dict[str, Any]

names = st.sampled_from(NAMES)
field_and_value = st.sampled_from([(f, v) for f, values in VALUES.items() for v in values])
any_values = st.fixed_dictionaries({f: st.sampled_from(values) for f, values in VALUES.items()})
steps = st.one_of(
    st.tuples(st.just("declare"), names, any_values),
    st.tuples(st.just("change"), names, field_and_value),
    st.tuples(st.just("undeclare"), names, st.none()),
    st.tuples(st.just("rename"), names, names),
    st.tuples(st.just("edit"), names, field_and_value),
    st.tuples(st.just("pause"), names, st.booleans()),
    st.tuples(st.just("delete"), names, st.none()),
    st.tuples(st.just("create"), names, any_values),
    st.tuples(st.just("seed"), st.none(), st.none()),
    st.tuples(st.just("seed"), st.none(), st.none()),
)


def declared(code: dict[str, Values], renamed: dict[str, str]) -> list[Schedule]:
    schedules = []
    for name, values in code.items():
        values = dict(values)
        when = WHENS[values.pop("when")][0]
        expires = values.pop("expires")
        schedules.append(
            Schedule(
                name,
                values.pop("task"),
                when,
                timezone="UTC" if isinstance(when, crontab) else "",
                expires=expires and timedelta(seconds=expires),
                renamed_from=renamed.get(name, ""),
                **values,
            )
        )
    return schedules


def columns(values: Values) -> dict[str, Any]:
    """As an operator's form stores it."""
    found: dict[str, Any] = {}
    for field, value in values.items():
        if field == "when":
            found |= dict.fromkeys(("interval", "crontab", "solar", "clocked"))
            [(key, (model, parts))] = WHENS[value][1].items()
            wanted = dict(zip(COLUMNS[model], parts, strict=True))
            if model is CrontabSchedule:
                wanted["timezone"] = "UTC"
            found[key] = model.objects.create(**wanted)
            found["one_off"] = key == "clocked"
        elif field in ("args", "kwargs"):
            found[field] = json.dumps(value)
        elif field == "expires":
            found["expire_seconds"] = value
        else:
            found[field] = value
    return found


def read(row: PeriodicTask) -> Values:
    [when] = [
        name
        for name, (_, forms) in WHENS.items()
        for key, (model, parts) in forms.items()
        if (timing := getattr(row, key))
        and tuple(getattr(timing, column) for column in COLUMNS[model]) == parts
    ]
    assert row.one_off is bool(row.clocked)
    row.full_clean()
    return {
        "when": when,
        "task": row.task,
        "args": json.loads(row.args),
        "kwargs": json.loads(row.kwargs),
        "queue": row.queue,
        "priority": row.priority,
        "expires": row.expire_seconds,
        "description": row.description,
        "enabled": row.enabled,
    }


def table() -> dict[str, Values]:
    return {row.name: {"key": row.pk, **read(row)} for row in PeriodicTask.objects.all()}


def expected(
    code: dict[str, Values],
    base: dict[str, Values],
    rows: dict[str, Values],
    renamed: dict[str, str],
) -> tuple[dict[str, Values], list[tuple[str, Any]]]:
    """The rows after a seeding by the design's table, and the operators' values to be reported."""
    after, told = deepcopy(rows), []
    base = dict(base)
    for name in code:
        old = renamed.get(name)
        if old in base and old not in code and name not in base and name not in rows:
            base[name] = base.pop(old)
            if old in rows and rows[old]["key"] == base[name]["key"]:
                after[name] = after.pop(old)
    for name, values in code.items():
        if name not in after:
            after[name] = {**values, "enabled": True}
            continue
        row, was = after[name], base.get(name, values)
        for field, value in values.items():
            if row[field] == value:
                continue
            if row[field] != was[field]:
                told.append((name, row[field]))
            if value != was[field]:
                row[field] = value
    for name, was in base.items():
        if name not in code and name in after and after[name]["key"] == was["key"]:
            row = after.pop(name)
            told += [(name, row[field]) for field in VALUES if row[field] != was[field]]
    return after, told


def without_keys(rows: dict[str, Values]) -> dict[str, Values]:
    return {name: {f: v for f, v in row.items() if f != "key"} for name, row in rows.items()}


@pytest.fixture
def nothing_is_seeded(db: None) -> None:
    PeriodicTask.objects.all().delete()
    Declaration.objects.all().delete()


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(steps, min_size=4, max_size=25))
def test_the_table_holds(nothing_is_seeded: None, history: list[tuple[str, Any, Any]]) -> None:
    with transaction.atomic():
        play(history)
        transaction.set_rollback(True)


def play(history: list[tuple[str, Any, Any]]) -> None:
    code: dict[str, Values] = {}
    base: dict[str, Values] = {}
    renamed: dict[str, str] = {}
    for step, name, what in [*history, ("seed", None, None)]:
        row = PeriodicTask.objects.filter(name=name).first()
        match step:
            case "declare" if name not in code:
                code[name] = what
            case "change" if name in code:
                code[name] = {**code[name], what[0]: what[1]}
            case "undeclare":
                code.pop(name, None)
                renamed.pop(name, None)
            case "rename" if name in code and what not in code:
                code[what] = code.pop(name)
                renamed.pop(name, None)
                renamed[what] = name
            case "edit" if row:
                for column, value in columns(dict([what])).items():
                    setattr(row, column, value)
                row.save()
            case "pause" if row:
                row.enabled = not what
                row.save()
            case "delete" if row:
                row.delete()
            case "create" if not row:
                PeriodicTask.objects.create(name=name, **columns(what))
            case "seed":
                # What the system checks refuse is no business of seeding.
                renamed = {new: old for new, old in renamed.items() if old not in code}
                seed_and_compare(code, base, renamed)
                base = {
                    name: {**values, "key": PeriodicTask.objects.get(name=name).pk}
                    for name, values in code.items()
                }


def seed_and_compare(
    code: dict[str, Values], base: dict[str, Values], renamed: dict[str, str]
) -> None:
    schedules = declared(code, renamed)
    before = table()
    rows, told = expected(code, base, before, renamed)
    planned = report(plan(schedules, *stored(schedules)), no_style())
    assert table() == before

    said = report(seed(schedules), no_style())

    assert said == planned
    assert without_keys(table()) == without_keys(rows)
    for name, value in told:
        shown = json.dumps(value) if isinstance(value, list | dict) else str(value) or '""'
        shown = "none" if value is None else shown
        assert any(f" {name}: " in line and shown in line for line in said.splitlines()), said
    for name, row in before.items():  # history is kept wherever a row is
        if name in table():
            assert table()[name]["key"] == row["key"]

    after, bump = table(), PeriodicTasks.last_change()
    again = seed(schedules)
    assert not any(change.is_pending for change in again)
    assert (table(), PeriodicTasks.last_change()) == (after, bump)


def test_ten_thousand_new_schedules_cost_sixty_queries_at_most(nothing_is_seeded: None) -> None:
    every = [timedelta(seconds=1 + number % 500) for number in range(10_000)]
    schedules = [Schedule(f"Number {n}", "a.task", when) for n, when in enumerate(every)]

    with CaptureQueriesContext(connection) as queries:
        seed(schedules)

    assert len(queries) <= 60
    assert PeriodicTask.objects.count() == len(schedules)
