"""The preview: the next due times of a form that is not saved yet."""

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from scheduling.admin.cells import show_upcoming
from scheduling.runs.status import in_words
from scheduling.timing import TIMING_KEYS, TIMINGS

COUNT = 5  # due times


class Preview(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.preview_view)
        return [path("preview/", view, name="scheduling_preview"), *super().get_urls()]

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """A fragment of the form's page, which its script fetches again at each change."""
        may_change = self.has_change_permission(request)
        if not (may_change or self.has_add_permission(request)):
            raise PermissionDenied
        now = timezone.now()
        stored = self.get_object(request, request.GET.get("pk", "")) if may_change else None
        form = self.get_form(request, stored)(request.GET, instance=stored or PeriodicTask())
        row = _row_as_saved(form, now)
        try:
            context = {"times": show_upcoming(row, now, COUNT), "runs_when": in_words(row)}
        except Exception as error:  # whatever libraries raise for what people write
            context = {"problem": str(error)}
        return TemplateResponse(request, "scheduling/preview.html", context)


def _row_as_saved(form: Any, now: datetime) -> Any:
    """The form's row, with its valid values, as saving would leave it."""
    row = form.instance
    before = _timing_of(row)
    form.is_valid()
    for field in (*TIMINGS, "start_time", "expires", "one_off"):
        setattr(row, field, form.cleaned_data.get(field))
    if _timing_of(row) != before:
        row.last_run_at, row.date_changed = None, now  # as models.keep_run_times does
    return row


def _timing_of(row: Any) -> list[Any]:
    return [getattr(row, key) for key in (*TIMING_KEYS, "start_time")]
