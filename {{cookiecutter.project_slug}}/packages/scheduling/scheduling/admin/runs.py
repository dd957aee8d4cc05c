"""The ledger, to read: every run of every schedule."""

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.functional import cached_property

from scheduling.models import Run

MAX_LISTED = 10_000  # runs; a filter finds older ones


class NewestRuns(Paginator):  # type: ignore[type-arg]  # not generic at run time
    """Pages of the newest runs only: to count millions takes seconds."""

    @cached_property
    def count(self) -> int:
        runs: Any = self.object_list
        return len(runs.values_list("pk")[:MAX_LISTED])


@admin.register(Run)
class RunAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    list_display = ("schedule", "scheduled_for", "state", "reason", "started_at", "finished_at")
    list_display_links = ("schedule", "scheduled_for")
    list_filter = ("state", "trigger")
    list_max_show_all = 0
    paginator = NewestRuns
    ordering = ("-scheduled_for",)
    show_full_result_count = False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup == "periodic_task__id__exact" or super().lookup_allowed(
            lookup, value, request
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [field.name for field in Run._meta.fields]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
