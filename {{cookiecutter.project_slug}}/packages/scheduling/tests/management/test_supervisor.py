"""What the supervisor of `dev` takes for code, and what it says of an error in it."""

from pathlib import Path

import pytest
from watchfiles import Change

from scheduling.management.supervisor import Supervisor


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    """One that runs nothing, for a project in a folder whose name looks like that of tests."""
    project = tmp_path / "tests" / "project"
    project.mkdir(parents=True)
    return Supervisor({}, directory=project, say=print, terminal=1)


@pytest.mark.parametrize(
    ("path", "is_code"),
    [
        ("application/tasks.py", True),
        ("application/migrations/0002_more.py", True),
        ("packages/scheduling/scheduling/beat/scheduler.py", True),
        ("application/testing.py", True),
        (".env", True),
        (".env.example", False),
        ("prod.env", False),
        ("application/templates/page.html", False),
        ("README.md", False),
        ("application/tests.py", False),
        ("application/test_tasks.py", False),
        ("application/tests/test_tasks.py", False),
        ("application/tests/factories.py", False),
        ("conftest.py", False),
        (".venv/lib/python3.12/site-packages/django/apps.py", False),
        ("application/__pycache__/tasks.py", False),
    ],
)
def test_only_code_that_processes_import_restarts_them(
    supervisor: Supervisor, path: str, is_code: bool
) -> None:
    assert supervisor.is_code(Change.modified, str(supervisor.directory / path)) is is_code


def test_of_a_traceback_the_project_s_own_lines_are_said(supervisor: Supervisor) -> None:
    own = f'  File "{supervisor.directory}/application/tasks.py", line 3'
    library = f'  File "{supervisor.directory}/.venv/lib/site-packages/django/apps.py", line 1'
    traceback = ["Traceback (most recent call last):", library, "    import_module(name)"]
    traceback += ['  File "<frozen importlib>", line 9, in load', own, "    def (", "        ^"]
    traceback += ["SyntaxError: invalid syntax"]

    said = list(supervisor._without_libraries(traceback))

    assert said == [traceback[0], own, "    def (", "        ^", "SyntaxError: invalid syntax"]


def test_of_an_env_file_that_does_not_work_it_is_said_that_all_run_on(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    (supervisor.directory / "manage.py").write_text("raise SystemExit('LATE_AFTER is wrong')")

    supervisor._reload({".env"})

    said = capsys.readouterr().out
    assert "LATE_AFTER is wrong" in said
    assert ".env changed, and the service does not start with it: the error is above." in said
    assert "All run on with the old one." in said
