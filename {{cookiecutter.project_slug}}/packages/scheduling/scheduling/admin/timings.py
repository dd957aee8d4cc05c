"""The admins of the four timings, and the protection of what code declares from deletion."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django_celery_beat import admin as base
from django_celery_beat.models import PeriodicTask

from scheduling.admin.requests import CheckedRequests
from scheduling.declare import discovery
from scheduling.runs.status import crontab_in_words
from scheduling.timing import TIMINGS


def declaring_files() -> dict[str, str]:
    """The file of each declared schedule, such as application/schedules.py, by schedule name."""
    return {
        schedule.name: "/".join(Path(file).parts[-2:]) for file, schedule in discovery.by_file()
    }


def declaring_file(row: PeriodicTask, files: dict[str, str]) -> str | None:
    """The file that declares a row, even after an operator renamed it. None if none does."""
    declaration = getattr(row, "declaration", None)
    return files.get(declaration.name if declaration else row.name)


class DeclaredRowsStay(CheckedRequests):
    """Refuses to delete a schedule that code declares: the next seeding would add it again."""

    def rows_deleted_with(self, objects: Iterable[Any]) -> Iterable[PeriodicTask]:
        """The periodic tasks that Django would delete with some objects of the admin's model."""
        raise NotImplementedError

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        *rest, protected = super().get_deleted_objects(objs, request)
        files = declaring_files()
        reasons = [
            f"{row.name}: declared in {file}. Remove it there, or pause it here."
            for row in self.rows_deleted_with(objs)
            if (file := declaring_file(row, files))
        ]
        return *rest, [*protected, *reasons]


class TimingAdmin(DeclaredRowsStay):
    def rows_deleted_with(self, objects: Iterable[Any]) -> Iterable[PeriodicTask]:
        kind = next(kind for kind, model in TIMINGS.items() if model is self.model)
        rows: Iterable[PeriodicTask] = PeriodicTask.objects.filter(**{f"{kind}__in": objects})
        return rows


for model in TIMINGS.values():
    admin.site.unregister(model)


@admin.register(TIMINGS["interval"])
class IntervalScheduleAdmin(TimingAdmin, base.IntervalScheduleAdmin):  # type: ignore[misc]
    pass


@admin.register(TIMINGS["crontab"])
class CrontabScheduleAdmin(TimingAdmin, base.CrontabScheduleAdmin):  # type: ignore[misc]
    @admin.display(description="In words")
    def human_readable(self, row: Any) -> str:
        return crontab_in_words(row)  # the model's own raises at one that cannot be read


@admin.register(TIMINGS["solar"])
class SolarScheduleAdmin(TimingAdmin, base.SolarScheduleAdmin):  # type: ignore[misc]
    pass


@admin.register(TIMINGS["clocked"])
class ClockedScheduleAdmin(TimingAdmin, base.ClockedScheduleAdmin):  # type: ignore[misc]
    pass
