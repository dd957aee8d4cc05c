"""`cruft update` in a service that a team has worked on: from each release, and from today on."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.project import ENGINE, OUTPUT, TEMPLATE, Project
from tests.harness.repository import CRUFT, TAGS, Repository, working_tree
from tests.harness.services import unavailable

ANSWERS = {
    "project_name": 'Café "Portal" {% x %} \\ 🚀',
    "project_slug": "cafe",
    "timezone": "Asia/Tokyo",
}
NEXT = "2099.1.1"
RELEASES = re.findall(r"(?m)^## (\S+)$", (TEMPLATE / "CHANGELOG.md").read_text())
# "today" is the working tree. The latest release has no tag while it is being prepared.
STARTS = ["today", *(v for v in RELEASES if v in TAGS or v != RELEASES[0])]


@pytest.fixture
def template(tmp_path: Path) -> Repository:
    """The template's releases, and the working tree as their next commit."""
    template = working_tree(tmp_path / "template")
    template.git("tag", "today")
    return template


@pytest.fixture
def create(template: Repository, tmp_path: Path) -> Callable[..., Repository]:
    """Makes a service with cruft; its first commit is what was generated."""

    def create(start: str = "today") -> Repository:
        if start not in ["today", *TAGS]:
            unavailable(f"There is no tag {start} here: git fetch --tags")
        Repository(tmp_path).cruft(
            *("create", str(template.path), "--checkout", start, "--no-input"),
            *("--extra-context", json.dumps(ANSWERS)),
        )
        service = Repository(tmp_path / "cafe")
        service.git("init", "--quiet", "--initial-branch=main")
        service.commit("Generated")
        return service

    return create


TASK = """

@shared_task
def report_task() -> None:
    pass
"""
SCHEDULE = """
    Schedule("Report", "application.tasks.report_task", timedelta(hours=1)),
]
"""
MODEL = """from django.db import models


class Bill(models.Model):
    total = models.IntegerField()

    def __str__(self) -> str:
        return str(self.total)
"""
MIGRATION = """from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("scheduling", "{last}")]
"""
CHECKS = """
from django.core.management import call_command

call_command("check", fail_level="WARNING")
call_command("makemigrations", check_changes=True)
call_command("migrate")
call_command("seed_schedules", check=True)
"""
ENV = "DEBUG=true\nDEFAULT_FROM_EMAIL=team@example.com\n"
LOCK = "version = 1\n"


def work(service: Repository, project: Project) -> None:
    """What a team does to a service in its first weeks."""
    service.write("application/tasks.py", service.read("application/tasks.py") + TASK)
    service.replace("application/schedules.py", "\n]\n", SCHEDULE)
    service.write("billing/__init__.py", "")
    service.write("billing/models.py", MODEL)
    app = '    "application",\n'
    service.replace("cafe/settings.py", app, f'{app}    "billing",\n')
    project.run("python", "manage.py", "makemigrations", "billing")
    service.replace("pyproject.toml", "\n]\n\n[project.opt", '\n    "zipp>=3",\n]\n\n[project.opt')
    service.write("README.md", service.read("README.md") + "\n## Runbook\n")
    service.git("rm", "--quiet", "cafe/asgi.py")
    service.write("uv.lock", LOCK)
    service.write(".env", ENV)
    service.commit("Work")


def release(template: Repository) -> None:
    """The next release: it changes, adds and removes files, also those that the team has changed."""
    inside = Repository(template.path / OUTPUT.name)
    version = json.loads(template.read("cookiecutter.json"))["_version"]
    template.replace("cookiecutter.json", f'"_version": "{version}"', f'"_version": "{NEXT}"')
    inside.replace(
        "application/tasks.py", "sent; a retry may succeed", "sent; a later try may succeed"
    )
    settings = "{{cookiecutter.project_slug}}/settings.py"
    inside.replace(
        settings, "\nCELERY_TIMEZONE", "\nCELERY_WORKER_POOL = 'prefork'\nCELERY_TIMEZONE"
    )
    asgi = "{{cookiecutter.project_slug}}/asgi.py"
    inside.write(asgi, inside.read(asgi) + "# changed\n")
    pyproject = "{{cookiecutter.__pyproject}}.toml"
    inside.replace(pyproject, '"django-axes>=8.3,<9"', '"django-axes>=8.3.1,<9"')
    inside.replace("README.md", "\n## Start\n", "\n## The start\n")
    migrations = f"{ENGINE}/scheduling/migrations"
    last = max(file.stem for file in (inside.path / migrations).glob("0*.py"))
    inside.write(f"{migrations}/0999_next.py", MIGRATION.format(last=last))
    inside.write(f"{ENGINE}/scheduling/added.py", "")
    inside.git("rm", "--quiet", f"{ENGINE}/tests/test_formatting.py")
    template.commit("The next release")


def versions(service: Repository) -> tuple[str, str]:
    """Which release a service says it is of: in its pyproject.toml, and to cruft."""
    own = tomllib.loads(service.read("pyproject.toml"))["tool"]["template"]["version"]
    return own, json.loads(service.read(".cruft.json"))["context"]["cookiecutter"]["_version"]


