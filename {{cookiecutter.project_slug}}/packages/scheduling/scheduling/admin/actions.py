"""What an operator does to schedules: each action asks first, says what it did, and logs it."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django_celery_beat.models import PeriodicTask

from scheduling import operations

LIST = "admin:django_celery_beat_periodictask_changelist"
CHANGE_PAGE = "admin:django_celery_beat_periodictask_change"
ACTIONS = ("run_now", "pause", "resume", "reset")
MAX_NAMES = 3  # in a message
MAX_ROWS = 20  # on the page that asks

Done = dict[PeriodicTask, str]  # what an operation did, by row; each text is shown and logged


class ScheduleActions(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    actions = ACTIONS

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("pause_all/", wrap(self.pause_all_view), name="scheduling_pause_all"),
            path("resume_all/", wrap(self.resume_all_view), name="scheduling_resume_all"),
            *super().get_urls(),
        ]

    def has_run_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("scheduling.run_schedule")

    def actions_for(self, request: HttpRequest, row: Any) -> list[tuple[str, str]]:
        """The names and labels of the actions that a user may take now for a row of a page."""
        may_go_on = not row.enabled and not row.status.has_expired
        useful = {"pause": row.enabled, "resume": may_go_on, "reset": bool(row.file)}
        permitted = dict(self.get_action_choices(request, default_choices=[]))
        return [
            (name, permitted[name])
            for name in ACTIONS
            if name in permitted and useful.get(name, True)
        ]

    @admin.action(description="Run now", permissions=["run"])
    def run_now(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        def operate(rows: list[PeriodicTask]) -> Done:
            refusals = operations.run_now(rows)
            for reason in filter(None, dict.fromkeys(refusals.values())):
                names = name_some([row for row, why in refusals.items() if why == reason])
                self.message_user(request, f"Not sent: {names}: {reason}.", messages.ERROR)
            return {row: "Sent a run" for row, reason in refusals.items() if not reason}

        question = "Send one run of each now? Their schedules continue as before."
        return self._ask_for_rows(request, queryset, "Run now", question, operate)

    @admin.action(description="Pause", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        def operate(rows: list[PeriodicTask]) -> Done:
            return dict.fromkeys(operations.pause(rows), "Paused")

        question = "Send no runs of these until somebody resumes them?"
        return self._ask_for_rows(request, queryset, "Pause", question, operate)

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        def operate(rows: list[PeriodicTask]) -> Done:
            return dict.fromkeys(operations.resume(rows), "Resumed")

        question = "Run each again from its next due time? Missed runs are not made up."
        return self._ask_for_rows(request, queryset, "Resume", question, operate)

    @admin.action(description="Back to the code's values", permissions=["change"])
    def reset(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        def operate(rows: list[PeriodicTask]) -> Done:
            done, undeclared = _reset(rows)
            if undeclared:
                text = f"Not changed: no code declares {name_some(undeclared)}."
                self.message_user(request, text, messages.ERROR)
            return done

        question = "Discard what operators changed in these, including a pause?"
        return self._ask_for_rows(request, queryset, "Back to the code's values", question, operate)

    def pause_all_view(self, request: HttpRequest) -> HttpResponse:
        def operate() -> Done:
            return dict.fromkeys(operations.pause_all(), "Paused with all")

        question = "Pause all schedules? What is paused now stays paused when you resume all."
        return self._ask_for_all(request, "Pause all", question, operate)

    def resume_all_view(self, request: HttpRequest) -> HttpResponse:
        def operate() -> Done:
            return dict.fromkeys(operations.resume_all(), "Resumed with all")

        question = 'Resume what "Pause all" paused, each from its next due time?'
        return self._ask_for_all(request, "Resume all", question, operate)

    def _ask_for_rows(
        self,
        request: HttpRequest,
        queryset: Any,
        title: str,
        question: str,
        operate: Callable[[list[PeriodicTask]], Done],
    ) -> HttpResponse | None:
        """Ask; once the user confirms, operate on the rows and lead back to where they were."""
        rows = list(queryset)
        if not request.POST.get("confirmed"):
            return self._confirmation(request, title, question, rows)
        self._tell(request, operate(rows))
        if request.POST.get("page") and len(rows) == 1:
            return HttpResponseRedirect(reverse(CHANGE_PAGE, args=[rows[0].pk]))
        return None

    def _ask_for_all(
        self, request: HttpRequest, title: str, question: str, operate: Callable[[], Done]
    ) -> HttpResponse:
        """Ask; once the user confirms, operate and lead to the list."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return self._confirmation(request, title, question, [])
        self._tell(request, operate())
        return HttpResponseRedirect(reverse(LIST))

    def _confirmation(
        self, request: HttpRequest, title: str, question: str, rows: list[PeriodicTask]
    ) -> HttpResponse:
        all_filtered = request.POST.get("select_across") == "1"  # the rows that the filters leave
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "question": question,
            # Without the list's filters, which may exclude a row by the time of the answer.
            "url": reverse(LIST) if rows and not all_filtered else request.get_full_path(),
            "rows": rows[:MAX_ROWS],
            "more": len(rows) - MAX_ROWS,
            # What the list's form needs to find the action and its rows again.
            "fields": [
                (name, value)
                for name in (ACTION_CHECKBOX_NAME, "action", "select_across", "index", "page")
                for value in request.POST.getlist(name)
            ],
            "media": self.media,
        }
        return TemplateResponse(request, "scheduling/confirmation.html", context)

    def _tell(self, request: HttpRequest, done: Done) -> None:
        """Say what was done to the user, and in Django's log of each row."""
        rows_by_text: dict[str, list[PeriodicTask]] = {}
        for row, text in done.items():
            rows_by_text.setdefault(text, []).append(row)
        for text, rows in rows_by_text.items():
            _log(request, rows, f"{text}.")
            self.message_user(request, f"{text}: {name_some(rows)}.", messages.SUCCESS)
        if not done:
            self.message_user(request, "Nothing was changed.", messages.WARNING)


def _reset(rows: list[PeriodicTask]) -> tuple[Done, list[PeriodicTask]]:
    """Give rows the code's values. Returns what changed, and the rows that no code declares."""
    done, undeclared = {}, []
    for row in rows:
        declaration = getattr(row, "declaration", None)
        try:
            changes = operations.reset(declaration.name if declaration else row.name)
        except KeyError:
            undeclared.append(row)
        else:
            done[row] = f"Back to the code's values: {'; '.join(changes) or 'nothing was changed'}"
    return done, undeclared


def _log(request: HttpRequest, rows: list[PeriodicTask], text: str) -> None:
    # Not log_actions(): it reads the timing of each row for the row's text.
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=str(request.user.pk),
            content_type=ContentType.objects.get_for_model(PeriodicTask),
            object_id=row.pk,
            object_repr=row.name,
            action_flag=CHANGE,
            change_message=text,
        )
        for row in rows
    )


def name_some(rows: list[PeriodicTask]) -> str:
    """The names of the first rows, and how many more there are."""
    names = ", ".join(row.name for row in rows[:MAX_NAMES])
    more = len(rows) - MAX_NAMES
    return f"{names} and {more} more" if more > 0 else names
