"""When runs are due: over changes of the clock, after outages, and from a start time on."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from scheduling.timing import EPOCH, Timing, catch_up, celery_schedule, first_due, next_due

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def crontab(text: str, zone: str = "UTC") -> Timing:
    minute, hour, day_of_month, month_of_year, day_of_week = text.split()
    return Timing("crontab", (minute, hour, day_of_month, month_of_year, day_of_week, zone))


def every(count: int, period: str) -> Timing:
    return Timing("interval", (count, period))


def clocked(moment: datetime) -> Timing:
    return Timing("clocked", (moment,))


BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
# Clocks go forward and back by an hour, on Lord Howe by half an hour. A time that is left out runs
# an hour later, when the clock shows the next; one that comes twice runs the first time. What runs
# every hour goes on at its pace.
CLOCK_CHANGES = [
    (
        BERLIN,
        "30 2 * * *",
        "2026-03-28 12:00",
        ["2026-03-29 03:30+02:00", "2026-03-30 02:30+02:00"],
    ),
    (
        BERLIN,
        "30 2 * * *",
        "2026-10-24 12:00",
        ["2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"],
    ),
    (BERLIN, "0 3 * * *", "2026-10-24 12:00", ["2026-10-25 03:00+01:00", "2026-10-26 03:00+01:00"]),
    (
        BERLIN,
        "*/30 * * * *",
        "2026-03-29 01:20",
        ["2026-03-29 01:30+01:00", "2026-03-29 03:00+02:00", "2026-03-29 03:30+02:00"],
    ),
    (
        BERLIN,
        "*/30 * * * *",
        "2026-10-25 02:20",
        [
            "2026-10-25 02:30+02:00",
            "2026-10-25 02:00+01:00",
            "2026-10-25 02:30+01:00",
            "2026-10-25 03:00+01:00",
        ],
    ),
    (BERLIN, "0 * * * 1", "2026-10-24 12:00", ["2026-10-26 00:00+01:00", "2026-10-26 01:00+01:00"]),
    (
        NEW_YORK,
        "15 2 * * *",
        "2026-03-07 12:00",
        ["2026-03-08 03:15-04:00", "2026-03-09 02:15-04:00"],
    ),
    (
        NEW_YORK,
        "15 1 * * *",
        "2026-10-31 12:00",
        ["2026-11-01 01:15-04:00", "2026-11-02 01:15-05:00"],
    ),
    (
        NEW_YORK,
        "0 * * * *",
        "2026-11-01 00:30",
        ["2026-11-01 01:00-04:00", "2026-11-01 01:00-05:00", "2026-11-01 02:00-05:00"],
    ),
    (
        LORD_HOWE,
        "15 2 * * *",
        "2026-10-03 12:00",
        ["2026-10-04 02:45+11:00", "2026-10-05 02:15+11:00"],
    ),
    (
        LORD_HOWE,
        "45 1 * * *",
        "2026-04-04 12:00",
        ["2026-04-05 01:45+11:00", "2026-04-06 01:45+10:30"],
    ),
    (
        LORD_HOWE,
        "0 * * * *",
        "2026-04-05 00:30",
        ["2026-04-05 01:00+11:00", "2026-04-05 02:00+10:30", "2026-04-05 03:00+10:30"],
    ),
]


@pytest.mark.parametrize(("zone", "text", "start", "expected"), CLOCK_CHANGES)
def test_when_the_clock_changes(zone: str, text: str, start: str, expected: list[str]) -> None:
    timing = crontab(text, zone)
    due = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone))
    found = []
    for _ in expected:
        due = next_due(timing, due)
        found.append(due.astimezone(ZoneInfo(zone)).isoformat(" ", "minutes"))

    assert found == expected


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE])
@pytest.mark.parametrize("text", ["*/10 * * * *", "7 * * * *", "30 2 * * *", "0 0 1 * *"])
def test_time_goes_on_all_year_long(zone: str, text: str) -> None:
    timing, due = crontab(text, zone), datetime(2026, 1, 1, tzinfo=UTC)
    times = []
    while due.year == 2026:
        due = next_due(timing, due)
        times.append(due)

    gaps = {later - earlier for earlier, later in pairwise(times)}
    assert min(gaps) > timedelta(0)
    if text.startswith("*/10"):
        assert gaps == {timedelta(minutes=10)}


def test_a_crontab_that_is_saved_in_the_hour_that_comes_twice_comes_in_it() -> None:
    again = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 for the second time

    assert next_due(crontab("30 2 * * *", BERLIN), again) == again + 20 * MINUTE


@pytest.mark.parametrize(
    ("timing", "message"),
    [
        (crontab("0 0 30 2 *"), "never occurs"),
        (crontab("60 * * * *"), "60"),
        (crontab("0 0 * * *", "Mars/Olympus"), "Mars/Olympus"),
        (Timing("interval", (0, "seconds")), "never comes"),
        (Timing("interval", (2**31 - 1, "days")), "days=2147483647"),
        (Timing("interval", (1, "fortnights")), "fortnights"),
        (Timing("solar", ("moonrise", 0, 0)), "moonrise"),
    ],
)
def test_what_cannot_come_is_an_error(timing: Timing, message: str) -> None:
    with pytest.raises(Exception, match=message):
        next_due(timing, NOON)


PLACES = [
    ("sunrise", 78.2, 15.6),
    ("sunset", 69.7, 19.0),
    ("dawn_astronomical", 51.5, -0.1),
    ("dusk_civil", -77.8, 166.7),
    ("dusk_astronomical", 89.0, 0.0),
    ("solar_noon", 85.0, -30.0),
]


@pytest.mark.parametrize(("event", "latitude", "longitude"), PLACES)
def test_strides_find_the_sun_where_celery_finds_it_day_by_day(
    event: str, latitude: float, longitude: float
) -> None:
    timing = Timing("solar", (event, latitude, longitude))
    for weeks in (0, 9, 22, 34, 47):
        after = NOON + timedelta(weeks=weeks)
        expected = EPOCH + celery_schedule(timing).remaining_estimate(after)

        assert abs(next_due(timing, after) - expected) < timedelta(seconds=1), after


def test_where_the_sun_never_rises_a_year_is_searched_as_celery_does() -> None:
    due = next_due(Timing("solar", ("sunrise", 90, 0)), NOON)

    assert timedelta(days=365) < due - NOON < timedelta(days=368)


def test_rows_of_one_crontab_get_the_same_answer_and_others_their_own() -> None:
    timing = crontab("*/5 * * * *")
    seconds = (0, 59, 299, 300, 59)

    dues = [next_due(timing, NOON + timedelta(seconds=after)) for after in seconds]

    assert dues == [NOON + minutes * MINUTE for minutes in (5, 5, 5, 10, 5)]


def test_equal_timings_share_a_schedule() -> None:
    assert celery_schedule(crontab("1 2 * * *")) is celery_schedule(crontab("1 2 * * *"))


@pytest.mark.parametrize(
    ("timing", "due", "expected"),
    [
        # An interval stays in step with what it would have done.
        (every(10, "minutes"), NOON - 5 * HOUR, NOON - HOUR),
        (every(7, "hours"), NOON - 8 * HOUR, NOON - HOUR),
        (every(1, "days"), NOON - 5 * HOUR, NOON + 19 * HOUR),
        # A crontab is made up for the oldest time that is young enough, or it is the next.
        (crontab("*/25 * * * *"), NOON - 5 * HOUR, NOON - HOUR),
        (crontab("30 * * * *"), NOON - 5 * HOUR, NOON - 30 * MINUTE),
        (crontab("0 3 * * *"), NOON - 9 * HOUR, NOON + 15 * HOUR),
        # What is once is lost.
        (clocked(NOON - 2 * HOUR), NOON - 2 * HOUR, None),
        # Within the hour nothing changes.
        (clocked(NOON - HOUR), NOON - HOUR, NOON - HOUR),
        (every(1, "days"), NOON - 59 * MINUTE, NOON - 59 * MINUTE),
    ],
)
def test_what_is_made_up(timing: Timing, due: datetime, expected: datetime | None) -> None:
    assert catch_up(timing, due, oldest=NOON - HOUR) == expected


@pytest.mark.parametrize(
    ("timing", "last_run_at", "start_time", "expected"),
    [
        (every(1, "hours"), None, None, NOON + HOUR),
        (every(1, "hours"), NOON, NOON - DAY, NOON + HOUR),
        # From a start time on: an interval at it, a crontab at its first time from then on.
        (every(1, "hours"), None, NOON + DAY, NOON + DAY),
        (every(1, "hours"), NOON, NOON + DAY, NOON + DAY),
        (every(1, "hours"), None, NOON - DAY, NOON + HOUR),
        (crontab("0 3 * * *"), None, NOON + DAY, NOON + 39 * HOUR),
        (crontab("0 3 * * *"), None, NOON + 15 * HOUR, NOON + 15 * HOUR),
        (crontab("0 3 * * *"), None, NOON - DAY, NOON + 15 * HOUR),
        # "Now", which has passed when the form is saved, is meant; what passed long ago is not.
        (every(1, "hours"), None, NOON - timedelta(seconds=30), NOON - timedelta(seconds=30)),
        (clocked(NOON - timedelta(seconds=30)), None, None, NOON - timedelta(seconds=30)),
        (clocked(NOON - 2 * MINUTE), None, None, None),
        (clocked(NOON), NOON, None, None),
        (clocked(NOON + HOUR), NOON, None, NOON + HOUR),
    ],
)
def test_the_first_due_time(
    timing: Timing,
    last_run_at: datetime | None,
    start_time: datetime | None,
    expected: datetime | None,
) -> None:
    assert first_due(timing, last_run_at, NOON, start_time) == expected
