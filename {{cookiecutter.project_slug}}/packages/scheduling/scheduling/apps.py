from contextlib import suppress
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.color import color_style
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.signals import connection_created
from django.db.migrations.executor import MigrationExecutor
from django.db.models.signals import post_migrate
from kombu.transport import TRANSPORT_ALIASES

from scheduling.conf import conf


class SchedulingConfig(AppConfig):
    name = "scheduling"

    def __init__(self, app_name: str, app_module: Any) -> None:
        super().__init__(app_name, app_module)
        check_driver()

    def ready(self) -> None:
        from scheduling import change_log, logs, one_off  # noqa: F401
        from scheduling.declare import checks, queues  # noqa: F401
        from scheduling.worker import (  # noqa: F401
            development,
            heartbeat,
            recorder,
            reporting,
            signals,
        )

        # kombu resolves a URL's scheme when it opens the first connection.
        TRANSPORT_ALIASES.update(
            dict.fromkeys(["redis", "rediss"], "scheduling.broker.waiting:Transport")
            | dict.fromkeys(["amqp", "pyamqp"], "scheduling.broker.unreadable:Transport")
            | {"amqps": "scheduling.broker.unreadable:SSLTransport"}
        )
        if settings.DEBUG:
            connection_created.connect(close_file)
        change_log.connect(self)
        post_migrate.connect(seed_after_migrate, sender=self)  # after the migrations of all apps


def check_driver() -> None:
    """Add to Django's "Did you install mysqlclient?" that this would not help.

    Reading any model needs the driver, so no system check is reached without it.
    """
    try:
        connections[DEFAULT_DB_ALIAS]
    except ImproperlyConfigured as error:
        engine = settings.DATABASES[DEFAULT_DB_ALIAS]["ENGINE"]
        if "mysql" in engine or "oracle" in engine:
            error.add_note(f"The scheduler does not support {engine}: use PostgreSQL or SQLite.")
        raise


def close_file(connection: Any, **kwargs: Any) -> None:
    """Let no other user read the SQLite file of development, whatever the umask."""
    if connection.vendor == "sqlite" and not connection.is_in_memory_db():
        file = Path(connection.settings_dict["NAME"])
        with suppress(OSError):  # another user's, or SQLite makes it later
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def seed_after_migrate(verbosity: int, using: str, **kwargs: Any) -> None:
    """Seed when ``migrate`` has applied all migrations; not after a flush or a partial migrate."""
    from scheduling import database
    from scheduling.declare import discovery
    from scheduling.sync.apply import seed
    from scheduling.sync.report import lines, report

    if not conf.SEED_SCHEDULES_ON_MIGRATE:
        return
    if "plan" not in kwargs or using != database.alias():
        return  # a flush has no plan
    executor = MigrationExecutor(connections[using])
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return
    changes = seed(discovery.declared())
    if verbosity and any(lines(change) for change in changes):
        kwargs["stdout"].write(report(changes, color_style()) + "\n")
