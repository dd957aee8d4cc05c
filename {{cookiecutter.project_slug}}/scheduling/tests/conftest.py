from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_django import Settings


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
