"""Who may see and do what: every page, form and action, for each kind of user."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.admin import site
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.db.models import Model
from django.test import Client, RequestFactory
from django.urls import URLPattern, get_resolver, resolve, reverse
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)

from scheduling.models import Node, Pause, Run
from scheduling.timing import TIMINGS
from tests.admin.pages import LIST, TASK, TIMELINE, declared, page_of, text_of
from tests.factories import MINUTE, NOON, every, make, store

pytestmark = pytest.mark.django_db

# What each user has, besides being active and of the staff: code names of permissions.
USERS: dict[str, list[str]] = {
    "anon": [],
    "off": ["all"],  # a superuser who is not active
    "out": ["all"],  # not of the staff
    "none": [],
    "view": ["view_periodictask"],
    "add": ["add_periodictask"],
    "edit": ["change_periodictask"],
    "del": ["delete_periodictask"],
    "run": ["run_schedule"],
    "op": ["view_periodictask", "run_schedule"],
    "read": ["view_periodictask", "view_run"],
    "root": ["all"],  # a superuser
}
# Status codes; "in" leads to the login; "done" means that something was changed or sent, and
# a code that nothing was. SCHEDULE, TIMING, RUN and OTHER stand for the pages of models, see
# MODELS; ROW for the key of a row. The word behind a POST names its form in FORMS.
TABLE = """
                                    anon  off  out none view  add edit  del  run   op read root
GET  admin/                           in   in   in  200  200  200  200  200  200  200  200  200
GET  admin/login/                    200  200  200  302  302  302  302  302  302  302  302  302
GET  admin/logout/                   302  302  302  405  405  405  405  405  405  405  405  405
GET  admin/password_change/           in   in   in  200  200  200  200  200  200  200  200  200
GET  admin/password_change/done/      in   in   in  200  200  200  200  200  200  200  200  200
GET  admin/autocomplete/              in   in   in  403  403  403  403  403  403  403  403  403
GET  admin/jsi18n/                    in   in   in  200  200  200  200  200  200  200  200  200
GET  admin/r/1/1/                     in   in   in  404  404  404  404  404  404  404  404  404
GET  admin/django_celery_beat/        in   in   in  404  200  200  200  200  404  200  200  200
GET  admin/no-such-page/              in   in   in  404  404  404  404  404  404  404  404  404

GET  SCHEDULE/                        in   in   in  403  200  403  200  403  403  200  200  200
GET  SCHEDULE/add/                    in   in   in  403  403  200  403  403  403  403  403  200
GET  SCHEDULE/ROW/                    in   in   in  302  302  302  302  302  302  302  302  302
GET  SCHEDULE/ROW/change/             in   in   in  403  200  403  200  403  403  200  200  200
GET  SCHEDULE/ROW/delete/             in   in   in  403  403  403  403  200  403  403  403  200
GET  SCHEDULE/ROW/history/            in   in   in  403  200  403  200  403  403  200  200  200
GET  SCHEDULE/timeline/               in   in   in  403  200  403  200  403  403  200  200  200
GET  SCHEDULE/preview/                in   in   in  403  403  200  200  403  403  403  403  200
GET  SCHEDULE/pause_all/              in   in   in  403  403  403  200  403  403  403  403  200
GET  SCHEDULE/resume_all/             in   in   in  403  403  403  200  403  403  403  403  200
POST SCHEDULE/add/ schedule           in   in   in  403  403 done  403  403  403  403  403 done
POST SCHEDULE/ROW/change/ schedule    in   in   in  403  403  403 done  403  403  403  403 done
POST SCHEDULE/ROW/delete/ confirm     in   in   in  403  403  403  403 done  403  403  403 done
POST SCHEDULE/ run_now                in   in   in  403  200  403  302  403  403 done  200 done
POST SCHEDULE/ pause                  in   in   in  403  200  403 done  403  403  302  200 done
POST SCHEDULE/ resume                 in   in   in  403  200  403 done  403  403  302  200 done
POST SCHEDULE/ reset                  in   in   in  403  200  403 done  403  403  302  200 done
POST SCHEDULE/ delete_selected        in   in   in  403  200  403  302  403  403  302  200 done
POST SCHEDULE/pause_all/ confirm      in   in   in  403  403  403 done  403  403  403  403 done
POST SCHEDULE/resume_all/ confirm     in   in   in  403  403  403 done  403  403  403  403 done

