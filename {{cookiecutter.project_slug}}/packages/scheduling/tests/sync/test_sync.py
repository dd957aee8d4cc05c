"""Seeding merges what code declares with what operators did."""

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.schedules import crontab
from django.core.management import CommandError, call_command
from django.core.management.color import no_style
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask, PeriodicTasks
from pytest_django import Settings

from scheduling.apps import seed_after_migrate
from scheduling.declare import discovery
from scheduling.declare.schedule import Schedule
from scheduling.models import Declaration
from scheduling.sync.apply import seed
from scheduling.sync.plan import Update, match, plan, stored, stored_values
from scheduling.sync.report import report

pytestmark = pytest.mark.django_db

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NEW_YEAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def nothing_is_seeded() -> None:
    PeriodicTask.objects.all().delete()
    Declaration.objects.all().delete()


def some(when: Any = HOUR, name: str = "Some", **values: Any) -> Schedule:
    return Schedule(name, values.pop("task", "some.task"), when, **values)


def row(name: str = "Some") -> PeriodicTask:
    return PeriodicTask.objects.get(name=name)


def edit(name: str = "Some", /, **values: Any) -> None:
    """What an operator does in the admin."""
    edited = row(name)
    for column, value in values.items():
        setattr(edited, column, value)
    edited.save()


def say(*declared: Schedule, reset: str | None = None) -> list[str]:
    """What seeding says, without the first line."""
    return report(seed(declared, reset), no_style()).splitlines()[1:]


def everything() -> list[Any]:
    models = PeriodicTask, Declaration, IntervalSchedule, CrontabSchedule, PeriodicTasks
    return [list(model.objects.order_by("pk").values()) for model in models]


# Of each field a declaration sets: two values that code has, one that an operator sets, and how
# the admin stores it.
FIELDS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "task": ("a", "b", "theirs", {"task": "theirs"}),
    "args": ([1], [2], "[3]", {"args": " [3]"}),
    "kwargs": ({"x": 1}, {"x": 2}, '{"x": 3}', {"kwargs": '{"x":3}'}),
    "queue": (None, "b", "theirs", {"queue": "theirs"}),
    "priority": (1, 2, 3, {"priority": 3}),
    "expires": (HOUR, None, 60, {"expire_seconds": 60}),
    "description": ("a", "b", "theirs", {"description": "theirs"}),
}


@pytest.mark.parametrize("what", FIELDS)
@pytest.mark.parametrize("code_changes", [False, True])
@pytest.mark.parametrize("operator_changes", [False, True])
def test_the_table_of_the_merge(what: str, code_changes: bool, operator_changes: bool) -> None:
    first, second, theirs, columns = FIELDS[what]
    seed([some(**{what: first})])
    if operator_changes:
        edit(**columns)
    before = everything()
    now = some(**{what: second if code_changes else first})

    lines = say(now)

    kept = operator_changes and not code_changes
    assert stored_values(row())[what] == (theirs if kept else now.values[what])
    assert (everything() == before) is not code_changes
    code = "none" if now.values[what] is None else now.values[what]
    was = some(**{what: first}).values[what]
    assert (
        lines
        == {
            (False, False): ["  nothing to do"],
            (False, True): [
                f"  ! Some: {what} {theirs} (code: {code})",
                "  nothing to do, 1 kept as an operator set it",
            ],
            (True, False): [
                f"  ~ Some: {what} {'none' if was is None else was} → {code}",
                "  1 changed",
            ],
            (True, True): [
                f"  ~ Some: {what} {theirs} (set by an operator; code had "
                f"{'none' if was is None else was}) → {code}",
                "  1 changed",
            ],
        }[code_changes, operator_changes]
    )
    assert not any(change.is_pending for change in seed([now]))


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (timedelta(minutes=5), "every 5 minutes"),
        (crontab("0", "3"), "0 3 * * * UTC"),
        (NEW_YEAR, "once at 2100-01-01 00:00:00+00:00"),
    ],
)
def test_when_changes_to_any_kind_and_back(when: Any, words: str) -> None:
    zone = {"timezone": "UTC"} if isinstance(when, crontab) else {}
    seed([some(DAY, expires=None)])

    lines = say(some(when, expires=None, **zone))

    assert f"  ~ Some: when every day → {words}" in lines
    row().full_clean()
    seed([some(DAY, expires=None)])
    assert stored_values(row()) == some(DAY, expires=None).values
    row().full_clean()


