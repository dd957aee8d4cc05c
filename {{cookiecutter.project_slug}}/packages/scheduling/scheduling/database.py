"""The database of the engine's tables, which a project's routers may choose.

Reads that decide what is written next come from it too: a replica may lag behind.
"""

from django.db import DEFAULT_DB_ALIAS, connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django_celery_beat.models import PeriodicTask


def alias() -> str:
    """Its name in ``DATABASES``."""
    name: str = router.db_for_write(PeriodicTask)
    return name


def aliases() -> list[str]:
    """The databases that a project with the engine needs: Django's default one, and this."""
    return list(dict.fromkeys([DEFAULT_DB_ALIAS, alias()]))


def connection() -> BaseDatabaseWrapper:
    """This thread's connection to it."""
    return connections[alias()]


def atomic() -> transaction.Atomic:
    """A transaction in it."""
    return transaction.atomic(using=alias())
