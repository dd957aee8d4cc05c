"""What a Schedule stores, and what it refuses."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from celery import current_app
from celery.schedules import crontab, solar
from django.conf import settings
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule
from django_celery_beat.tzcrontab import TzAwareCrontab

from scheduling.declare.schedule import LONGEST, Schedule
from scheduling.timing import describe

NEW_YEAR = datetime(2100, 1, 1, tzinfo=UTC)
LOCAL = settings.CELERY_TIMEZONE
DAILY = timedelta(days=1)
SOUND: dict[str, Any] = {"task": "some.task", "when": DAILY}


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (timedelta(seconds=1), "every second"),
        (timedelta(seconds=90), "every 90 seconds"),
        (timedelta(minutes=10), "every 10 minutes"),
        (timedelta(minutes=120), "every 2 hours"),
        (timedelta(weeks=1), "every 7 days"),
        (timedelta(seconds=LONGEST), f"every {LONGEST} seconds"),
        (crontab(), f"* * * * * {LOCAL}"),
        (crontab("*/15", "8-17", day_of_week="mon-fri"), f"*/15 8-17 * * mon-fri {LOCAL}"),
        (crontab(0, 6, day_of_month=1, month_of_year=12), f"0 6 1 12 * {LOCAL}"),
        (crontab([30, 0], [8, 20]), f"0,30 8,20 * * * {LOCAL}"),
        (crontab(day_of_month=29, month_of_year=2), f"* * 29 2 * {LOCAL}"),
        (TzAwareCrontab(0, 6, tz=ZoneInfo("Asia/Tokyo")), "0 6 * * * Asia/Tokyo"),
        (NEW_YEAR, "once at 2100-01-01 00:00:00+00:00"),
        (
            datetime(2100, 1, 1, 1, 0, 0, 5, tzinfo=timezone(timedelta(hours=1))),
            "once at 2100-01-01 00:00:00.000005+00:00",
        ),
    ],
)
@pytest.mark.django_db
def test_when_is_stored_and_read_back_as_it_is(when: Any, words: str) -> None:
    schedule = Schedule("Some", "some.task", when)
    timing = schedule.timing()
    timing.save()

    stored = type(timing).objects.get(pk=timing.pk)

    assert schedule.values["when"] == describe(stored) == words
    match when:
        case timedelta():
            assert stored.schedule.run_every == when
        case crontab():
            for part in ("minute", "hour", "day_of_month", "month_of_year", "day_of_week", "tz"):
                assert getattr(stored.schedule, part) == getattr(when, part)
        case datetime():
            assert stored.clocked_time == when


@pytest.mark.django_db
def test_a_solar_event_is_stored_with_its_place() -> None:
    schedule = Schedule("Some", "some.task", solar("sunrise", 48.8566, -2.35220012))
    timing = schedule.timing()
    timing.save()
    timing.refresh_from_db()

    assert schedule.values["when"] == describe(timing) == "sunrise at 48.856600, -2.352200"
    assert repr(timing.schedule.cal) == repr(solar("sunrise", 48.8566, -2.3522).cal)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (IntervalSchedule(every=600, period="seconds"), "every 10 minutes"),
        (IntervalSchedule(every=5, period="microseconds"), "every 5 microseconds"),
        (IntervalSchedule(every=0, period="hours"), "every 0 days"),
        (CrontabSchedule(minute="0", timezone="UTC"), "0 * * * * UTC"),
        (ClockedSchedule(clocked_time=NEW_YEAR), "once at 2100-01-01 00:00:00+00:00"),
    ],
)
def test_a_row_that_somebody_made_is_described_alike(row: Any, words: str) -> None:
    assert describe(row) == words


def test_a_crontab_may_have_a_time_zone_of_its_own() -> None:
    schedule = Schedule("Some", "some.task", crontab(hour="8"), timezone="Asia/Tokyo")

    assert schedule.values["when"] == "* 8 * * * Asia/Tokyo"


def test_what_is_declared_is_told_field_by_field() -> None:
    task = current_app.tasks["celery.backend_cleanup"]
    schedule = Schedule(
        "Some",
        task,
        NEW_YEAR,
        args=["é", 1],
        kwargs={"y": 1.5, "x": [None]},
        queue="reports",
        priority=0,
        expires=timedelta(minutes=5),
        enabled=False,
        description="Why",
    )

    assert schedule.values == {
        "name": "Some",
        "task": "celery.backend_cleanup",
        "when": "once at 2100-01-01 00:00:00+00:00",
        "args": json.dumps(["é", 1]),
        "kwargs": '{"x": [null], "y": 1.5}',
        "queue": "reports",
        "priority": 0,
        "expires": 300,
        "one_off": True,
        "description": "Why",
        "enabled": False,
    }


@pytest.mark.parametrize(
    ("when", "seconds"),
    [
        (timedelta(seconds=20), 20),
        (timedelta(hours=1), 3600),
        (timedelta(days=1), 3600),
        (crontab(), 60),
        (crontab("*/5"), 300),
        (crontab("*/7"), 240),  # from :56 to the full hour
        (crontab("0,20"), 1200),
        (crontab("0,50"), 600),
        (crontab("0,50", "3"), 3000),  # no run in the next hour
        (crontab("5,55", "0,23"), 600),  # across midnight
        (crontab(0), 3600),
        (crontab(0, 3), 3600),
        (crontab(0, 3, day_of_month=1), 3600),
        (NEW_YEAR, None),
    ],
)
def test_a_run_expires_when_the_next_one_is_due_or_after_an_hour(when: Any, seconds: int) -> None:
    assert Schedule("Some", "some.task", when).values["expires"] == seconds
    assert Schedule("Some", "some.task", when, expires=None).values["expires"] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"when": timedelta(0)}, "interval 0:00:00 is not a whole number of seconds from 1"),
        ({"when": timedelta(seconds=1.5)}, "not a whole number of seconds"),
        ({"when": timedelta(milliseconds=1)}, "not a whole number of seconds"),
        ({"when": timedelta(minutes=-10)}, "not a whole number of seconds"),
        ({"when": timedelta(seconds=LONGEST + 1)}, f"seconds from 1 to {LONGEST}"),
        ({"when": timedelta.max}, f"seconds from 1 to {LONGEST}"),
        ({"when": crontab(minute=[])}, "never runs; give each part a whole number"),
        (
            {"when": crontab(minute=cast("list[int]", [0.5]))},
            "never runs; give each part a whole number",
        ),
        ({"when": crontab(month_of_year="1,2," * 20 + "3")}, "month_of_year is too long"),
        ({"when": NEW_YEAR.replace(tzinfo=None)}, "has no time zone; add one, such as tzinfo=UTC"),
        ({"when": "every day"}, "'every day' is not a timedelta, crontab, solar or datetime"),
        ({"when": 60}, "60 is not a timedelta"),
        ({"when": None}, "None is not a timedelta"),
        ({"when": crontab(), "timezone": "Berlin"}, "use an IANA name, such as Europe/Berlin"),
        ({"timezone": "UTC"}, "only a crontab takes a timezone; leave it out"),
        ({"task": print}, "is not a task; decorate it with @shared_task"),
        ({"task": ""}, "write a task name of 1 to 200 characters"),
        ({"task": "x" * 201}, "write a task name of 1 to 200 characters"),
        ({"args": [DAILY]}, "args .* is not JSON: Object of type timedelta"),
        ({"args": [float("nan")]}, "args .* is not JSON: Out of range float"),
        ({"args": [(1, 2)]}, "args .* is not JSON; use lists, and text as keys"),
        ({"args": "user@example.com"}, "args 'user@example.com' is not a list; use a list"),
        ({"args": 1}, "args 1 is not a list; use a list"),
        ({"kwargs": {"x": {1: 2}}}, "kwargs .* is not JSON; use lists, and text as keys"),
        ({"kwargs": {1: 2}}, "kwargs .* is not JSON; use lists, and text as keys"),
        ({"kwargs": [1]}, r"kwargs \[1\] is not a dict; use a dict"),
        ({"queue": "x" * 201}, "write a queue name of at most 200 characters"),
        ({"queue": "unacked"}, "queue 'unacked' is a name that Celery or the broker uses itself"),
        ({"args": [json.loads("[" * 300 + "]" * 300)]}, "it nests deeper than 300 levels"),
        ({"priority": -1}, "priority -1 is not a whole number from 0 to 255"),
        ({"priority": 256}, "priority 256 is not a whole number from 0 to 255"),
        ({"priority": "high"}, "priority 'high' is not a whole number from 0 to 255"),
        ({"expires": timedelta(0)}, "expires 0:00:00 is not a whole number of seconds"),
        ({"expires": 60}, "expires 60 is not a timedelta; use a timedelta or None"),
    ],
)
def test_what_cannot_work_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^Schedule 'Nightly report': .*{message}"):
        Schedule("Nightly report", **SOUND | given)


@pytest.mark.parametrize("name", ["", "x" * 201, " Nightly", "Nightly\n"])
def test_a_name_that_cannot_be_stored_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="write a name of 1 to 200 characters"):
        Schedule(name, "some.task", DAILY)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"minute": 60}, "Valid range is 0-59"),
        ({"hour": "24"}, "24 > 23"),
        ({"day_of_week": 7}, "Valid range is 0-6"),
        ({"day_of_month": 30, "month_of_year": 2}, "30.*2"),
        ({"minute": "*/0"}, "zero"),
    ],
)
def test_celery_refuses_a_crontab_that_never_comes(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crontab(**parts)


BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("when", "zone", "after", "expected"),
    [
        # Clocks go forward on 29 March 2026 and back on 25 October.
        (
            crontab(minute="0", hour="3"),
            BERLIN,
            "2026-03-28 12:00+01:00",
            ["2026-03-29 03:00+02:00", "2026-03-30 03:00+02:00"],
        ),
        (
            crontab(minute="30", hour="2"),
            BERLIN,
            "2026-03-28 12:00+01:00",
            ["2026-03-29 03:30+02:00", "2026-03-30 02:30+02:00"],
        ),
        (
            crontab(minute="30", hour="2"),
            BERLIN,
            "2026-10-24 12:00+02:00",
            ["2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"],
        ),
        (
            crontab(minute="*/30"),
            BERLIN,
            "2026-10-25 00:15+00:00",
            ["2026-10-25 02:30+02:00", "2026-10-25 02:00+01:00", "2026-10-25 02:30+01:00"],
        ),
        (
            crontab(minute="0", hour="8", day_of_week="mon-fri"),
            "Asia/Tokyo",
            "2026-06-05 23:00+00:00",  # Saturday, at eight in Tokyo
            ["2026-06-08 08:00+09:00", "2026-06-09 08:00+09:00"],
        ),
        # After a moment, not at it.
        (crontab(minute="0"), "UTC", "2026-06-01 12:00+00:00", ["2026-06-01 13:00+00:00"]),
        (crontab(minute="0"), "UTC", "2026-06-01 11:59+00:00", ["2026-06-01 12:00+00:00"]),
        (
            TzAwareCrontab(minute="0", hour="6", tz=ZoneInfo("Asia/Tokyo")),
            "",
            "2026-06-01 12:00+00:00",
            ["2026-06-02 06:00+09:00"],
        ),
        # An interval counts from the moment, and does not notice a change of the clock.
        (
            timedelta(hours=12),
            "",
            "2026-03-28 12:07+01:00",
            ["2026-03-28 23:07+00:00", "2026-03-29 11:07+00:00"],
        ),
        (NEW_YEAR, "", "2099-12-31 23:59+00:00", ["2100-01-01 00:00+00:00"]),
        (NEW_YEAR, "", "2100-01-01 00:00+00:00", []),
    ],
)
def test_the_times_at_which_it_is_due(
    when: Any, zone: str, after: str, expected: list[str]
) -> None:
    schedule = Schedule("Some", "some.task", when, timezone=zone)

    times = schedule.times(datetime.fromisoformat(after), count=max(len(expected), 1))

    if not isinstance(when, crontab):  # in the project's own time zone, whatever that is
        times = [time.astimezone(UTC) for time in times]
    assert [time.isoformat(" ", "minutes") for time in times] == expected


def test_the_times_of_the_sun() -> None:
    schedule = Schedule("Some", "some.task", solar("sunset", 52.5, 13.4))

    times = [
        time.astimezone(UTC) for time in schedule.times(datetime(2026, 6, 1, 12, tzinfo=UTC), 2)
    ]

    assert [time.date().isoformat() for time in times] == ["2026-06-01", "2026-06-02"]
    assert all(time.hour == 19 for time in times)


@pytest.mark.parametrize("count", [0, 1, 100])
@pytest.mark.parametrize("when", [DAILY, crontab(), NEW_YEAR])
def test_as_many_times_as_are_asked_for(when: Any, count: int) -> None:
    times = Schedule("Some", "some.task", when).times(NEW_YEAR - DAILY, count)

    assert len(times) == (min(count, 1) if when == NEW_YEAR else count)
    assert all(time.tzinfo == ZoneInfo(LOCAL) for time in times)


def test_times_need_a_moment_with_a_zone() -> None:
    with pytest.raises(ValueError, match="2100-01-01 00:00:00 has no time zone; add one"):
        Schedule("Some", "some.task", DAILY).times(NEW_YEAR.replace(tzinfo=None), 1)
