"""docs/existing-project.md, block by block, in a plain project with an environment of its own."""

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from conftest import TEMPLATE, Project
from test_live import Live, wait_for

PAGE = (TEMPLATE / "docs/existing-project.md").read_text()
BLOCKS = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", PAGE)
# The commands of the page that would ask a network for the template, or need uv's own pip.
COMMANDS = f"""
uvx() {{ shift 2; {sys.executable} -m cookiecutter {TEMPLATE} "$@"; }}
pip() {{ uv pip "$@"; }}
"""
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
    return live.project.run("bash", "-euc", COMMANDS + script, env=live.env).stdout


def reminders(live: Live) -> int:
    """How many runs the history has as done."""
    with closing(sqlite3.connect(live.project.path / "db.sqlite3")) as database:
        (count,) = database.execute(
            "SELECT count(*) FROM scheduling_run "
            "JOIN django_celery_results_taskresult ON id = result_id "
            "WHERE status = 'SUCCESS' AND schedule = 'Remind of open orders'"
        ).fetchone()
    return int(count)


def test_the_page_brings_schedules_into_a_plain_project(shop: Live, redis_url: str) -> None:
    shop.env["CELERY_BROKER_URL"] = redis_url  # which Celery prefers to the page's
    printed = ""
    for language, block in BLOCKS:
        if language == "python":
            name = re.match(r"# ([\w/.]+)", block)
            assert name
            with (shop.project.path / name[1]).open("a") as file:
                file.write(block.replace("minutes=10", "seconds=1"))
        elif block.startswith("celery "):
            shop.start(*block.split())
        else:
            printed += run(shop, block)

    assert "System check identified no issues (0 silenced)." in printed
    assert "+ Remind of open orders: every second, orders.tasks.remind" in printed
    wait_for(lambda: reminders(shop) >= 2, "two runs in the history")
    looked = shop.python(LOOK).splitlines()[-4:]
    assert looked == ["200 True True", "200 False True", "200 True True", "True"]