def test_another_time_counts_from_now_and_nothing_else_does() -> None:
    ran_at = datetime(2026, 6, 1, tzinfo=UTC)
    seed([some(HOUR), some(HOUR, name="Other")])
    PeriodicTask.objects.update(last_run_at=ran_at)

    seed([some(DAY), some(HOUR, name="Other", args=[1])])

    assert (row().last_run_at, row("Other").last_run_at) == (None, ran_at)


def test_an_operators_interval_stays_and_no_shared_row_is_edited() -> None:
    seed([some(HOUR), some(HOUR, name="Other")])
    shared = row().interval
    edit(interval=IntervalSchedule.objects.create(every=2, period="days"))

    assert (
        say(some(HOUR), some(DAY, name="Other"))[0]
        == "  ! Some: when every 2 days (code: every hour)"
    )

    shared.refresh_from_db()
    assert (shared.every, shared.period) == (1, "hours")
    assert row("Other").interval.period == "days"


def test_an_operators_date_of_expiry_stays_until_code_changes() -> None:
    seed([some()])
    edit(expires=NEW_YEAR, expire_seconds=None)

    assert say(some())[0] == "  ! Some: expires 2100-01-01 00:00:00+00:00 (code: 3600)"
    seed([some(expires=None)])

    assert (row().expires, row().expire_seconds) == (None, None)


def test_arguments_that_are_no_json_are_an_operators_value_too() -> None:
    seed([some()])
    edit(args='["never closed')

    assert say(some())[0] == '  ! Some: args ["never closed (code: [])'


def test_both_changed_it_to_the_same() -> None:
    seed([some(queue="a")])
    edit(queue="b")

    assert say(some(queue="b"))[0] == "  ~ Some: queue a → b; an operator had already set it"
    assert say(some(queue="b")) == ["  nothing to do"]


def test_a_pause_is_the_operators_and_no_difference() -> None:
    seed([some()])
    edit(enabled=False)

    assert say(some()) == ["  nothing to do"]
    assert not row().enabled


def test_code_that_enables_or_disables_later_is_told_that_it_does_not() -> None:
    seed([some(enabled=False)])
    assert not row().enabled

    assert say(some(enabled=True))[0] == "  ! Some: enabled False (code: True)"
    assert say(some(enabled=True)) == ["  nothing to do"]
    assert not row().enabled


def test_a_new_time_for_a_paused_schedule_is_told_that_it_is_paused() -> None:
    seed([some()])
    edit(enabled=False)

    assert "  ! Some: enabled False (code: True)" in say(some(DAY))


def test_a_new_expiry_for_a_schedule_whose_end_has_come_is_told_that_it_is_disabled() -> None:
    seed([some()])
    edit(enabled=False, expire_seconds=None, expires=timezone.now() - HOUR)

    assert "  ! Some: enabled False (code: True)" in say(some(expires=timedelta(minutes=1)))
    assert (row().expires, row().enabled) == (None, False)


def test_what_is_no_longer_declared_is_deleted_and_nothing_else() -> None:
    PeriodicTask.objects.create(name="Theirs", task="their.task", interval=_interval())
    seed([some(), some(name="Other")])
    edit("Other", queue="theirs", enabled=False)

    lines = say(some())

    text = "Other: every hour, some.task; an operator had set queue theirs, enabled False"
    assert lines == [f"  - {text}", "  1 deleted"]
    assert set(PeriodicTask.objects.values_list("name", flat=True)) == {"Some", "Theirs"}
    assert say(some()) == ["  nothing to do"]


def test_what_an_operator_deleted_is_seeded_again() -> None:
    seed([some()])
    row().delete()

    lines = say(some())

    assert lines[0] == "  + Some: every hour, some.task; added again after an operator deleted it"
    assert stored_values(row()) == some().values


