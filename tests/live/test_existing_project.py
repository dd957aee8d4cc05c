"""The engine without its copy in a service: docs/existing-project.md, block by block, and git."""

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.harness.processes import Live, wait_for
from tests.harness.project import ENGINE, OUTPUT, TEMPLATE, Project, clean_environment
from tests.harness.repository import Repository, working_tree

PAGE = (TEMPLATE / "docs/existing-project.md").read_text()
BLOCKS = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", PAGE)
URL = re.compile(r"git\+https://github\.com/org/template@[\w.]+")  # the page's
SETTINGS = "# shop/settings.py"
SUBDIRECTORY = f"{OUTPUT.name}/{ENGINE}"
TASKS = """from celery import shared_task


@shared_task
def remind(which):
    print(f"Reminded of {which} orders")
"""
LOOK = """
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import Client
from django_celery_beat.models import PeriodicTask
client = Client(headers={"host": "localhost"})
client.force_login(User.objects.create_superuser("ada"))
row = PeriodicTask.objects.get(name="Remind of open orders")
for page in ("", "timeline/", f"{row.pk}/change/"):
    got = client.get(f"/admin/django_celery_beat/periodictask/{page}")
    print(got.status_code, "declared in orders/schedules.py" in got.text, "succeeded" in got.text)
print(bool(finders.find("scheduling/schedules.css")))
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A clone of this repository, with the working tree as its last commit."""
    return working_tree(tmp_path_factory.mktemp("clone") / "template")


def url(template: Repository) -> str:
    """Where git finds the template's last commit. Older pips refuse a URL without a host."""
    return f"git+file://localhost{template.path}@{template.git('rev-parse', 'HEAD').strip()}"


def requirement(template: Repository) -> str:
    """The page's requirement, of the clone."""
    [line] = [line for _, block in BLOCKS for line in block.splitlines() if "pip install" in line]
    found = re.search('"(.*)"', line)
    assert found and found[1].endswith(f"#subdirectory={SUBDIRECTORY}")
    return URL.sub(url(template), found[1])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Live]:
    """What `django-admin startproject` and `startapp` make, with a task."""
    if not shutil.which("uv"):
        pytest.fail("There is no uv on the PATH: run the tests with make test.")
    path, venv = tmp_path / "shop", tmp_path / "venv"
    path.mkdir()
    for command in (
        ["uv", "venv", "--quiet", "--python", sys.executable, str(venv)],
        ["uv", "pip", "install", "--quiet", "--python", str(venv), "django~=5.2.0"],
    ):
        subprocess.run(command, check=True)
    live = Live(Project(path, "shop", venv), tmp_path)
    live.env["VIRTUAL_ENV"] = str(venv)
    run(live, "django-admin startproject shop . && django-admin startapp orders")
    (path / "orders/tasks.py").write_text(TASKS)
    live.project.edit("shop/settings.py", "INSTALLED_APPS = [", 'INSTALLED_APPS = [\n    "orders",')
    yield live
    live.end()


def run(live: Live, script: str) -> str:
    """What a script of the page prints, with uv's pip in place of pip, which the venv has not."""
    script = 'pip() { uv pip "$@"; }\n' + script
    return live.project.run("bash", "-euc", script, env=live.env).stdout


def write(live: Live, block: str) -> None:
    """Put a block into the file that its first line names, at its top if that says so."""
    heading, _, code = block.partition("\n")
    name = re.match(r"# ([\w/.]+)", heading)
    assert name
    file = live.project.path / name[1]
    text = file.read_text() if file.exists() else ""
    code = code.replace("minutes=10", "seconds=1")
    file.write_text(code + text if "at its top" in heading else text + code)


def reminders(live: Live) -> int:
    """How many runs the ledger has as done."""
    with closing(sqlite3.connect(live.project.path / "db.sqlite3")) as database:
        (count,) = database.execute(
            "SELECT count(*) FROM scheduling_run "
            "WHERE state = 'succeeded' AND schedule = 'Remind of open orders'"
        ).fetchone()
    return int(count)


def test_the_page_brings_schedules_into_a_plain_project(
    shop: Live, template: Repository, redis_url: str
) -> None:
    shop.env["CELERY_BROKER_URL"] = redis_url  # which Celery prefers to the page's
    printed = ""
    for language, block in BLOCKS:
        if language == "python":
            write(shop, block)
        elif block.startswith("celery "):
            shop.start(*block.split())
        else:
            printed += run(shop, URL.sub(url(template), block))

    assert "System check identified no issues (0 silenced)." in printed
    assert "+ Remind of open orders: every second, orders.tasks.remind" in printed
    wait_for(lambda: reminders(shop) >= 2, "two runs in the history")
    looked = shop.python(LOOK).splitlines()[-4:]
    assert looked == ["200 True True", "200 False True", "200 True True", "True"]


def test_the_page_needs_few_settings() -> None:
    lines = [
        line
        for _, block in BLOCKS
        if block.startswith(SETTINGS)
        for line in block.splitlines()
        if line and not line.startswith("#")
    ]

    assert lines[0].startswith("from scheduling.defaults import *")
    assert lines[1].startswith("INSTALLED_APPS +=")
    assert len(lines[2:]) <= 5


def test_plain_pip_installs_it(template: Repository, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    project = Project(tmp_path, "nothing", tmp_path / "venv")

    project.run("pip", "install", "--quiet", requirement(template))

    project.run("pip", "check")
    project.run("python", "-c", "from scheduling import defaults; defaults.CELERY_BEAT_SCHEDULER")


def test_a_service_takes_it_from_git_instead_of_its_copy(
    bake: Callable[..., Project], template: Repository
) -> None:
    """By one line of pyproject.toml. It has an environment of its own, where no copy can be found."""
    project = bake()
    source, _, commit = url(template).removeprefix("git+").partition("@")
    project.edit(
        "pyproject.toml",
        "django-celery-scheduling = { workspace = true }",
        f'django-celery-scheduling = {{ git = "{source}", rev = "{commit}", '
        f'subdirectory = "{SUBDIRECTORY}" }}',
    )
    shutil.rmtree(project.path / "packages")

    def make(target: str) -> str:
        return subprocess.run(
            ["make", target],
            cwd=project.path,
            env=clean_environment(),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    assert " passed" in make("test")
    make("lint")
