"""No request is answered with 500: what no page sends, and what nobody thought of."""

import os
import random
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from django.db import transaction
from django.test import Client
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    PeriodicTask,
    SolarSchedule,
)

from tests.admin.pages import LIST, TASK, TIMELINE, messages, text_of
from tests.factories import HOUR, NOON, every, make

pytestmark = pytest.mark.django_db
BEAT = "/admin/django_celery_beat"
INLINE = {"periodictask_set-TOTAL_FORMS": "0", "periodictask_set-INITIAL_FORMS": "0"}
WORDS = "+".join(["word"] * 2_000)

QUERIES = [
    (f"{LIST}?q={WORDS}", 200),
    (f"{TIMELINE}?q={WORDS}", 200),
    (f"{TIMELINE}?q=a%00b", 200),
    (f"{TIMELINE}?app=a%00b&state=%00&p=-1", 200),
    (f"{LIST}?name=a%00b", 400),
    (f"{LIST}?name__regex=%5C", 400),
    (f"{LIST}?pk__in=99999999999999999999", 400),
    (f"{LIST}?pause__pk=99999999999999999999", 400),
    (f"{LIST}?date_changed__year=99999", 400),
    (f"{BEAT}/crontabschedule/?minute=%00", 400),
    (f"{BEAT}/periodictask/1/change/?_to_field=", 302),
    (f"{BEAT}/solarschedule/1/delete/?_to_field=", 302),
]


@pytest.mark.parametrize(("url", "status"), QUERIES, ids=lambda value: str(value)[:80])
def test_an_odd_query_is_refused_or_passed_over(
    admin_client: Client, url: str, status: int
) -> None:
    assert admin_client.get(url).status_code == status


def test_a_search_that_is_too_long_is_explained(admin_client: Client) -> None:
    make("Mine", **every(10))

    answer = admin_client.get(f"{LIST}?q={WORDS}")

    assert "at most 200 characters" in messages(answer)[0]
    assert "Mine" in text_of(answer)


@pytest.mark.parametrize("lookup", ["name=Mine", "task__startswith=some", "enabled__exact=1"])
def test_the_list_is_filtered_by_texts_and_switches(admin_client: Client, lookup: str) -> None:
    make("Mine", **every(10))
    make("Other", enabled=False, **every(20))
    PeriodicTask.objects.filter(name="Other").update(task="another")

    found = admin_client.get(f"{LIST}?{lookup}").context["cl"].result_list

    assert [row.name for row in found] == ["Mine"]


@pytest.mark.parametrize("key", ["x", "", "1.0", "99999999999999999999", "9" * 5_000, "\0"])
@pytest.mark.parametrize("model", ["periodictask", "crontabschedule"])
def test_an_odd_key_of_a_row_is_refused(admin_client: Client, model: str, key: str) -> None:
    selected = {"action": "delete_selected", "index": "0", "_selected_action": key}

    assert admin_client.post(f"{BEAT}/{model}/", selected).status_code == 400


@pytest.mark.parametrize("minute", ["0-59," * 48, "0-59,", ",", "*/0", "1-", "/", "-1", "60"])
def test_a_crontab_that_cannot_be_read_is_refused_and_shown(
    admin_client: Client, minute: str
) -> None:
    rest = dict.fromkeys(("hour", "day_of_week", "day_of_month", "month_of_year"), "*")
    given = {"minute": minute, "timezone": "UTC"} | rest | INLINE

    answer = admin_client.post(f"{BEAT}/crontabschedule/add/", given)
    assert 'class="errorlist"' in text_of(answer)
    assert not CrontabSchedule.objects.filter(minute=minute).exists()

    stored = CrontabSchedule.objects.create(minute=minute)  # by a program
    make("Mine", crontab=stored)
    assert minute in text_of(admin_client.get(f"{BEAT}/crontabschedule/"))
    assert admin_client.get(LIST).status_code == 200