def test_what_an_operator_deleted_and_code_too_is_forgotten() -> None:
    seed([some()])
    row().delete()

    assert say() == ["  - Some: every hour, some.task; its row was already gone", "  1 deleted"]
    assert say() == ["  nothing to do"]


def test_an_operators_row_of_the_same_name_is_adopted() -> None:
    PeriodicTask.objects.create(
        name="Some", task="t", args="[1]", interval=_interval(), enabled=False
    )
    before, bump = row(), PeriodicTasks.last_change()

    lines = say(some(expires=None))

    assert lines == [
        "  ! Some: adopted; an operator created it",
        "  ! Some: task t (code: some.task)",
        "  ! Some: args [1] (code: [])",
        "  ! Some: enabled False (code: True)",
        "  1 kept as an operator set it",
    ]
    assert (stored_values(row()), bump) == (stored_values(before), PeriodicTasks.last_change())
    assert say(some(expires=None, args=[2]))[1] == (
        "  ~ Some: args [1] (set by an operator; code had []) → [2]"
    )
    assert say()[0].startswith("  - Some: ")


def test_renaming_keeps_the_row_and_its_history() -> None:
    seed([some(), some(name="Other")])
    PeriodicTask.objects.filter(name="Some").update(total_run_count=7, queue="theirs")
    key = row().pk

    lines = say(some(name="New", renamed_from="Some"), some(name="Other"))

    assert lines[:2] == ["  ~ New: name Some → New", "  ! New: queue theirs (code: none)"]
    assert (row("New").pk, row("New").total_run_count, row("New").queue) == (key, 7, "theirs")
    assert say(some(name="New", renamed_from="Some"), some(name="Other"))[1] == (
        "  nothing to do, 1 kept as an operator set it"
    )


def test_the_old_name_may_be_given_to_a_new_schedule_once_it_is_free() -> None:
    seed([some()])
    key = row().pk
    seed([some(name="New", renamed_from="Some")])

    seed([some(name="New"), some()])

    assert row("New").pk == key != row().pk


def test_renamed_from_a_name_that_never_was_adds() -> None:
    assert say(some(name="New", renamed_from="Some"))[0] == "  + New: every hour, some.task"


def test_renaming_to_the_name_of_an_operators_row_adopts_that_and_deletes_the_old() -> None:
    seed([some()])
    PeriodicTask.objects.create(name="New", task="some.task", interval=_interval())

    lines = say(some(name="New", renamed_from="Some", expires=None))

    assert lines[0] == "  ! New: adopted; an operator created it"
    assert lines[1] == "  - Some: every hour, some.task"
    assert [task.name for task in PeriodicTask.objects.all()] == ["New"]


def test_a_name_that_an_operator_gave_stays() -> None:
    seed([some()])
    edit(name="Theirs")

    assert say(some())[0] == "  ! Some: name Theirs (code: Some)"
    assert PeriodicTask.objects.count() == 1
    assert say(some(name="Theirs", renamed_from="Some"))[0] == (
        "  ~ Theirs: name Some → Theirs; an operator had already set it"
    )


def test_names_that_an_operator_exchanged_are_what_counts() -> None:
    declared = [some(queue="a"), some(name="Other", queue="b")]
    seed(declared)
    first, second = row().pk, row("Other").pk
    PeriodicTask.objects.filter(pk=first).update(name="x")
    PeriodicTask.objects.filter(pk=second).update(name="Some")
    PeriodicTask.objects.filter(pk=first).update(name="Other")

    lines = say(*declared)

    assert "  ! Some: queue b (code: a)" in lines
    assert (row().pk, row("Other").pk) == (second, first)
    assert not any(change.is_pending for change in seed(declared))


def test_a_name_that_an_operator_gave_and_code_declares_anew_is_the_new_schedules() -> None:
    seed([some()])
    edit(name="New")
    key = row("New").pk

    say(some(name="New"), reset="New")
    seed([some(), some(name="New")])

    assert row("New").pk == key
    assert row().pk != key


