"""Deploys lose nothing: workers are killed and stopped in the middle of mails, servers restarted.

A mail counts as done when a worker says so; what arrives at the mail server is counted too.
"""

import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.faults import Arena
from tests.harness.mails import MailServer, task_of
from tests.harness.processes import wait_for

pytestmark = pytest.mark.xdist_group("deploys")
SEND = """
import time, uuid
from application.tasks import send_email_task
from kombu.exceptions import OperationalError
for n in range({first}, {first} + {count}):
    id = str(uuid.uuid4())
    while True:
        try:
            send_email_task.apply_async([f"{{n}}@example.com"], task_id=id)
            break
        except OperationalError:
            time.sleep(0.1)
    time.sleep({pause})
"""


class Deploy:
    """An arena's service with a mail server, and the workers that were started in it."""

    def __init__(self, place: Arena, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.workers: list[subprocess.Popen[bytes]] = []
        self.mails = MailServer(place.project.venv / "bin/python", folder)
        place.env["EMAIL_URL"] = self.mails.url

    def set_times(self, soft_shutdown: int, visibility: int) -> None:
        """Seconds, in place of the settings' longer ones."""
        with (self.place.project.path / "architecture_portal/settings.py").open("a") as settings:
            settings.write(
                f"CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = {soft_shutdown}\n"
                f'CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"] = {visibility}\n'
            )

    def start_worker(self, **env: str) -> "subprocess.Popen[bytes]":
        name = f"worker{len(self.workers)}"
        worker = self.place.start_celery(
            *("worker", "--loglevel=info", "--concurrency=2", f"--hostname={name}@%h"),
            log=self.folder / f"{name}.log",
            **env,
        )
        self.workers.append(worker)
        return worker

    def send(self, count: int, first: int = 0, pause: float = 0) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [str(self.place.project.venv / "bin/python"), "manage.py", "shell", "-v", "0"]
            + ["-c", SEND.format(count=count, first=first, pause=pause)],
            cwd=self.place.project.path,
            env=self.place.env,
        )

    def log(self) -> str:
        """What all workers said."""
        return "".join(file.read_text() for file in sorted(self.folder.glob("worker*.log")))

    def done(self) -> set[str]:
        """The tasks that send mails and were done, by their ids."""
        return set(re.findall(r"send_email_task\[([\w-]+)\] succeeded", self.log()))

    def arrived(self) -> dict[str, list[str]]:
        """The Message-IDs that arrived for each recipient."""
        found = defaultdict(list)
        for recipient, message_id in self.mails.arrived():
            found[recipient].append(message_id)
        return found

    def wait(self, condition: Callable[[], object], what: str) -> None:
        try:
            wait_for(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-5000:]}") from None

    def wait_until_done(self, count: int) -> None:
        """Each mail was sent, under one Message-ID however often."""
        self.wait(lambda: len(self.done()) == count, f"{count} mails to be done")
        arrived = self.arrived()
        assert len(arrived) == count
        assert all(len(set(ids)) == 1 for ids in arrived.values()), arrived
        assert {task_of(ids[0]) for ids in arrived.values()} == self.done()

    def end(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        self.mails.end()


@pytest.fixture
def deploy(arena: Arena, tmp_path: Path) -> Iterator[Deploy]:
    arena.env["CELERY_TASK_DEFAULT_QUEUE"] = "tasks"  # not the one that the arena takes from
    deploy = Deploy(arena, tmp_path)
    yield deploy
    deploy.end()
    arena.clear()


def in_the_middle_of_two(deploy: Deploy, **env: str) -> "subprocess.Popen[bytes]":
    """A worker that is in the middle of two mails, of five that were sent."""
    deploy.mails.hold.touch()
    worker = deploy.start_worker(**env)
    deploy.send(5).wait()
    deploy.wait(lambda: len(deploy.arrived()) == 2, "two mails to be under way")
    return worker


def test_what_a_killed_worker_had_begun_is_done_by_another(deploy: Deploy) -> None:
    deploy.set_times(soft_shutdown=30, visibility=5)
    worker = in_the_middle_of_two(deploy)

    os.killpg(worker.pid, signal.SIGKILL)  # as if its machine had gone
    deploy.mails.hold.unlink()
    assert not deploy.done()
    deploy.start_worker()

    deploy.wait_until_done(5)
    assert sorted(map(len, deploy.arrived().values())) == [1, 1, 1, 2, 2]


def test_what_a_killed_process_of_the_pool_had_begun_is_done_at_once(deploy: Deploy) -> None:
    deploy.set_times(soft_shutdown=30, visibility=3600)
    worker = in_the_middle_of_two(deploy)

    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    deploy.mails.hold.unlink()

    deploy.wait_until_done(5)


def test_a_worker_that_is_stopped_finishes_what_it_has_begun(deploy: Deploy) -> None:
    deploy.set_times(soft_shutdown=8, visibility=3600)
    worker = in_the_middle_of_two(deploy, REMAP_SIGTERM="SIGQUIT")

    worker.terminate()
    deploy.wait(lambda: "Initiating Soft Shutdown" in deploy.log(), "the soft shutdown")
    deploy.mails.hold.unlink()
    worker.wait(timeout=60)
    assert len(deploy.done()) == 2
    deploy.start_worker()

    deploy.wait_until_done(5)
    assert sorted(map(len, deploy.arrived().values())) == [1] * 5


def test_what_takes_longer_than_a_soft_shutdown_goes_back_into_the_queue(deploy: Deploy) -> None:
    deploy.set_times(soft_shutdown=2, visibility=3600)
    worker = in_the_middle_of_two(deploy, REMAP_SIGTERM="SIGQUIT")

    worker.terminate()
    worker.wait(timeout=60)
    deploy.mails.hold.unlink()
    assert not deploy.done()
    deploy.start_worker()

    deploy.wait_until_done(5)


def test_what_a_lost_connection_ends_is_done_at_once(deploy: Deploy) -> None:
    """Not after the visibility timeout: Redis is there, and takes the messages back."""
    deploy.set_times(soft_shutdown=30, visibility=3600)
    in_the_middle_of_two(deploy)
    deploy.mails.hold.unlink()

    with deploy.place.redis.client() as client:
        client.client_kill_filter(_type="pubsub")

    deploy.wait_until_done(5)


def test_a_worker_outlives_a_restart_of_redis_in_the_middle_of_a_task(deploy: Deploy) -> None:
    """The worker has room for another task: it is one that waits for messages that Celery's ends."""
    deploy.set_times(soft_shutdown=30, visibility=5)
    deploy.mails.hold.touch()
    worker = deploy.start_worker()
    deploy.send(1).wait()
    deploy.wait(deploy.arrived, "a mail to be under way")

    deploy.place.redis.stop()
    deploy.mails.hold.unlink()
    deploy.place.redis.start()
    deploy.send(1, first=1).wait()

    deploy.wait_until_done(2)
    assert worker.poll() is None


def test_under_load_all_may_be_restarted(deploy: Deploy) -> None:
    deploy.set_times(soft_shutdown=2, visibility=10)
    place, notes = deploy.place, deploy.folder / "notes"
    place.make(
        "import json\n"
        "for n in range(5):\n"
        "    PeriodicTask.objects.create(name=f'Every second {n}', interval=every(1),\n"
        f"        task='application.tasks.note_task', args=json.dumps([str(n), {str(notes)!r}]))"
    )
    beat, _ = place.start_beat(), place.start_beat()
    workers = [deploy.start_worker(REMAP_SIGTERM="SIGQUIT") for _ in range(2)]
    deploy.wait(notes.exists, "a run of a schedule")
    sender = deploy.send(300, pause=0.05)

    def some_more() -> None:
        goal = len(deploy.done()) + 20
        deploy.wait(lambda: len(deploy.done()) >= goal, "20 more mails")

    some_more()
    place.redis.stop()
    place.redis.start()
    some_more()
    place.postgres.stop()
    place.postgres.start()
    some_more()
    assert [worker.poll() for worker in workers] == [None, None]
    workers[0].terminate()
    deploy.start_worker()
    some_more()
    beat.terminate()
    place.start_beat()
    os.killpg(workers[1].pid, signal.SIGKILL)
    assert sender.wait(timeout=60) == 0

    # kill -9 may lose what was on its way from Redis: one message for each of two processes, and one
    # that each reserves.
    deploy.wait(lambda: len(deploy.done()) >= 296, "the mails")
    end = time.time()

    def runs() -> list[tuple[str, float, str]]:
        lines = (line.split() for line in notes.read_text().splitlines())
        return [(name, float(due), sent_at) for name, due, sent_at in lines]

    deploy.wait(lambda: {name for name, due, _ in runs() if due > end} == set("01234"), "runs")
    sent = defaultdict(set)
    for name, due, sent_at in runs():
        sent[name, due].add(sent_at)
    assert {run: times for run, times in sent.items() if len(times) > 1} == {}
