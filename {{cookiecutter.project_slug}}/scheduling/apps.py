from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.management.color import color_style
from django.db import connections, router
from django.db.migrations.executor import MigrationExecutor
from django.db.models.signals import post_migrate
from kombu.transport import TRANSPORT_ALIASES


class SchedulingConfig(AppConfig):
    name = "scheduling"

    def ready(self) -> None:
        from scheduling import checks, lateness, logs  # noqa: F401

        # For each URL of Redis, before any is opened.
        TRANSPORT_ALIASES.update(
            dict.fromkeys(["redis", "rediss"], "scheduling.transport:Transport")
        )
        post_migrate.connect(seed_after_migrate, sender=self)  # after the migrations of all apps


def seed_after_migrate(verbosity: int, using: str, **kwargs: Any) -> None:
    """Seed once ``migrate`` has made the tables: not on a flush, not half-way back."""
    from scheduling import registry, seed
    from scheduling.models import Declaration

    if not getattr(settings, "SEED_SCHEDULES_ON_MIGRATE", True):
        return
    if "plan" not in kwargs or using != router.db_for_write(Declaration):
        return  # a flush, as tests do it, has no plan
    executor = MigrationExecutor(connections[using])
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return
    changes = seed.seed(registry.declared())
    if verbosity and any(change.lines for change in changes):
        kwargs["stdout"].write(seed.report(changes, color_style()) + "\n")
