"""django-celery-beat's admin, in which a schedule that is enabled counts from then on."""

from typing import Any

from django.contrib import admin
from django.utils import timezone
from django_celery_beat.admin import PeriodicTaskAdmin as Base
from django_celery_beat.models import PeriodicTask

admin.site.unregister(PeriodicTask)


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(Base):  # type: ignore[misc]  # it has no types
    @admin.action(description=Base.enable_tasks.short_description)
    def enable_tasks(self, request: Any, queryset: Any) -> None:
        count_from_now(queryset)
        super().enable_tasks(request, queryset)

    @admin.action(description=Base.toggle_tasks.short_description)
    def toggle_tasks(self, request: Any, queryset: Any) -> None:
        count_from_now(queryset)
        super().toggle_tasks(request, queryset)


def count_from_now(queryset: Any) -> None:
    """As saving does (``models.keep_run_times``), which the actions do not: they update."""
    queryset.filter(enabled=False).update(last_run_at=None, date_changed=timezone.now())
