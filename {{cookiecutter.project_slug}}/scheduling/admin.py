"""The operator's view: django-celery-beat's admin, with what ran, what comes next, and levers."""

from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Case, Value, When
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django_celery_beat import admin as base
from django_celery_beat.models import PeriodicTask

from scheduling import history, levers, pictures, registry, seed
from scheduling.due import TIMING_KEYS, TIMINGS
from scheduling.forms import PeriodicTaskForm
from scheduling.models import Pause
from scheduling.words import duration, relative

LIST = "admin:django_celery_beat_periodictask_changelist"
CHANGE_PAGE = "admin:django_celery_beat_periodictask_change"
FIRST = 1_000  # overdue rows that are put first; there may be a hundred thousand
PAGE = 250  # rows on a page of the timeline
MOST_RUNS = 100_000  # on a page of the timeline
RECENT = 20  # runs and log entries that a page lists
CHART = 100  # runs in a chart


def declared_in() -> dict[str, str]:
    """Where the declared schedules are, such as application/schedules.py, by their names."""
    return {schedule.name: "/".join(Path(file).parts[-2:]) for file, schedule in registry.by_file()}


def file_of(row: PeriodicTask, files: dict[str, str]) -> str | None:
    """The file that declares a row, whatever an operator calls it; None if none does."""
    declaration = getattr(row, "declaration", None)
    return files.get(declaration.name if declaration else row.name)


def show_time(moment: datetime, now: datetime) -> SafeString:
    """A moment by the service's clock, and as seen from now."""
    try:
        local = timezone.localtime(moment)
    except OverflowError:  # the last day of the year 9999
        local = moment
    same_day = local.date() == timezone.localtime(now).date()
    return format_html(
        '<time datetime="{}" title="{}">{}</time> <span class="quiet">{}</span>',
        local.isoformat(timespec="seconds"),
        f"{local:%Y-%m-%d %H:%M:%S %Z}",
        f"{local:%H:%M:%S}" if same_day else f"{local:%d %b %H:%M:%S}",
        relative(moment, now),
    )


class KeepsDeclared:
    """Refuses to delete a schedule that code declares: the next seeding would bring it back."""

    def rows_of(self, objects: Iterable[Any]) -> Iterable[PeriodicTask]:
        """The rows that would be deleted with some of django-celery-beat's timings."""
        name = next(name for name, model in TIMINGS.items() if model is self.model)  # type: ignore[attr-defined]
        rows: Iterable[PeriodicTask] = PeriodicTask.objects.filter(**{f"{name}__in": objects})
        return rows

    def get_deleted_objects(self, objects: Any, request: HttpRequest) -> Any:
        *rest, protected = super().get_deleted_objects(objects, request)  # type: ignore[misc]
        files = declared_in()
        reasons = [
            f"{row.name}: declared in {file}. Remove it there, or pause it here."
            for row in self.rows_of(objects)
            if (file := file_of(row, files))
        ]
        return *rest, [*protected, *reasons]


class ScheduleList(ChangeList):
    """A page of schedules, each with what is known of it: ``row.view``."""

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[Any]:
        ordering: list[Any] = super().get_ordering(request, queryset)
        overdue = list(history.overdue(self.now))
        self.overdue = len(overdue)
        if ORDER_VAR in self.params or not overdue:
            return ordering
        first = Case(When(pk__in=overdue[:FIRST], then=Value(0)), default=Value(1))
        return [first, *ordering]

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list: Any = list(self.result_list)
        for view in history.overview(self.result_list, self.now):
            view.row.view = view
        files = declared_in()
        for row in self.result_list:
            row.file = file_of(row, files)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.now = timezone.now()
        super().__init__(*args, **kwargs)


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(history.STATES_OF_ROWS.items())

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return history.in_state(queryset, self.value() or "", timezone.now())


