import sys
from typing import Any

from django.apps import AppConfig, apps
from django.core.management.color import color_style
from django.db import connections, router
from django.db.migrations.executor import MigrationExecutor
from django.db.models.signals import post_migrate


class SchedulingConfig(AppConfig):
    name = "scheduling"

    def ready(self) -> None:
        # Signals go to apps with models only, and after the migrations of all apps.
        post_migrate.connect(seed_after_migrate, sender=apps.get_app_config("django_celery_beat"))


def seed_after_migrate(verbosity: int, using: str, **kwargs: Any) -> None:
    """Seed once ``migrate`` has made the tables: not on a flush, not half-way back."""
    from django_celery_beat.models import PeriodicTask

    from scheduling import registry, seed

    if "plan" not in kwargs or using != router.db_for_write(PeriodicTask):
        return  # a flush, as tests do it, has no plan
    executor = MigrationExecutor(connections[using])
    if executor.migration_plan(executor.loader.graph.leaf_nodes("django_celery_beat")):
        return
    rows = seed.seed(registry.declared())
    if verbosity and rows:
        sys.stdout.write(seed.report(rows, color_style()) + "\n")