GET  TIMING/                          in   in   in  403  403  403  403  403  403  403  403  200
GET  TIMING/add/                      in   in   in  403  403  403  403  403  403  403  403  200
GET  TIMING/ROW/                      in   in   in  302  302  302  302  302  302  302  302  302
GET  TIMING/ROW/change/               in   in   in  403  403  403  403  403  403  403  403  200
GET  TIMING/ROW/delete/               in   in   in  403  403  403  403  403  403  403  403  200
GET  TIMING/ROW/history/              in   in   in  403  403  403  403  403  403  403  403  200
POST TIMING/add/ timing               in   in   in  403  403  403  403  403  403  403  403 done
POST TIMING/ROW/change/ timing        in   in   in  403  403  403  403  403  403  403  403 done
POST TIMING/ROW/delete/ confirm       in   in   in  403  403  403  403  403  403  403  403 done
POST TIMING/ delete_selected          in   in   in  403  403  403  403  403  403  403  403 done

GET  RUN/                             in   in   in  403  403  403  403  403  403  403  200  200
GET  RUN/add/                         in   in   in  403  403  403  403  403  403  403  403  403
GET  RUN/ROW/                         in   in   in  302  302  302  302  302  302  302  302  302
GET  RUN/ROW/change/                  in   in   in  403  403  403  403  403  403  403  200  200
GET  RUN/ROW/delete/                  in   in   in  403  403  403  403  403  403  403  403  403
GET  RUN/ROW/history/                 in   in   in  403  403  403  403  403  403  403  200  200
POST RUN/ROW/change/ nothing          in   in   in  403  403  403  403  403  403  403  403  403
POST RUN/ROW/delete/ confirm          in   in   in  403  403  403  403  403  403  403  403  403

GET  OTHER/                           in   in   in  403  403  403  403  403  403  403  403  200
GET  OTHER/add/                       in   in   in  403  403  403  403  403  403  403  403  200
GET  OTHER/ROW/                       in   in   in  302  302  302  302  302  302  302  302  302
GET  OTHER/ROW/change/                in   in   in  403  403  403  403  403  403  403  403  200
GET  OTHER/ROW/delete/                in   in   in  403  403  403  403  403  403  403  403  200
GET  OTHER/ROW/history/               in   in   in  403  403  403  403  403  403  403  403  200
GET  admin/auth/user/ROW/password/    in   in   in  403  403  403  403  403  403  403  403  200
POST OTHER/ROW/delete/ confirm        in   in   in  403  403  403  403  403  403  403  403 done
POST OTHER/ delete_selected           in   in   in  403  403  403  403  403  403  403  403 done

GET  health/live                     200  200  200  200  200  200  200  200  200  200  200  200
GET  health/ready                    200  200  200  200  200  200  200  200  200  200  200  200
GET  health/schedules                503  503  503  503  503  503  503  503  503  503  503  503
GET  health/team                     200  200  200  200  200  200  200  200  200  200  200  200
GET  metrics                         404  404  404  404  404  404  404  404  404  404  404  404