for model in (PeriodicTask, *TIMINGS.values()):
    admin.site.unregister(model)


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(KeepsDeclared, base.PeriodicTaskAdmin):  # type: ignore[misc]  # no types
    form = PeriodicTaskForm
    change_list_template = "scheduling/change_list.html"
    change_form_template = "scheduling/change_form.html"
    date_hierarchy = None
    list_display = ("name", "runs_when", "next_run", "last_run", "last_runs", "origin")
    list_filter = (StateFilter, "enabled", "one_off")
    list_max_show_all = 0  # a page at a time: no request takes long
    show_full_result_count = False
    ordering = ("name",)
    actions = ("run_now", "pause", "resume", "reset")
    readonly_fields = ("last_run_at",)

    class Media:
        css = {"all": ["scheduling/schedules.css"]}

    @property
    def fieldsets(self) -> Any:
        """As django-celery-beat's, without the field for a task that is not registered."""
        left_out = ("regtask", "crontab_translation")
        return tuple(
            (title, options | {"fields": tuple(f for f in options["fields"] if f not in left_out)})
            for title, options in base.PeriodicTaskAdmin.fieldsets
        )

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).select_related("declaration", "pause")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ScheduleList

    def rows_of(self, objects: Iterable[Any]) -> Iterable[PeriodicTask]:
        return objects

    def get_urls(self) -> list[URLPattern]:
        views: dict[str, Callable[..., HttpResponse]] = {
            "timeline": self.timeline_view,
            "preview": self.preview_view,
            "pause_all": self.pause_all_view,
            "resume_all": self.resume_all_view,
        }
        ours = [
            path(f"{name}/", self.admin_site.admin_view(view), name=f"scheduling_{name}")
            for name, view in views.items()
        ]
        return [*ours, *super().get_urls()]

    def has_run_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("scheduling.run_schedule")

    # The columns of the list

    @admin.display(description="When")
    def runs_when(self, row: Any) -> str:
        return history.in_words(row)

    @admin.display(description="Next run")
    def next_run(self, row: Any) -> str:
        view, now = row.view, timezone.now()
        if view.problem:
            return format_html('<strong class="bad">Cannot run</strong>: {}', view.problem)
        if not row.enabled and (row.one_off or row.clocked_id) and row.total_run_count:
            return "Done: it runs once"
        if not row.enabled:
            return "Paused, with all" if hasattr(row, "pause") else "Paused"
        if not view.due:
            return "Never"
        text = show_time(view.due, now)
        if view.is_overdue:
            text = format_html('<strong class="bad">Overdue</strong> since {}', text)
        if view.missed:
            text = format_html("{}<br>Missed {}", text, show_time(view.missed, now))
        return text

    @admin.display(description="Last run")
    def last_run(self, row: Any) -> str:
        view, now = row.view, timezone.now()
        if view.waits_since and now - view.waits_since > history.TAKEN_UP_WITHIN:
            return format_html(
                '<strong class="bad">No worker</strong> took it up: sent {}',
                show_time(view.waits_since, now),
            )
        if not view.runs:
            return "None"
        run = view.runs[0]
        parts = [show_time(run.started_at or run.scheduled_for, now)]
        if run.late is not None:
            parts.append(format_html("{} late", duration(run.late)))
        if run.took is not None:
            parts.append(format_html("took {}", duration(run.took)))
        return format_html(
            '<strong class="{}">{}</strong> {}',
            "bad" if run.kind in ("failed", "revoked") else run.kind,
            run.kind.capitalize(),
            format_html_join(", ", '<span class="whole">{}</span>', ((part,) for part in parts)),
        )

    @admin.display(description=f"Last {RECENT} runs")
    def last_runs(self, row: Any) -> SafeString:
        return pictures.strip(row.view.runs)

    @admin.display(description="Origin")
    def origin(self, row: Any) -> SafeString | str:
        return self.badges(row, row.file)

    def badges(self, row: Any, file: str | None) -> SafeString | str:
        """Whether code declares a row, and what an operator has made of it since."""
        declaration = getattr(row, "declaration", None)
        if not file or not declaration:
            return "Made by an operator"
        changed = [
            f"{what} {seed.show(declaration.values[what])} → {seed.show(theirs)}"
            for what, theirs in seed.stored_values(row).items()
            if what != "enabled" and theirs != declaration.values.get(what, theirs)
        ]
        text = format_html('<span class="badge">declared in {}</span>', file)
        if changed:
            text += format_html(
                ' <span class="badge changed">changed by an operator: {}</span>', "; ".join(changed)
            )
        return text

    # The pages

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        now = timezone.now()
        heartbeats = [
            (beat, relative(at, now), now - at < history.TICKS_WITHIN)
            for beat, at in history.heartbeats().items()
        ]
        context = {
            # Those that tick, else the last that did.
            "beats": [beat for beat in heartbeats if beat[2]] or heartbeats[:1],
            "has_heartbeats": history.has_heartbeat(),
            "paused_with_all": Pause.objects.count(),
            "may_change": self.has_change_permission(request),
        }
        answer: HttpResponse = super().changelist_view(request, context | (extra_context or {}))
        return answer

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> HttpResponse:
        row = object_id and self.get_object(request, object_id)
        if row and self.has_view_permission(request, row):
            extra_context = self.page_of(request, row) | (extra_context or {})
        # Not django-celery-beat's, which reads every crontab to describe it in a script.
        answer: HttpResponse = super(base.PeriodicTaskAdmin, self).changeform_view(
            request, object_id, form_url, extra_context
        )
        return answer

    def save_model(self, request: HttpRequest, row: Any, form: Any, change: bool) -> None:
        super().save_model(request, row, form, change)
        if change and "name" in form.changed_data:
            history.rename(form.initial["name"], row.name)

    def page_of(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        now = timezone.now()
        [view] = history.overview([row], now, CHART)
        row.view, row.file = view, file_of(row, declared_in())
        try:
            times = [show_time(due, now) for due in islice(history.upcoming(row, now), 10)]
        except Exception:  # said as view.problem
            times = []
        may_read = request.user.has_perm("django_celery_results.view_taskresult")
        errors = history.errors(view.runs[:RECENT]) if may_read else {}
        log = LogEntry.objects.filter(
            content_type__app_label="django_celery_beat",
            content_type__model="periodictask",
            object_id=str(row.pk),
        )
        return {
            "row": row,
            "runs_when": self.runs_when(row),
            "next_run": self.next_run(row),
            "last_run": self.last_run(row),
            "badges": self.badges(row, row.file),
            "chart": pictures.chart(view.runs),
            "times": times if row.enabled else [],
            "runs": [
                {
                    "run": run,
                    "kind": history.KINDS[run.kind],
                    "mark": pictures.strip([run]),
                    "due": show_time(run.scheduled_for, now),
                    "late": "" if run.late is None else duration(run.late),
                    "took": "" if run.took is None else duration(run.took),
                    "error": errors.get(run.task_id, ""),
                }
                for run in view.runs[:RECENT]
            ],
            "may_read_results": may_read,
            "log": log.select_related("user").order_by("-action_time")[:RECENT],
            "levers": self.levers_of(request, row),
        }

    def levers_of(self, request: HttpRequest, row: Any) -> list[tuple[str, str]]:
        """The levers that a user may pull for a row, by their actions."""
        fit = {"pause": row.enabled, "resume": not row.enabled, "reset": bool(row.file)}
        return [
            (name, description)
            for name, (_, _, description) in self.get_actions(request).items()
            if name in self.actions and fit.get(name, True)
        ]

    def timeline_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        now = timezone.now()
        axis = pictures.Axis(now)
        names = PeriodicTask.objects.order_by("task").values_list("task", flat=True).distinct()
        chosen = {key: request.GET.get(key, "") for key in ("app", "state", "q")}
        rows = self.get_queryset(request).filter(task__startswith=chosen["app"])
        rows = history.in_state(rows, chosen["state"], now)
        rows, _ = self.get_search_results(request, rows, chosen["q"])
        page = Paginator(rows.order_by("name"), PAGE).get_page(request.GET.get("p"))
        shown = list(page.object_list)
        since = now - pictures.HALF_A_DAY
        runs = history.runs_since([row.name for row in shown], since, MOST_RUNS)
        lines = []
        for row in shown:
            row.view = history.view_of(row, runs[row.name], now)
            lines.append((row, pictures.timeline_row(row.view, runs[row.name], axis)))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Timeline",
            "axis": axis,
            "now": timezone.localtime(now),
            "width": pictures.WIDTH,
            "middle": pictures.WIDTH / 2,
            "lines": lines,
            "page": page,
            "most_runs": MOST_RUNS if sum(map(len, runs.values())) == MOST_RUNS else 0,
            "chosen": chosen,
            "apps": sorted({f"{name.partition('.')[0]}." for name in names}),
            "states": history.STATES_OF_ROWS,
            "kinds": [(pictures.legend(kind), words) for kind, words in history.KINDS.items()],
            "media": self.media,
        }
        return TemplateResponse(request, "scheduling/timeline.html", context)

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """The next five times of what a form has so far: a part of its page."""
        if not (self.has_add_permission(request) or self.has_change_permission(request)):
            raise PermissionDenied
        now = timezone.now()
        stored = None
        if self.has_change_permission(request):
            stored = self.get_object(request, request.GET.get("pk", ""))
        row = stored or PeriodicTask()
        form = self.get_form(request, stored)(request.GET, instance=row)
        before = [getattr(row, key) for key in (*TIMING_KEYS, "start_time")]
        form.is_valid()
        for field in (*TIMINGS, "start_time", "expires", "one_off"):
            setattr(row, field, form.cleaned_data.get(field))
        if [getattr(row, key) for key in (*TIMING_KEYS, "start_time")] != before:
            row.last_run_at, row.date_changed = None, now  # as saving it will
        try:
            times = [show_time(due, now) for due in islice(history.upcoming(row, now), 5)]
            context = {"times": times, "runs_when": history.in_words(row)}
        except Exception as error:  # whatever libraries raise for what people write
            context = {"problem": str(error)}
        return TemplateResponse(request, "scheduling/preview.html", context)

    # The levers. Each returns what is to be logged, by the rows that it changed.

    @admin.action(description="Run now", permissions=["run"])
    def run_now(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        def pull(rows: list[PeriodicTask]) -> dict[PeriodicTask, str]:
            told = levers.run_now(rows)
            for reason in filter(None, dict.fromkeys(told.values())):
                names = name_some([row for row, why in told.items() if why == reason])
                self.message_user(request, f"Not sent: {names}: {reason}.", messages.ERROR)
            return {row: "Sent a run" for row, reason in told.items() if not reason}

        question = "Send a run of each now? Their schedules go on as they are."
        return self.ask(request, queryset, "Run now", question, pull)

    @admin.action(description="Pause", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        question = "Send no run of them until they are resumed?"
        return self.ask(
            request, queryset, "Pause", question, lambda rows: said(levers.pause(rows), "Paused")
        )

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        question = "Let each run again, from its next time on? What was missed is not made up."
        return self.ask(
            request, queryset, "Resume", question, lambda rows: said(levers.resume(rows), "Resumed")
        )

    @admin.action(description="Back to the code's values", permissions=["change"])
    def reset(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        def pull(rows: list[PeriodicTask]) -> dict[PeriodicTask, str]:
            done, others = {}, []
            for row in rows:
                declaration = getattr(row, "declaration", None)
                try:
                    changes = levers.reset(declaration.name if declaration else row.name)
                    text = "; ".join(changes) or "nothing was changed"
                    done[row] = f"Back to the code's values: {text}"
                except KeyError:
                    others.append(row)
            if others:
                text = f"Not changed, as no code declares it: {name_some(others)}."
                self.message_user(request, text, messages.ERROR)
            return done

        question = "Give up what operators have changed in them, a pause included?"
        return self.ask(request, queryset, "Back to the code's values", question, pull)

    def pause_all_view(self, request: HttpRequest) -> HttpResponse:
        question = "Pause all schedules? Those that are paused now stay so when all are resumed."
        return self.ask_all(
            request, "Pause all", question, lambda: said(levers.pause_all(), "Paused with all")
        )

    def resume_all_view(self, request: HttpRequest) -> HttpResponse:
        question = "Resume the schedules that were paused with all, each from its next time on?"
        return self.ask_all(
            request, "Resume all", question, lambda: said(levers.resume_all(), "Resumed with all")
        )

    def ask(
        self,
        request: HttpRequest,
        queryset: Any,
        title: str,
        question: str,
        pull: Callable[[list[PeriodicTask]], dict[PeriodicTask, str]],
    ) -> HttpResponse | None:
        """Ask once; when that has been answered, pull a lever for some rows, and say and log it."""
        rows = list(queryset)
        if not request.POST.get("confirmed"):
            return self.confirmation(request, title, question, rows)
        self.tell(request, pull(rows))
        if request.POST.get("page") and len(rows) == 1:
            return HttpResponseRedirect(reverse(CHANGE_PAGE, args=[rows[0].pk]))
        return None

    def ask_all(
        self,
        request: HttpRequest,
        title: str,
        question: str,
        pull: Callable[[], dict[PeriodicTask, str]],
    ) -> HttpResponse:
        if not self.has_change_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return self.confirmation(request, title, question, [])
        self.tell(request, pull())
        return HttpResponseRedirect(reverse(LIST))

    def confirmation(
        self, request: HttpRequest, title: str, question: str, rows: list[PeriodicTask]
    ) -> HttpResponse:
        everything = request.POST.get("select_across") == "1"  # by the list's filters
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "question": question,
            # Without the list's filters, by which a row may be gone when it is confirmed.
            "url": reverse(LIST) if rows and not everything else request.get_full_path(),
            "rows": rows[:RECENT],
            "more": len(rows) - RECENT,
            # What says which action is confirmed, for which rows.
            "fields": [
                (name, value)
                for name in (ACTION_CHECKBOX_NAME, "action", "select_across", "index", "page")
                for value in request.POST.getlist(name)
            ],
            "media": self.media,
        }
        return TemplateResponse(request, "scheduling/confirmation.html", context)

    def tell(self, request: HttpRequest, done: dict[PeriodicTask, str]) -> None:
        """To the user, and in Django's log of each row."""
        by_text: dict[str, list[PeriodicTask]] = {}
        for row, text in done.items():
            by_text.setdefault(text, []).append(row)
        for text, rows in by_text.items():
            # Not log_actions, which would read the schedule of each for its text.
            LogEntry.objects.bulk_create(
                LogEntry(
                    user_id=str(request.user.pk),
                    content_type=ContentType.objects.get_for_model(PeriodicTask),
                    object_id=row.pk,
                    object_repr=row.name,
                    action_flag=CHANGE,
                    change_message=f"{text}.",
                )
                for row in rows
            )
            self.message_user(request, f"{text}: {name_some(rows)}.", messages.SUCCESS)
        if not done:
            self.message_user(request, "Nothing was changed.", messages.WARNING)


def name_some(rows: list[PeriodicTask]) -> str:
    names = ", ".join(row.name for row in rows[:3])
    return f"{names} and {len(rows) - 3} more" if len(rows) > 3 else names


def said(rows: Iterable[PeriodicTask], text: str) -> dict[PeriodicTask, str]:
    return dict.fromkeys(rows, text)


@admin.register(TIMINGS["interval"])
class IntervalScheduleAdmin(KeepsDeclared, base.IntervalScheduleAdmin):  # type: ignore[misc]
    pass


@admin.register(TIMINGS["crontab"])
class CrontabScheduleAdmin(KeepsDeclared, base.CrontabScheduleAdmin):  # type: ignore[misc]
    pass


@admin.register(TIMINGS["solar"])
class SolarScheduleAdmin(KeepsDeclared, base.SolarScheduleAdmin):  # type: ignore[misc]
    pass


@admin.register(TIMINGS["clocked"])
class ClockedScheduleAdmin(KeepsDeclared, base.ClockedScheduleAdmin):  # type: ignore[misc]
    pass
