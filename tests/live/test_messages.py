"""Whatever is in the queue: a worker goes on, and does what it can read."""

import shutil

import pytest

from tests.harness.processes import Live, wait_for
from tests.harness.project import TEMPLATE

SEED, COUNT = "20261126", "3000"
SCRIPT = TEMPLATE / "tests/live/inside/broken_messages.py"
TASK = '''

@shared_task
def note(name: str) -> None:
    """Appends a name to a file."""
    with open("notes", "a") as file:
        file.write(name + "\\n")
'''
STATE = """
from {slug}.celery import app
from scheduling.models import Counter
with app.connection_for_read() as connection:
    channel, queue = connection.default_channel, app.conf.task_default_queue
    if connection.transport.driver_type == "redis":
        print("left:", channel.client.llen(queue) + channel.client.hlen("unacked"))
    else:
        print("left:", channel.queue_delete(queue))
print("counted:", Counter.objects.get(name=Counter.UNREADABLE).value)
"""


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_thousands_of_broken_messages_stop_no_worker_and_no_good_one(
    live: Live, request: pytest.FixtureRequest, broker: str
) -> None:
    live.env["CELERY_BROKER_URL"] = request.getfixturevalue(f"{broker}_url")
    tasks = live.project.path / "application/tasks.py"
    tasks.write_text(tasks.read_text() + TASK)
    notes, log = live.project.path / "notes", live.project.path / "log"
    for file in (notes, log):
        file.touch()
    live.migrate()
    worker = live.celery("worker", "--loglevel=info", "--concurrency=2", f"--logfile={log}")
    wait_for(lambda: "ready." in log.read_text(), "the worker")

    shutil.copy(SCRIPT, live.project.path)
    sent = live.project.run("python", SCRIPT.name, SEED, COUNT, env=live.env).stdout.split()

    wait_for(lambda: set(sent) <= set(notes.read_text().split()), "the good messages to be done")
    assert len(sent) == int(COUNT) // 50 + 1
    worker.process.terminate()  # what is not acknowledged returns to the queue
    assert worker.exit_code() == 0
    said, state = log.read_text(), live.python(STATE.format(slug=live.project.slug))
    assert said.count("ready.") == 1
    assert "Unrecoverable error" not in said
    assert "left: 0" in state
    put_aside = said.count("Put aside a message that cannot be read")
    assert put_aside > int(COUNT) // 2
    assert f"counted: {put_aside}" in state
