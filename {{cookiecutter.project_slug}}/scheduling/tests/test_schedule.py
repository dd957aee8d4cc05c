"""What a Schedule stores, and what it refuses."""

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import MagicMock

import pytest
from celery import current_app
from celery.schedules import crontab, solar
from django.conf import settings
from django.db.models import Model
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    SolarSchedule,
)

from scheduling.schedule import Schedule

NEW_YEAR = datetime(2100, 1, 1, tzinfo=UTC)
EVERY = {"minute": "*", "hour": "*", "day_of_week": "*", "day_of_month": "*", "month_of_year": "*"}
LOCAL = {"timezone": settings.CELERY_TIMEZONE}


@pytest.mark.parametrize(
    ("when", "foreign_key", "model", "columns"),
    [
        (timedelta(seconds=1), "interval", IntervalSchedule, {"every": 1, "period": "seconds"}),
        (timedelta(seconds=90), "interval", IntervalSchedule, {"every": 90, "period": "seconds"}),
        (timedelta(minutes=10), "interval", IntervalSchedule, {"every": 10, "period": "minutes"}),
        (timedelta(minutes=120), "interval", IntervalSchedule, {"every": 2, "period": "hours"}),
        (timedelta(weeks=1), "interval", IntervalSchedule, {"every": 7, "period": "days"}),
        (crontab(), "crontab", CrontabSchedule, EVERY | LOCAL),
        (
            crontab(minute="*/15", hour="8-17", day_of_week="mon-fri"),
            "crontab",
            CrontabSchedule,
            EVERY | {"minute": "*/15", "hour": "8-17", "day_of_week": "mon-fri"} | LOCAL,
        ),
        (
            crontab(minute=0, hour=6, day_of_month=1, month_of_year=12),
            "crontab",
            CrontabSchedule,
            EVERY
            | {"minute": "0", "hour": "6", "day_of_month": "1", "month_of_year": "12"}
            | LOCAL,
        ),
        (NEW_YEAR, "clocked", ClockedSchedule, {"clocked_time": NEW_YEAR}),
    ],
)
def test_when_is_stored_in_the_columns_of_its_kind(
    when: Any, foreign_key: str, model: type[Model], columns: dict[str, Any]
) -> None:
    assert Schedule("Some", "some.task", when).timing() == (foreign_key, model, columns)


def test_a_solar_event_is_stored_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", MagicMock())  # solar needs it, storing does not
    schedule = Schedule("Some", "some.task", solar("sunrise", 48.8566, 2.3522))

    columns = {"event": "sunrise", "latitude": 48.8566, "longitude": 2.3522}
    assert schedule.timing() == ("solar", SolarSchedule, columns)


def test_a_crontab_may_have_a_time_zone_of_its_own() -> None:
    schedule = Schedule("Some", "some.task", crontab(hour="8"), timezone="Asia/Tokyo")

    assert schedule.timing()[2]["timezone"] == "Asia/Tokyo"


def test_a_task_is_stored_by_its_name_and_its_arguments_as_json() -> None:
    task = current_app.tasks["celery.backend_cleanup"]
    schedule = Schedule(
        "Some", task, timedelta(days=1), args=["é", 1], kwargs={"x": [None]}, description="Why"
    )

    fields = schedule.fields()

    assert (fields["name"], fields["task"]) == ("Some", "celery.backend_cleanup")
    assert (json.loads(fields["args"]), json.loads(fields["kwargs"])) == (["é", 1], {"x": [None]})
    assert (fields["one_off"], fields["description"]) == (False, "Why")


def test_a_point_in_time_comes_once() -> None:
    assert Schedule("Some", "some.task", NEW_YEAR).fields()["one_off"] is True


@pytest.mark.parametrize(
    ("when", "error", "reason"),
    [
        (timedelta(0), ValueError, "whole number of seconds"),
        (timedelta(seconds=1.5), ValueError, "whole number of seconds"),
        (timedelta(milliseconds=1), ValueError, "whole number of seconds"),
        (timedelta(minutes=-10), ValueError, "whole number of seconds"),
        (NEW_YEAR.replace(tzinfo=None), ValueError, "has no time zone"),
        ("every day", TypeError, "'every day' is no timedelta"),
        (60, TypeError, "60 is no timedelta"),
        (None, TypeError, "None is no timedelta"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(
    when: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=f"Schedule 'Nightly report': .*{reason}"):
        Schedule("Nightly report", "some.task", when)
