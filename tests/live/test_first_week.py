"""docs/first-week.md, block by block, in a fresh service with an environment of its own."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.project import OUTPUT, Project

STRANGER = """
from django.test import Client
from django.urls import reverse
client = Client(headers={"host": "localhost"})
print(client.post(reverse("bills"), {"amount": 1}).headers["Location"])
"""
PAGE = (OUTPUT / "packages/scheduling/docs/first-week.md").read_text()
BLOCKS = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", PAGE)


@pytest.fixture
def shop(bake: Callable[..., Project], environment: Path) -> Project:
    project = bake(project_slug="shop")
    project.venv = project.path / ".venv"  # uv add installs into it
    project.run("make", "install")
    return project


def test_a_team_can_follow_its_first_week(shop: Project) -> None:
    shutil.rmtree(shop.path / "application")  # the sample may go first
    shop.edit("shop/settings.py", '    "application",\n', "")
    shop.edit("pyproject.toml", '"application", ', "")
    printed = ""
    for language, block in BLOCKS:
        name = re.match(r"# ([\w/.]+\.py)(: at its end)?\n", block)
        if language == "bash":
            printed += shop.run("bash", "-euc", block).stdout
        elif name:
            file, text = shop.path / name[1], block.partition("\n")[2]
            file.write_text(file.read_text() + text if name[2] else text)

    assert "+ Remind of bills: 0 3 * * * Europe/Berlin, billing.tasks.remind_all" in printed
    assert "Sent 'Remind of bills': billing.tasks.remind_all" in printed
    assert "".join(re.findall(r"(?m)^billing/tests.py (\.+)", printed)) == "...."
    shop.run("make", "lint")  # also what the page adds after its own
    asked = shop.run("python", "manage.py", "shell", "-c", STRANGER).stdout
    assert asked.splitlines()[-1] == "/admin/login/?next=/bills/"
