"""The change log: triggers of the database write which schedules have changed; beats read it.

So a beat reads what has changed, and not all rows, whoever changed it and how: ``save()``,
``update()``, raw SQL, an edit of a crontab that schedules share. A rolled-back edit leaves nothing.
``migrate`` writes the triggers, and takes them away before it changes tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet
from django.db.models.signals import post_migrate, pre_migrate
from django.db.transaction import atomic
from django_celery_beat.models import PeriodicTask

from scheduling import database
from scheduling.models import Change
from scheduling.timing import TIMINGS

SCHEDULES = PeriodicTask._meta.db_table
LOG = Change._meta.db_table
# Columns that say neither when a schedule runs, nor what.
LEFT_OUT = {"id", "last_run_at", "total_run_count", "date_changed", "description"}
# The position of a row: the transaction that wrote it. SQLite has one writer at a time, whose rows
# get the last id before them.
POSITION = {
    "postgresql": "pg_current_xact_id()::text::bigint",
    "sqlite": f"(SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = '{LOG}')",  # noqa: S608
}
SNAPSHOT = {
    "postgresql": "pg_current_snapshot()::text",
    "sqlite": f"(SELECT '0:' || {POSITION['sqlite']} || ':')",
}
INTO = f"INSERT INTO {LOG} (periodic_task_id, position)"
FUNCTION = """\
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {condition} THEN
        {insert};
    END IF;
    RETURN NULL;
END $$"""
# A column's type cannot be altered once a trigger's own WHEN names it, so the function asks.
POSTGRES = "CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
SQLITE = "CREATE TRIGGER {name} AFTER {event} ON {table} WHEN {condition} BEGIN {insert}; END"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a query sees of the log: all below ``end``, but for the transactions that are open.

    Transactions commit in another order than they begin in.
    """

    end: int
    open: tuple[int, ...]

    @classmethod
    def taken(cls) -> "Snapshot":
        """One of now: what is queried later sees at least this."""
        connection = database.connection()
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {SNAPSHOT[connection.vendor]}")
            _, end, still_open = cursor.fetchone()[0].split(":")
        return cls(int(end), tuple(int(xid) for xid in still_open.split(",") if xid))

    def unseen(self) -> list[QuerySet[Change]]:
        """What came into the log since: two queries, which look into its index."""
        log = Change.objects.using(database.alias()).order_by("position", "pk")
        parts = [log.filter(position__in=self.open)] if self.open else []
        return [*parts, log.filter(position__gte=self.end)]


def before_migrate(using: str, plan: Any = (), **kwargs: Any) -> None:
    """Drop the triggers: SQLite renames no table that one names, and the log may be dropped."""
    if {migration.app_label for migration, _ in plan} & {"django_celery_beat", "scheduling"}:
        _drop(connections[using])


def after_migrate(using: str, **kwargs: Any) -> None:
    """Write the triggers, unless they are there or a table is not. A flush changes nothing."""
    connection = connections[using]
    if "plan" not in kwargs or not {SCHEDULES, LOG} <= set(connection.introspection.table_names()):
        return
    existing, missing = set(_existing(connection)), False
    with atomic(using=using), connection.cursor() as cursor:
        for name, statements in _triggers(connection.vendor):
            if name not in existing:
                missing = True
                for statement in statements:
                    cursor.execute(statement)
        if missing:  # nobody knows what was changed without them
            cursor.execute(f"{INTO} VALUES (NULL, {POSITION[connection.vendor]})")


def _triggers(vendor: str) -> Iterator[tuple[str, list[str]]]:
    """The name of each trigger, and the statements that make it, itself last."""
    logged = [
        field.column for field in PeriodicTask._meta.concrete_fields if field.column not in LEFT_OUT
    ]
    new, old = (", ".join(f"{row}.{column}" for column in logged) for row in ("NEW", "OLD"))
    differs = "IS DISTINCT FROM" if vendor == "postgresql" else "IS NOT"
    # A claim counts the run: what it changes, beats know.
    edited = f"({new}) {differs} ({old}) AND NEW.total_run_count <> OLD.total_run_count + 1"
    position = POSITION[vendor]
    wanted = [
        ("inserted", "INSERT", SCHEDULES, "true", f"{INTO} VALUES (NEW.id, {position})"),
        ("updated", "UPDATE", SCHEDULES, edited, f"{INTO} VALUES (NEW.id, {position})"),
        ("deleted", "DELETE", SCHEDULES, "true", f"{INTO} VALUES (OLD.id, {position})"),
    ]
    for kind, model in TIMINGS.items():
        users = f"SELECT id, {position} FROM {SCHEDULES} WHERE {kind}_id = NEW.id"  # noqa: S608
        wanted.append((kind, "UPDATE", model._meta.db_table, "true", f"{INTO} {users}"))
    for what, event, table, condition, insert in wanted:
        parts = {
            "name": f"scheduling_log_{what}",
            "event": event,
            "table": table,
            "condition": condition,
            "insert": insert,
        }
        forms = [FUNCTION, POSTGRES] if vendor == "postgresql" else [SQLITE]
        yield parts["name"], [form.format(**parts) for form in forms]


def _existing(connection: BaseDatabaseWrapper) -> Iterator[str]:
    """The names of the triggers that this database, and of it this schema, has."""
    query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    if connection.vendor == "postgresql":
        query = (
            "SELECT tgname FROM pg_trigger JOIN pg_class ON tgrelid = pg_class.oid "
            "WHERE pg_table_is_visible(pg_class.oid)"
        )
    with connection.cursor() as cursor:
        cursor.execute(query)
        yield from (name for (name,) in cursor.fetchall() if name.startswith("scheduling_log_"))


def _drop(connection: BaseDatabaseWrapper) -> None:
    drop = "DROP FUNCTION {}() CASCADE" if connection.vendor == "postgresql" else "DROP TRIGGER {}"
    for name in _existing(connection):
        with connection.cursor() as cursor:
            cursor.execute(drop.format(name))


def connect(sender: AppConfig) -> None:
    """Drop the triggers before the migrations of all apps, and write them afterwards."""
    pre_migrate.connect(before_migrate, sender=sender)
    post_migrate.connect(after_migrate, sender=sender)