def test_reset_gives_one_schedule_codes_values_and_no_other() -> None:
    declared = [some(args=[1]), some(name="Other", args=[1])]
    seed(declared)
    for name in ("Some", "Other"):
        edit(name, args="[2]", enabled=False)
    edit(name="Theirs")

    lines = say(*declared, some(name="Third"), reset="Some")

    assert lines == [
        "  ~ Some: name Theirs (set by an operator; code had Some) → Some",
        "  ~ Some: args [2] (set by an operator; code had [1]) → [1]",
        "  ~ Some: enabled False (set by an operator; code had True) → True",
        "  1 changed",
    ]
    assert stored_values(row()) == declared[0].values
    assert (row("Other").args, row("Other").enabled) == ("[2]", False)
    assert PeriodicTask.objects.count() == 2


def test_beat_reloads_once_when_a_row_has_changed() -> None:
    def bumps(*declared: Schedule) -> int:
        with CaptureQueriesContext(connection) as queries:
            seed(declared)
        table = PeriodicTasks._meta.db_table
        writes = [q for q in queries.captured_queries if f'"{table}"' in q["sql"]]
        return sum(q["sql"].startswith(("INSERT", "UPDATE")) for q in writes)

    two = [some(), some(name="Other")]
    PeriodicTasks.update_changed()

    assert bumps(*two) == 1
    assert bumps(*two) == 0
    assert bumps(some(queue="a"), some(name="Other", queue="a")) == 1
    edit(queue="theirs")
    assert bumps(some(queue="a"), some(name="Other", queue="a")) == 0
    assert bumps() == 1
    assert bumps() == 0


@pytest.mark.parametrize("count", [1, 200])
def test_any_number_of_schedules_costs_six_queries_when_nothing_changed(count: int) -> None:
    declared = [some(timedelta(seconds=n + 1), name=f"Number {n}") for n in range(count)]
    seed(declared)
    before = everything()

    with CaptureQueriesContext(connection) as queries:
        seed(declared)

    assert len(queries) <= 6
    assert everything() == before


def test_one_of_several_equal_intervals_is_used_again() -> None:
    weekly = {"every": 7, "period": IntervalSchedule.DAYS}
    duplicates = [IntervalSchedule.objects.create(**weekly) for _ in range(2)]

    seed([some(timedelta(weeks=1)), some(timedelta(days=7), name="Other")])

    assert row().interval == row("Other").interval == duplicates[0]
    assert IntervalSchedule.objects.filter(**weekly).count() == 2


def test_a_row_with_two_timings_or_none_is_merged_too() -> None:
    seed([some(HOUR), some(HOUR, name="Other")])
    clock = CrontabSchedule.objects.create(minute="0", timezone="UTC")
    PeriodicTask.objects.filter(name="Some").update(crontab=clock)
    PeriodicTask.objects.filter(name="Other").update(interval=None)

    lines = say(some(HOUR), some(HOUR, name="Other"))

    assert lines[0] == "  ! Some: when every hour and 0 * * * * UTC (code: every hour)"
    assert lines[1] == "  ! Other: when never (code: every hour)"
    seed([some(DAY), some(DAY, name="Other")])
    row().full_clean()
    row("Other").full_clean()


def test_a_report_cannot_be_forged() -> None:
    seed([some()])
    edit(queue="\x1b[2J\n  + all is well")

    assert say(some())[0] == r"  ! Some: queue \x1b[2J\n  + all is well (code: none)"


def test_what_is_remembered_by_an_older_version_is_remembered_anew() -> None:
    seed([some()])
    remembered = Declaration.objects.get()
    del remembered.values["priority"]
    remembered.save()

    assert say(some())[0] == "  ~ Some: the record of what code declares was out of date"
    assert say(some()) == ["  nothing to do"]


def _interval() -> IntervalSchedule:
    return IntervalSchedule.objects.create(every=1, period="hours")


