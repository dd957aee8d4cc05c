"""Seeding against real databases: two at the same moment, and one killed mid-way."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.project import Project

SEEDER = """
import sys
from datetime import timedelta
from scheduling import Schedule
from scheduling.declare import discovery
from django.core.management import call_command

def declare(version):
    every = timedelta(seconds=version)
    discovery.declared = lambda: [
        *[Schedule(f"Number {n}", "some.task", every, args=[version]) for n in range(50)],
        Schedule(f"Only in version {version}", "some.task", every),
    ]

for line in sys.stdin:
    declare(int(line))
    call_command("seed_schedules")
    print("end", flush=True)
"""
KILLED = """
import os, signal
from django_celery_beat.models import PeriodicTasks
PeriodicTasks.update_changed = lambda: os.kill(os.getpid(), signal.SIGKILL)  # seeding's last write
"""


@pytest.fixture(params=["sqlite", "postgres"])
def migrated(request: pytest.FixtureRequest, service: Project) -> Project:
    if request.param == "postgres":
        service.env["DATABASE_URL"] = request.getfixturevalue("postgres_url")
    service.run("python", "manage.py", "migrate")
    return service


@contextmanager
def seeder(service: Project, code: str = SEEDER) -> "Iterator[subprocess.Popen[str]]":
    """Seeds the version that a line of its input names, and prints the plan up to "end"."""
    with subprocess.Popen(
        ["python", "manage.py", "shell", "-v", "0", "-c", code],
        cwd=service.path,
        env=service.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def tell(process: "subprocess.Popen[str]", version: int) -> None:
    assert process.stdin
    process.stdin.write(f"{version}\n")
    process.stdin.flush()


def answer(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout
    lines: list[str] = []
    while (line := process.stdout.readline()) != "end\n":
        assert line, f"ended after {lines}"
        lines.append(line.strip())
    return lines


def tables(service: Project) -> str:
    return service.run("python", "manage.py", "dumpdata", "django_celery_beat", "scheduling").stdout


def test_two_seedings_at_the_same_moment_apply_one_plan(migrated: Project) -> None:
    with seeder(migrated) as first, seeder(migrated) as second:
        for version in range(1, 11):
            for process in (first, second):
                tell(process, version)
            summaries = sorted(answer(process)[-1] for process in (first, second))

            applied = "51 added, 2 deleted" if version == 1 else "1 added, 50 changed, 1 deleted"
            assert summaries == sorted(["nothing to do", applied])

    assert tables(migrated).count('"name": "Number ') == 2 * 50  # the row, and what is remembered


def test_a_seeding_that_is_killed_leaves_the_tables_as_they_were(migrated: Project) -> None:
    with seeder(migrated) as process:
        tell(process, 1)
        answer(process)
    before = tables(migrated)

    with seeder(migrated, KILLED + SEEDER) as process:
        tell(process, 2)
        assert process.wait(timeout=60) == -signal.SIGKILL

    assert tables(migrated) == before