ODD = [
    *("", " ", "\0", "a\0b", "\ud800", "\U0010ffff", "\u2028", "\n", "\x1b[2J", "'\"<script>", "%"),
    *("0", "-1", "1", "+1", "1_0", "1.5", "0x10", "٣", "²", "9" * 20, "9" * 5_000, "1e400"),
    *("2147483648", "9223372036854775808", "NaN", "Infinity", "-Infinity", "sNaN", "null", "true"),
    *("[]", "{}", "[" * 5_000, '{"a":' * 5_000, '["\\ud800"]', '{"\\u0000": 1}', "[NaN]", "\\"),
    *("2027-01-01", "0001-01-01", "9999-12-31", "-9999-01-01", "23:59:59.999999", "24:00"),
    *("*", "*/0", "0-59,", "1-", "-", "/", "MON", "7", "L", "#", "?", "Europe/Berlin\0"),
    *("x" * 10_000, "w " * 2_000, "run_now", "delete_selected", "../../etc/passwd", "pk", "on"),
]
PARAMETERS = [
    *("q", "p", "o", "e", "all", "state", "app", "pk", "next", "page", "_facets", "_popup"),
    *("_to_field", "_changelist_filters", "enabled__exact", "one_off__exact", "name__regex"),
    *("crontab__minute", "interval__id__exact", "start_time__gte", "start_time__year", "id__in"),
    *("declaration__values", "pause__pk", "args__contains", "name__isnull", "priority__range"),
    *("action", "index", "select_across", "_selected_action", "confirmed", "post", "_save"),
]
VALID = {
    **{"name": "New", "task": TASK, "enabled": "on", "args": "[]", "kwargs": "{}", "headers": ""},
    **{"description": "", "queue": "", "exchange": "", "routing_key": "", "priority": ""},
    **{"crontab": "", "solar": "", "clocked": "", "one_off": "", "expire_seconds": ""},
    **dict.fromkeys(("start_time_0", "start_time_1", "expires_0", "expires_1"), ""),
    **dict.fromkeys(("minute", "hour", "day_of_week", "day_of_month", "month_of_year"), "*"),
    **{"timezone": "UTC", "every": "7", "period": "days"},
    **{"event": "sunset", "latitude": "1", "longitude": "1"},
    **{"clocked_time_0": "2027-01-01", "clocked_time_1": "10:00"},
    **{"action": "run_now", "index": "0", "confirmed": "yes", "post": "yes"},
}


class Stranger:
    """Sends what comes into its head, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311
        interval = every(10)
        self.rows = {
            "periodictask": make("Mine", **interval),
            "intervalschedule": interval["interval"],
            "crontabschedule": CrontabSchedule.objects.create(hour="3"),
            "solarschedule": SolarSchedule.objects.create(event="sunset", latitude=9, longitude=9),
            "clockedschedule": ClockedSchedule.objects.create(clocked_time=NOON + HOUR),
        }
        self.given = VALID | {
            "interval": str(interval["interval"].pk),
            "_selected_action": str(self.rows["periodictask"].pk),
        }

    def path(self) -> str:
        model, row = self.random.choice(list(self.rows.items()))
        if model != "periodictask" and self.random.random() < 0.3:
            model, row = "periodictask", self.rows["periodictask"]
        key = self.odd() if self.random.random() < 0.2 else str(row.pk)
        page = self.random.choice(["", "", "add/", "ROW/change/", "ROW/delete/", "ROW/history/"])
        if model == "periodictask":
            page = self.random.choice(["preview/", "timeline/", "resume_all/", page, page, page])
        if self.random.random() < 0.1:
            return self.random.choice(["/metrics", "/admin/login/", "/admin/autocomplete/"])
        return f"{BEAT}/{model}/{page.replace('ROW', quote(_bytes(key), safe=''))}"

    def odd(self) -> str:
        return self.random.choice(ODD)

    def query(self) -> str:
        names = self.random.choices(PARAMETERS, k=self.random.randint(0, 3))
        return _encoded([(name, self.odd()) for name in names])

    def form(self) -> str:
        """A valid form, of which a few fields are odd, missing, or there twice."""
        pairs = list(self.given.items())
        for _ in range(self.random.randint(0, 3)):
            name = self.random.choice(list(self.given))
            if self.random.random() < 0.8:
                pairs = [pair for pair in pairs if pair[0] != name]
            pairs += [(name, self.odd())] * self.random.randint(0, 2)
        return _encoded([*pairs, *INLINE.items()])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _encoded(pairs: list[tuple[str, str]]) -> str:
    return "&".join(f"{quote_plus(name)}={quote_plus(_bytes(value))}" for name, value in pairs)


@pytest.mark.parametrize("seed", range(int(os.environ.get("FUZZ_SEEDS", "2"))))
def test_no_request_of_a_stranger_is_answered_with_500(
    admin_client: Client, sent: Any, seed: int
) -> None:
    stranger, cookies = Stranger(seed), dict(admin_client.cookies)
    for number in range(60):
        admin_client.cookies.load(cookies)
        path, query, given = stranger.path(), stranger.query(), stranger.form()
        if "preview" in path:
            query = given
        url = f"{path}?{query}"
        with transaction.atomic():
            if stranger.random.random() < 0.5:
                answer = admin_client.get(url)
            else:
                kind = "application/x-www-form-urlencoded"
                answer = admin_client.post(url, given, content_type=kind)
            assert answer.status_code < 500, (number, url, given)
            for page in (LIST, TIMELINE):  # show also what was saved
                if answer.status_code == 302:
                    assert admin_client.get(page).status_code < 500, (number, url, given)
            transaction.set_rollback(True)
