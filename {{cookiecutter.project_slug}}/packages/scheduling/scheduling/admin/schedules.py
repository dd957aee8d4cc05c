"""The list of schedules, and the page of each."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.db.models import Case, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_celery_beat import admin as base
from django_celery_beat.models import PeriodicTask

from scheduling.admin import cells, charts
from scheduling.admin.actions import ScheduleActions
from scheduling.admin.forms import PeriodicTaskForm
from scheduling.admin.preview import Preview
from scheduling.admin.requests import SearchForm
from scheduling.admin.timeline import Timeline
from scheduling.admin.timings import DeclaredRowsStay, declaring_file, declaring_files
from scheduling.formatting import duration, relative
from scheduling.models import Pause
from scheduling.runs.nodes import GONE_AFTER, shown_beats
from scheduling.runs.queries import KINDS, RunSummary, errors
from scheduling.runs.status import (
    ROW_STATES,
    has_heartbeat,
    in_state,
    in_words,
    overdue,
    statuses,
)

MAX_OVERDUE_FIRST = 1_000  # there may be a hundred thousand
RECENT = 20  # runs and log entries on a page, and runs in the list
CHART_RUNS = 100
UPCOMING = 10  # due times on a page


class ScheduleList(ChangeList):
    """A page of schedules, overdue ones first, each with its ``status`` and its ``file``."""

    search_form_class = SearchForm

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.now = timezone.now()
        super().__init__(*args, **kwargs)

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[Any]:
        ordering: list[Any] = super().get_ordering(request, queryset)
        keys = list(overdue(self.now))
        self.overdue = len(keys)
        if ORDER_VAR in self.params or not keys:
            return ordering
        first = Case(When(pk__in=keys[:MAX_OVERDUE_FIRST], then=Value(0)), default=Value(1))
        return [first, *ordering]

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list: Any = list(self.result_list)
        for status in statuses(self.result_list, self.now, RECENT):
            status.row.status = status
        files = declaring_files()
        for row in self.result_list:
            row.file = declaring_file(row, files)


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(ROW_STATES.items())

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return in_state(queryset, self.value() or "", timezone.now())


admin.site.unregister(PeriodicTask)


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(
    ScheduleActions,
    Timeline,
    Preview,
    DeclaredRowsStay,
    base.PeriodicTaskAdmin,  # type: ignore[misc]  # django-celery-beat has no types
):
    form = PeriodicTaskForm
    change_list_template = "scheduling/change_list.html"
    change_form_template = "scheduling/change_form.html"
    date_hierarchy = None
    list_display = ("full_name", "runs_when", "next_run", "last_run", "last_runs", "origin")
    list_filter = (StateFilter, "enabled", "one_off")
    list_max_show_all = 0  # always in pages: no request takes long
    show_full_result_count = False
    ordering = ("name",)
    readonly_fields = ("last_run_at",)

    class Media:
        css = {"all": ["scheduling/schedules.css"]}

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """django-celery-beat's, without its script's text and its field for unknown tasks."""
        left_out = ("regtask", "crontab_translation")
        return [
            (title, options | {"fields": [f for f in options["fields"] if f not in left_out]})
            for title, options in super().get_fieldsets(request, obj)
        ]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).select_related("declaration", "pause")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ScheduleList

    def rows_deleted_with(self, objects: Iterable[Any]) -> Iterable[PeriodicTask]:
        return objects

    # The list

    @admin.display(description="Name", ordering="name")
    def full_name(self, row: Any) -> SafeString:
        """The style sheet cuts long names; pointing at one shows it whole."""
        return format_html('<span title="{}">{}</span>', row.name, row.name)

    @admin.display(description="When")
    def runs_when(self, row: Any) -> str:
        return in_words(row)

    @admin.display(description="Next run")
    def next_run(self, row: Any) -> str:
        return cells.next_run(row, timezone.now())

    @admin.display(description="Last run")
    def last_run(self, row: Any) -> str:
        return cells.last_run(row, timezone.now())

    @admin.display(description=f"Last {RECENT} runs")
    def last_runs(self, row: Any) -> SafeString:
        return charts.strip(row.status.runs)

    @admin.display(description="Origin")
    def origin(self, row: Any) -> str:
        return cells.origin(row)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        now = timezone.now()
        context = {
            "beats": [
                (beat, relative(ticked_at, now), now - ticked_at < GONE_AFTER)
                for beat, ticked_at in shown_beats(now).items()
            ],
            "has_heartbeats": has_heartbeat(),
            "paused_with_all": Pause.objects.count(),
            "may_change": self.has_change_permission(request),
        }
        return super().changelist_view(request, context | (extra_context or {}))

    # The page

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> HttpResponse:
        row = object_id and self.get_object(request, object_id)
        if row and self.has_view_permission(request, row):
            extra_context = self._page(request, row) | (extra_context or {})
        # Not django-celery-beat's, which reads every crontab to describe it in a script.
        answer: HttpResponse = super(base.PeriodicTaskAdmin, self).changeform_view(
            request, object_id, form_url, extra_context
        )
        return answer

    def _page(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """What the page says of a row above its form."""
        now = timezone.now()
        row.status = statuses([row], now, CHART_RUNS)[0]
        row.file = declaring_file(row, declaring_files())
        recent = row.status.runs[:RECENT]
        may_read = request.user.has_perm("scheduling.view_run")
        error_of = errors(recent) if may_read else {}
        return {
            "row": row,
            "runs_when": in_words(row),
            "next_run": cells.next_run(row, now),
            "last_run": cells.last_run(row, now),
            "origin": cells.origin(row),
            "chart": charts.chart(row.status.runs),
            "times": _times(row, now),
            "runs": [_run(run, error_of.get(run.pk, "") or run.reason, now) for run in recent],
            "may_read_runs": may_read,
            "log": _log(row),
            "schedule_actions": self.actions_for(request, row),
        }


def _times(row: Any, now: datetime) -> list[SafeString]:
    """The next due times; none if the row is paused, or if they cannot be computed."""
    if not row.enabled:
        return []
    try:
        return cells.show_upcoming(row, now, UPCOMING)
    except Exception:  # row.status.problem says it
        return []


def _run(run: RunSummary, error: str, now: datetime) -> dict[str, Any]:
    """A line of the page's table of runs."""
    return {
        "run": run,
        "kind": KINDS[run.kind],
        "mark": charts.strip([run]),
        "due": cells.show_time(run.scheduled_for, now),
        "late": "" if run.late is None else duration(run.late),
        "took": "" if run.took is None else duration(run.took),
        "error": error,
    }


def _log(row: Any) -> QuerySet[LogEntry]:
    """The last entries of Django's log on a row, newest first."""
    entries = LogEntry.objects.filter(
        content_type__app_label="django_celery_beat",
        content_type__model="periodictask",
        object_id=str(row.pk),
    )
    return entries.select_related("user").order_by("-action_time")[:RECENT]
