"""Finding the apps' schedules.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_django import Settings

from scheduling import registry


@pytest.fixture
def make_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> Callable[..., None]:
    """Installs an app of a name with files, given by their names without ".py"."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, **files: str) -> None:
        (tmp_path / name).mkdir()
        for file, text in {"__init__": "", **files}.items():
            (tmp_path / name / f"{file}.py").write_text(text)
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, name]

    return make


def names() -> list[str]:
    return [schedule.name for schedule in registry.declared()]


def test_schedules_come_from_all_apps_in_their_order(make_app: Callable[..., None]) -> None:
    before = names()
    code = """
from datetime import timedelta
from scheduling.schedule import Schedule
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
    ],
)
def test_an_error_in_a_schedules_file_is_raised_as_it_is(
    make_app: Callable[..., None], name: str, code: str, error: type[Exception], message: str
) -> None:
    make_app(name, schedules=code)

    with pytest.raises(error, match=message):
        registry.declared()
