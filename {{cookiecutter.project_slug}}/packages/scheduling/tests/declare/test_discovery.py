"""Find the apps' schedules.py."""

import sys
from collections.abc import Callable

import pytest
from celery.exceptions import ImproperlyConfigured

from scheduling.declare import discovery


def names() -> list[str]:
    return [schedule.name for schedule in discovery.declared()]


def test_schedules_come_from_all_apps_in_their_order(make_app: Callable[..., None]) -> None:
    before = names()
    code = """
from datetime import timedelta
from scheduling import Schedule
schedules = [Schedule(name, "some.task", timedelta(days=1)) for name in "{}"]
"""
    make_app("first_app", schedules=code.format("ab"))
    make_app("second_app", schedules=code.format("c"))

    assert names() == [*before, "a", "b", "c"]


def test_an_app_needs_no_schedules(make_app: Callable[..., None]) -> None:
    before = names()
    make_app("app_without_schedules")

    assert names() == before


@pytest.mark.parametrize(
    ("name", "code", "error", "message"),
    [
        ("import_error", "import no_such_module", ImportError, "no_such_module"),
        ("name_error", "schedules = [nothing]", NameError, "nothing"),
        ("syntax_error", "schedules = [", SyntaxError, "never closed"),
        ("no_list", "schedule = []", AttributeError, "schedules"),
        ("no_schedule", "schedules = [1]", TypeError, "schedules.py: 1 is not a Schedule"),
    ],
)
def test_an_error_in_a_schedules_file_is_raised_as_it_is(
    make_app: Callable[..., None], name: str, code: str, error: type[Exception], message: str
) -> None:
    make_app(name, schedules=code)

    with pytest.raises(error, match=message):
        discovery.declared()


def test_a_solar_event_without_ephem_says_what_to_install(
    make_app: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ephem", None)
    code = "from celery.schedules import solar\nwhen = solar('sunset', 52.5, 13.4)"
    make_app("app_by_the_sun", schedules=code)

    with pytest.raises(ImproperlyConfigured) as raised:
        discovery.declared()

    assert raised.value.__notes__ == ["Install ephem: uv sync --no-dev --all-extras"]