@pytest.mark.parametrize("start", STARTS)
def test_an_update_merges_with_what_a_team_has_done(
    template: Repository,
    create: Callable[..., Repository],
    environment: Path,
    start: str,
) -> None:
    service = create(start)
    project = Project(service.path, "cafe", environment)
    work(service, project)
    migration = service.read("billing/migrations/0001_initial.py")
    release(template)

    said = service.cruft("update", "--skip-apply-ask")

    assert "conflict" not in said
    assert not list(service.path.rglob("*.rej"))
    # The team's work is there ...
    assert TASK in service.read("application/tasks.py")
    assert SCHEDULE in service.read("application/schedules.py")
    assert '"billing",' in service.read("cafe/settings.py")
    assert '"zipp>=3",' in service.read("pyproject.toml")
    assert "## Runbook" in service.read("README.md")
    assert service.read("billing/migrations/0001_initial.py") == migration
    assert service.read(".env") == ENV
    assert service.read("uv.lock") == LOCK
    assert not (service.path / "cafe/asgi.py").exists()
    # ... and so is the release ...
    assert "a later try may succeed" in service.read("application/tasks.py")
    assert "CELERY_WORKER_POOL = 'prefork'" in service.read("cafe/settings.py")
    assert '"django-axes>=8.3.1,<9"' in service.read("pyproject.toml")
    assert "## The start" in service.read("README.md")
    assert (service.path / ENGINE / "scheduling/added.py").exists()
    assert not (service.path / ENGINE / "tests/test_formatting.py").exists()
    assert versions(service) == (NEXT, NEXT)
    answers = json.loads(service.read(".cruft.json"))["context"]["cookiecutter"]
    assert {name: answers[name] for name in ANSWERS} == ANSWERS
    # ... and the two work together.
    service.cruft("check")
    project.run("python", "manage.py", "shell", "-c", CHECKS)
    service.commit("Update")


@pytest.mark.parametrize("first_commit", ["generated", "edited"])
def test_a_conflict_is_said_and_nothing_of_either_side_is_lost(
    template: Repository,
    create: Callable[..., Repository],
    first_commit: str,
) -> None:
    """Git merges with what was generated, if it was committed; else what does not fit is apart."""
    service = create()
    service.replace("application/tasks.py", "sent; a retry may succeed", "sent; we try again")
    service.git("commit", "--quiet", "--all", "--message", "Work")
    if first_commit == "edited":  # or the history was squashed, or is shallow
        shutil.rmtree(service.path / ".git")
        service.git("init", "--quiet", "--initial-branch=main")
        service.commit("Work")
    release(template)

    said = service.cruft("update", "--skip-apply-ask")

    tasks = service.read("application/tasks.py")
    assert "we try again" in tasks
    if first_commit == "generated":
        assert "Applied patch to 'application/tasks.py' with conflicts." in said
        assert "<<<<<<< ours" in tasks and "a later try may succeed" in tasks
        assert service.run("git", "commit", "--message", "Update", check=False).returncode != 0
    else:
        assert "Please resolve those conflicts manually." in said
        assert "a later try may succeed" in service.read("application/tasks.py.rej")
        assert "application/tasks.py.rej" in service.git("status", "--porcelain", "-uall")
    # All else has arrived.
    assert "CELERY_WORKER_POOL = 'prefork'" in service.read("cafe/settings.py")
    assert versions(service) == (NEXT, NEXT)


def test_an_update_waits_until_all_work_is_committed(
    template: Repository, create: Callable[..., Repository]
) -> None:
    service = create()
    service.write("application/tasks.py", service.read("application/tasks.py") + TASK)
    before = service.git("diff")
    release(template)

    done = service.run(*CRUFT, "update", "--skip-apply-ask", check=False)

    assert done.returncode != 0
    assert "Please make sure your git working tree is clean" in done.stdout
    assert service.git("diff") == before


def test_a_service_that_cookiecutter_made_can_be_linked_and_updated(
    template: Repository, bake: Callable[..., Project]
) -> None:
    service = Repository(bake(**ANSWERS).path)
    version = tomllib.loads(service.read("pyproject.toml"))["tool"]["template"]["version"]
    template.git("tag", "--force", version)
    service.git("init", "--quiet", "--initial-branch=main")
    service.commit("Generated")
    release(template)

    service.cruft(
        *("link", str(template.path), "--checkout", version, "--no-input"),
        *("--extra-context", json.dumps(ANSWERS)),
    )
    service.commit("Link")
    service.cruft("update", "--skip-apply-ask")

    assert versions(service) == (NEXT, NEXT)
    assert "a later try may succeed" in service.read("application/tasks.py")
    service.cruft("check")


def test_the_version_is_that_of_the_changelog_and_of_the_engine() -> None:
    version = json.loads((TEMPLATE / "cookiecutter.json").read_text())["_version"]
    engine = tomllib.loads((OUTPUT / ENGINE / "pyproject.toml").read_text())["project"]

    assert version == engine["version"] == RELEASES[0]
    assert re.fullmatch(r"20\d\d\.([1-9]|1[0-2])\.[1-9]\d*", version)
