"""An arena for the tests of a module."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import faults
from tests.harness.project import Project
from tests.harness.services import postgres_programs, redis_program, unavailable

TASKS = '''

@shared_task
def count_users() -> None:
    """Needs the database."""
    from accounts.models import User

    User.objects.count()


@shared_task(bind=True)
def note_task(self, name: str, file: str) -> None:
    """Appends which run it is, and when beat sent it: another time if it sent it twice."""
    run = name, str(self.request.scheduled_for.timestamp()), self.request.headers["queued_at"]
    with open(file, "a") as opened:
        opened.write(" ".join(run) + "\\n")
'''


@pytest.fixture(scope="module")
def arena(
    bake: Callable[..., Project], environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[faults.Arena]:
    """A service with two tasks more, and servers of its own."""
    if not redis_program():
        unavailable("No redis-server on the PATH")
    if not postgres_programs():
        unavailable("No initdb of Postgres")
    project = bake()
    tasks = project.path / "application/tasks.py"
    tasks.write_text(tasks.read_text() + TASKS)
    with faults.arena(project, tmp_path_factory.mktemp("arena"), faults.OURS) as arena:
        yield arena
