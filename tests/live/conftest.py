"""A service in which terminals are opened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.processes import Live
from tests.harness.project import Project


@pytest.fixture
def live(service: Project, tmp_path: Path) -> Iterator[Live]:
    live = Live(service, tmp_path)
    yield live
    live.end()