POST admin/login/ login              200  200  200 done done done done done done done done done
POST admin/logout/ nothing           302  302  302  200  200  200  200  200  200  200  200  200
"""
WRITTEN = re.compile(r'(?:INSERT INTO|UPDATE|DELETE FROM) "(\w+)"')
MODELS = {
    "SCHEDULE": ["django_celery_beat/periodictask"],
    "TIMING": [f"django_celery_beat/{kind}schedule" for kind in TIMINGS],
    "RUN": ["scheduling/run"],
    "OTHER": ["auth/user", "auth/group"],
}
CONFIRMED = {"index": "0", "confirmed": "yes", "post": "yes"}
FORMS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "confirm": {"post": "yes"},
    "schedule": {"name": "New", "task": TASK, "enabled": "on", "args": "[]", "kwargs": "{}"},
    "timing": {
        **{"every": 7, "period": "days", "event": "sunset", "latitude": 7, "longitude": 7},
        **dict.fromkeys(("minute", "hour", "day_of_week", "day_of_month", "month_of_year"), 7),
        **{"timezone": "UTC", "clocked_time_0": "2027-01-01", "clocked_time_1": "10:00"},
        **{"periodictask_set-TOTAL_FORMS": 0, "periodictask_set-INITIAL_FORMS": 0},
    },
    "login": {"password": "right"},
    "run_now": CONFIRMED,
    "pause": CONFIRMED,
    "resume": CONFIRMED,
    "reset": CONFIRMED,
    "delete_selected": CONFIRMED,
}


def parsed() -> Iterator[tuple[str, str, dict[str, str]]]:
    """The rows of TABLE: path, form (empty for a GET), and the expected answer by user."""
    header, *rows = (line.split() for line in TABLE.splitlines() if line)
    assert header == list(USERS)
    for method, path, *answers in rows:
        form = answers.pop(0) if method == "POST" else ""
        for page in pages(path):
            yield page, form, dict(zip(USERS, answers, strict=True))


def pages(path: str) -> list[str]:
    """The paths that a path of the TABLE stands for, with ROW in place of a key."""
    model, _, rest = path.partition("/")
    return [f"/admin/{name}/{rest}" for name in MODELS.get(model, ())] or [f"/{path}"]


ROWS = list(parsed())


class World:
    """A row of each model that has pages, which nothing keeps from being deleted."""

    def __init__(self) -> None:
        mine = make("Mine", **every(10))
        PeriodicTask.objects.filter(pk=mine.pk).update(task=TASK)
        paused, with_all = (make(n, enabled=False, **every(10)) for n in ("Paused", "With all"))
        Pause.objects.create(periodic_task=with_all)
        edited = declared()
        PeriodicTask.objects.filter(pk=edited.pk).update(priority=7)
        store("Mine", NOON - MINUTE, "started", "succeeded")
        self.interval = mine.interval_id
        self.rows: dict[str, Model] = {
            "periodictask": mine,
            "intervalschedule": IntervalSchedule.objects.create(every=9, period="days"),
            "crontabschedule": CrontabSchedule.objects.create(hour="9"),
            "solarschedule": SolarSchedule.objects.create(event="sunset", latitude=9, longitude=9),
            "clockedschedule": ClockedSchedule.objects.create(clocked_time=NOON),
            "run": Run.objects.get(),
            "user": User.objects.create_user("somebody"),
            "group": Group.objects.create(name="Some"),
        }
        self.selected = {"resume": paused, "reset": edited}  # others select the row of the model

    def mark_up(self, text: str) -> None:
        """Write a text into all that people, programs, workers and beat may write."""
        values = {"name": text, "description": text, "queue": text, "routing_key": text}
        stored = {"args": json.dumps([text]), "kwargs": json.dumps({text: text}), "headers": text}
        rows = PeriodicTask.objects.all()
        rows.filter(name="Mine").update(**values, **stored, exchange=text)
        rows.filter(name="Paused").update(task=text)
        CrontabSchedule.objects.filter(hour="9").update(minute=text)
        SolarSchedule.objects.update(event=text[:24])
        columns = ("schedule", "task", "reason", "queue", "worker", "error", "traceback")
        Run.objects.update(state="failed", **dict.fromkeys(columns, text))
        Node.objects.create(name=text, is_worker=False, seen_at=NOON)
        Group.objects.update(name=text)
        User.objects.filter(username="somebody").update(username=text, email=text)
        for row in self.rows.values():
            LogEntry.objects.create(
                user=User.objects.get(username=text),
                content_type=ContentType.objects.get_for_model(row),
                **{"object_id": row.pk, "object_repr": text, "change_message": text},
                action_flag=2,
            )

    def ask(self, client: Client, page: str, form: str, name: str) -> Any:
        """GET a page as a user of a name, or POST a form to it."""
        row = self.rows.get(page.split("/")[3]) if page.count("/") > 3 else None
        path = page.replace("ROW", str(row.pk)) if row else page
        if not form:
            return client.get(path)
        data = FORMS[form] | {"username": name, "interval": self.interval, "action": form}
        if selected := self.selected.get(form, row):
            data["_selected_action"] = selected.pk
        return client.post(path, data)


def client_of(name: str, **options: Any) -> Client:
    """The client of one of USERS."""
    client, names = Client(**options), USERS[name]
    if name != "anon":
        user = User.objects.create_user(name, password="right", is_superuser=names == ["all"])
        user.is_staff, user.is_active = name != "out", name != "off"
        user.save()
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client.force_login(user)
    return client


@contextmanager
def written() -> Iterator[set[str]]:
    """The tables that are written to meanwhile, except those of sessions and of Django's log."""
    tables: set[str] = set()

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        tables.update(set(WRITTEN.findall(sql)) - {"django_session", "django_admin_log"})
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        yield tables


def word(answer: Any) -> str:
    """An answer as in TABLE."""
    leads_to_login = answer.headers.get("Location", "").startswith(reverse("admin:login"))
    return "in" if leads_to_login else str(answer.status_code)


@pytest.mark.parametrize("name", USERS)
def test_each_user_sees_and_does_what_the_table_says(
    name: str, sent: Callable[..., list[Any]]
) -> None:
    world, client = World(), client_of(name)
    cookies, found = client.cookies, {}
    for page, form, _ in ROWS:
        client.cookies = copy(cookies)
        with transaction.atomic(), written() as tables:
            answer = world.ask(client, page, form, name)
            found[page, form] = "done" if [*tables, *sent()] else word(answer)
            transaction.set_rollback(True)

    assert found == {(page, form): answers[name] for page, form, answers in ROWS}


BUTTONS = {
    "view": ([], False),
    "read": ([], True),
    "op": (["run_now"], False),
    "edit": (["pause"], False),
    "root": (["run_now", "pause"], True),
}


