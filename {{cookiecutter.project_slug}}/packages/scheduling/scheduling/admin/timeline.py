"""The timeline: what ran in the last 12 hours and what comes in the next 12, by schedule."""

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Page, Paginator
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.safestring import SafeString
from django_celery_beat.models import PeriodicTask

from scheduling.admin import charts
from scheduling.admin.requests import SearchForm
from scheduling.runs.queries import KINDS, RunSummary, runs_since
from scheduling.runs.status import ROW_STATES, in_state, status_of

PAGE_SIZE = 250  # schedules
MAX_RUNS = 100_000  # on a page


class Timeline(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.timeline_view)
        return [path("timeline/", view, name="scheduling_timeline"), *super().get_urls()]

    def timeline_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        now = timezone.now()
        form = SearchForm(request.GET, texts=("app", "state"))
        form.is_valid()  # what is not right is left out
        chosen = {key: form.cleaned_data.get(key, "") for key in ("app", "state", "q")}
        page = self._timeline_page(request, chosen, now)
        runs = runs_since([row.pk for row in page], now - charts.HALF_A_DAY, MAX_RUNS)
        axis = charts.Axis(now)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Timeline",
            "axis": axis,
            "now": timezone.localtime(now),
            "width": charts.TIMELINE,
            "middle": charts.TIMELINE / 2,
            "lines": [(row, _line(row, runs[row.pk], axis)) for row in page],
            "page": page,
            "run_limit": MAX_RUNS if sum(map(len, runs.values())) == MAX_RUNS else 0,
            "chosen": chosen,
            "apps": _apps(),
            "states": ROW_STATES,
            "kinds": [(charts.legend(kind), words) for kind, words in KINDS.items()],
            "media": self.media,
        }
        return TemplateResponse(request, "scheduling/timeline.html", context)

    def _timeline_page(
        self, request: HttpRequest, chosen: dict[str, str], now: datetime
    ) -> Page[Any]:
        """The schedules that the user chose, as a page of rows."""
        rows = self.get_queryset(request).filter(task__startswith=chosen["app"])
        rows = in_state(rows, chosen["state"], now)
        rows, _ = self.get_search_results(request, rows, chosen["q"])
        return Paginator(rows.order_by("name"), PAGE_SIZE).get_page(request.GET.get("p"))


def _line(row: Any, runs: list[RunSummary], axis: charts.Axis) -> SafeString:
    """Draw a row's line, and set the status that the template shows."""
    row.status = status_of(row, runs, [], axis.now)
    return charts.timeline_row(row.status, runs, axis)


def _apps() -> list[str]:
    """The first parts of all tasks' names, such as "billing."."""
    names = PeriodicTask.objects.order_by("task").values_list("task", flat=True).distinct()
    return sorted({f"{name.partition('.')[0]}." for name in names})