# The command, and migrate.


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs seed_schedules for these schedules; returns its lines."""

    def run(declared: list[Schedule], *arguments: str, **options: Any) -> list[str]:
        monkeypatch.setattr(discovery, "declared", lambda: declared)
        out = io.StringIO()
        try:
            call_command("seed_schedules", *arguments, stdout=out, **options)
        finally:
            lines = out.getvalue().splitlines()
        return lines

    return run


@pytest.mark.parametrize("flag", ["--dry-run", "--check"])
def test_a_plan_is_the_same_before_and_after_and_writes_nothing(
    command: Callable[..., list[str]], flag: str
) -> None:
    declared = [some(), some(name="Other")]
    before = everything()

    if flag == "--check":
        with pytest.raises(CommandError, match="run seed_schedules") as raised:
            command(declared, flag)
        assert raised.value.returncode == 1
    planned = command(declared, "--dry-run")

    assert everything() == before
    assert command(declared) == planned
    assert planned == [
        "Schedules:",
        "  + Some: every hour, some.task",
        "  + Other: every hour, some.task",
        "  2 added",
    ]
    assert command(declared, flag) == ["Schedules:", "  nothing to do"]


def test_check_is_content_with_what_operators_did(command: Callable[..., list[str]]) -> None:
    seed([some()])
    edit(queue="theirs")

    assert command([some()], "--check")[-1] == "  nothing to do, 1 kept as an operator set it"


def test_reset_of_an_unknown_name_says_the_near_ones(command: Callable[..., list[str]]) -> None:
    with pytest.raises(CommandError, match="'Sone'. Did you mean 'Some'?") as raised:
        command([some(), some(name="Other")], "--reset", "Sone")

    assert raised.value.returncode == 2
    assert not PeriodicTask.objects.exists()


def test_reset_may_be_tried_first(command: Callable[..., list[str]]) -> None:
    seed([some()])
    edit(queue="theirs")

    planned = command([some()], "--reset", "Some", "--dry-run")

    assert planned[1] == "  ~ Some: queue theirs (set by an operator; code had none) → none"
    assert row().queue == "theirs"
    assert command([some()], "--reset", "Some") == planned
    assert row().queue is None


def test_colour_is_for_terminals_only(command: Callable[..., list[str]]) -> None:
    assert "\x1b" not in "".join(command([some()], "--dry-run"))
    assert "\x1b[" in "".join(command([some()], "--dry-run", force_color=True))


def test_migrate_seeds_and_says_so() -> None:
    out = io.StringIO()

    call_command("migrate", stdout=out)

    names = [schedule.name for schedule in discovery.declared()]
    assert [task.name for task in PeriodicTask.objects.order_by("pk")] == names
    assert f"  + {names[0]}: " in out.getvalue()


def test_migrate_does_not_seed_when_it_is_told_not_to(settings: Settings) -> None:
    settings.SEED_SCHEDULES_ON_MIGRATE = False

    call_command("migrate", verbosity=0)

    assert not PeriodicTask.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_flush_leaves_the_tables_empty() -> None:
    call_command("flush", interactive=False, verbosity=0)

    assert not PeriodicTask.objects.exists()


def test_a_database_without_schedules_is_not_seeded() -> None:
    seed_after_migrate(verbosity=0, using="other", plan=[])

    assert not PeriodicTask.objects.exists()


def test_the_documents_snippet_and_seeding_live_together() -> None:
    schedule, created = IntervalSchedule.objects.get_or_create(
        every=10,
        period=IntervalSchedule.MINUTES,
    )
    PeriodicTask.objects.create(
        interval=schedule,
        name="Send reminder emails",
        task="tests.project.tasks.remind",
        args='["user@example.com"]',
    )
    before = stored_values(row("Send reminder emails"))

    call_command("seed_schedules", verbosity=0)

    assert stored_values(row("Send reminder emails")) == before


def test_a_plan_needs_no_database_for_what_is_new() -> None:
    [change] = plan([some()], *stored([some()]))

    assert isinstance(change, Update)
    assert change.row is None and change.is_pending


def test_each_schedule_is_matched_with_its_row_and_its_last_declaration() -> None:
    seed([some(), some(name="Old"), some(name="Gone")])
    declared = [
        some(),
        some(name="New", renamed_from="Old"),
        some(name="Too late", renamed_from="Old"),
    ]

    matches, leftovers = match(declared, *stored(declared))

    assert [
        (found.schedule.name, found.row, found.declaration and found.declaration.name)
        for found in matches
    ] == [("Some", row(), "Some"), ("New", row("Old"), "Old"), ("Too late", None, None)]
    assert [(declaration.name, found) for declaration, found in leftovers] == [
        ("Gone", row("Gone"))
    ]