@pytest.mark.parametrize(("name", "buttons", "reads"), [(n, *rest) for n, rest in BUTTONS.items()])
def test_a_page_shows_the_buttons_and_errors_that_are_for_the_user(
    name: str, buttons: list[str], reads: bool
) -> None:
    world, client = World(), client_of(name)
    Run.objects.update(state="failed", error="Oh: secret")

    page = text_of(client.get(page_of(world.rows["periodictask"])))

    assert '<svg class="chart"' in page
    assert re.findall(r'name="action" value="(\w+)"', page) == buttons
    assert ("secret" in page) == reads
    assert ("Pause all" in text_of(client.get(LIST))) == ("pause" in buttons)


@pytest.mark.parametrize(
    ("names", "status"),
    [(["delete_intervalschedule"], 403), (["delete_intervalschedule", "delete_periodictask"], 302)],
)
def test_a_time_takes_its_schedules_along_only_for_those_who_may_delete_them(
    client: Client, names: list[str], status: int
) -> None:
    row = make("Mine", **every(10))
    user = User.objects.create_user("cleaner", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(user)

    delete = reverse("admin:django_celery_beat_intervalschedule_delete", args=[row.interval_id])

    assert client.post(delete, {"post": "yes"}).status_code == status
    assert PeriodicTask.objects.filter(pk=row.pk).exists() == (status == 403)


EVIL = "\"'><x-evil>&"


class Markup(HTMLParser):
    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert "x-evil" not in " ".join([tag, *(name for name, _ in attributes)])


def test_markup_stays_text_on_every_page(sent: Callable[..., list[Any]]) -> None:
    world, client = World(), client_of("root")
    world.mark_up(EVIL)
    cookies, shown = client.cookies, set()

    def look(answer: Any, page: str) -> None:
        is_html = answer.headers.get("Content-Type", "").startswith("text/html")
        if is_html and "x-evil" in text_of(answer):
            Markup().feed(text_of(answer))
            shown.add(page)

    for page, form, _ in ROWS:
        client.cookies = copy(cookies)
        with transaction.atomic():
            look(world.ask(client, page, form, "root"), page)
            if form:
                look(client.get(LIST), page)  # with the message of what was done
            transaction.set_rollback(True)
    client.cookies = cookies
    query = urlencode(dict.fromkeys(("q", "app", "state", "next", "pk"), EVIL))
    preview = reverse("admin:scheduling_preview")
    for page in (LIST, TIMELINE, preview, reverse("admin:login")):
        look(client.get(f"{page}?{query}"), page)
    look(client.get(preview, {"crontab": world.rows["crontabschedule"].pk}), preview)
    selected = {"_selected_action": [row.pk for row in PeriodicTask.objects.all()], "index": 0}
    for action in (form for form, data in FORMS.items() if data is CONFIRMED):
        asked = client.post(LIST, selected | {"action": action})
        assert asked.status_code == 200
        look(asked, action)
    change = "/admin/django_celery_beat/periodictask/ROW/change/"
    assert shown >= {LIST, TIMELINE, "pause", preview, change, change.replace("change", "history")}


# The table is complete


def routes(resolver: Any, before: str = "") -> Iterator[str]:
    for pattern in resolver.url_patterns:
        route = before + str(pattern.pattern).removeprefix("^")
        if isinstance(pattern, URLPattern):
            yield route
        else:
            yield from routes(pattern, route)


def test_every_page_is_in_the_table() -> None:
    found = {resolve(page.replace("ROW", "1")).route for page, form, _ in ROWS if not form}

    assert found == set(routes(get_resolver()))


def test_every_action_is_in_the_table() -> None:
    request = RequestFactory().get("/")
    request.user = User(is_superuser=True, is_active=True)
    actions = {
        (f"/admin/{model._meta.app_label}/{model._meta.model_name}/", action)
        for model, its_admin in site._registry.items()
        for action in its_admin.get_actions(request)
    }

    assert actions == {(page, form) for page, form, _ in ROWS if FORMS.get(form) is CONFIRMED}


def test_what_is_posted_elsewhere_changes_nothing(sent: Callable[..., list[Any]]) -> None:
    world, client = World(), client_of("root")
    posted = {page for page, form, _ in ROWS if form}

    with written() as tables:
        for page in {page for page, form, _ in ROWS} - posted:
            assert world.ask(client, page, "nothing", "root").status_code < 500, page

    assert not tables
    assert not sent()


def test_nothing_is_done_without_the_token_of_a_form(sent: Callable[..., list[Any]]) -> None:
    world, client = World(), client_of("root", enforce_csrf_checks=True)

    with written() as tables:
        for page, form, _ in ROWS:
            if form:
                assert world.ask(client, page, form, "root").status_code == 403, (page, form)

    assert not tables
    assert not sent()
