import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db.backends.signals import connection_created
from pytest_django import Settings


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[None]:
    """Closes those of threads to an SQLite in memory, which Django's ``close()`` leaves open."""
    made: list[Any] = []

    def keep(connection: Any, **kwargs: Any) -> None:
        if connection.vendor == "sqlite" and threading.current_thread() != threading.main_thread():
            made.append(connection.connection)

    connection_created.connect(keep)
    yield
    connection_created.disconnect(keep)
    for connection in made:
        connection.close()


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
