"""Results, chains, groups and chords on the defaults, as Celery's documentation shows them."""

import pytest

from tests.harness.processes import Live

TASKS = """

@shared_task
def add(one: int, other: int) -> int:
    return one + other


@shared_task
def total(numbers: list[int]) -> int:
    return sum(numbers)
"""
CANVAS = """
from celery import chain, chord, group
from application.tasks import add, total
print(add.delay(1, 2).get(timeout=60))
print(chain(add.s(1, 2), add.s(4))().get(timeout=60))
print(group(add.s(n, n) for n in range(3))().get(timeout=60))
print(chord([add.s(n, n) for n in range(3)])(total.s()).get(timeout=60))
"""


@pytest.mark.parametrize("broker", ["embedded", "redis", "rabbitmq"])
def test_what_celery_shows_works(live: Live, broker: str, request: pytest.FixtureRequest) -> None:
    if broker != "embedded":
        live.env["DATABASE_URL"] = request.getfixturevalue("postgres_url")
        live.env["CELERY_BROKER_URL"] = request.getfixturevalue(f"{broker}_url")
    tasks = live.project.path / "application/tasks.py"
    tasks.write_text(tasks.read_text() + TASKS)
    live.migrate()
    live.celery("worker", "--loglevel=info").wait_for("ready.")

    assert live.python(CANVAS).splitlines()[-4:] == ["3", "7", "[0, 2, 4]", "6"]
