from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.color import color_style
from django.db import DEFAULT_DB_ALIAS, connections, router
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
        from scheduling import logs, one_off  # noqa: F401
        from scheduling.declare import checks, queues  # noqa: F401
        from scheduling.worker import development, signals  # noqa: F401

        # kombu resolves a URL's scheme when it opens the first connection.
        TRANSPORT_ALIASES.update(
            dict.fromkeys(["redis", "rediss"], "scheduling.broker.waiting:Transport")
            | dict.fromkeys(["amqp", "pyamqp"], "scheduling.broker.unreadable:Transport")
            | {"amqps": "scheduling.broker.unreadable:SSLTransport"}
        )
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


def seed_after_migrate(verbosity: int, using: str, **kwargs: Any) -> None:
    """Seed when ``migrate`` has applied all migrations; not after a flush or a partial migrate."""
    from scheduling.declare import discovery
    from scheduling.models import Declaration
    from scheduling.sync.apply import seed
    from scheduling.sync.report import lines, report

    if not conf.SEED_SCHEDULES_ON_MIGRATE:
        return
    if "plan" not in kwargs or using != router.db_for_write(Declaration):
        return  # a flush has no plan
    executor = MigrationExecutor(connections[using])
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return
    changes = seed(discovery.declared())
    if verbosity and any(lines(change) for change in changes):
        kwargs["stdout"].write(report(changes, color_style()) + "\n")
