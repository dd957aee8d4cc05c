"""The promises of beat, with real processes, a Redis and a Postgres that are stopped and killed.

The same scenarios next to stock beat: benchmarks/faults.py.
"""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import faults
from tests.harness.faults import Arena
from tests.harness.processes import wait_for

pytestmark = pytest.mark.xdist_group("beat")


@pytest.fixture
def place(arena: Arena) -> Iterator[Arena]:
    yield arena
    arena.env["CELERY_BEAT_SCHEDULER"] = faults.OURS
    arena.clear()


def test_saving_rows_doubles_nothing(place: Arena) -> None:
    counted = faults.rows_saved_all_the_time(place, seconds=10)

    assert counted["doubled"] == 0
    assert counted["longest gap, s"] < 10


def test_beats_that_are_killed_leave_no_gap(place: Arena) -> None:
    counted = faults.beats_killed_in_turn(place, count=3, seconds=20)

    assert counted["doubled"] <= 20  # one batch, if one was killed in the middle of it
    assert counted["longest gap, s"] < 15


def test_a_beat_that_is_killed_after_a_dispatch_repeats_nothing(place: Arena) -> None:
    assert faults.killed_after_a_dispatch(place) == {"sent": 20, "repeated": 0}


def test_a_beat_that_is_ended_in_a_burst_finishes_its_batch(place: Arena) -> None:
    counted = faults.sigterm_in_a_burst(place)

    assert counted == {"sent": 10_000, "doubled": 0, "did not end in 30 s": 0}


def test_what_falls_due_without_redis_is_sent_later_once_and_in_order(place: Arena) -> None:
    counted = faults.redis_away(place)

    assert counted == {"due": 20, "lost": 0, "doubled": 0, "out of order": 0}


def test_beat_outlives_postgres(place: Arena) -> None:
    counted = faults.postgres_away(place, seconds=8)

    assert counted == {"beat lives": 1, "schedules sent after": 20, "doubled": 0}


def test_stock_beat_is_a_variable_away(place: Arena) -> None:
    place.env["CELERY_BEAT_SCHEDULER"] = faults.STOCK
    place.make("task('Every second', interval=every(1))")
    place.start_beat()

    place.wait_for_message(2)


def test_beat_waits_for_migrate(place: Arena) -> None:
    place.manage("migrate", "-v", "0", "django_celery_beat", "zero")
    try:
        before = Path(place.log.name).stat().st_size
        place.start_beat()
        wait_for(
            lambda: "waiting for manage.py migrate" in Path(place.log.name).read_text()[before:],
            "beat to say that it waits",
        )
    finally:
        place.manage("migrate", "-v", "0")
    place.make("task('Every second', interval=every(1))")

    place.wait_for_message()


def ping(place: Arena) -> int:
    """The exit code of the probe in the service's README."""
    node = f"celerybeat@{socket.gethostname()}"
    return place.start_celery("inspect", "ping", "--timeout", "3", "-d", node).wait()


def test_beat_answers_a_ping_while_it_ticks(place: Arena) -> None:
    place.make("task('Every second', interval=every(1))")
    beat = place.start_beat()
    place.wait_for_message()

    wait_for(lambda: ping(place) == 0, "an answer")
    beat.send_signal(signal.SIGSTOP)
    assert ping(place) != 0
    beat.send_signal(signal.SIGCONT)
    wait_for(lambda: ping(place) == 0, "an answer")


SEND_50 = """
from application.tasks import count_users
for _ in range(50):
    count_users.delay()
"""


@contextmanager
def worker(place: Arena, log: Path, *arguments: str) -> Iterator[None]:
    place.env["CELERY_TASK_DEFAULT_QUEUE"] = "tasks"  # not the one that the arena takes from
    process = place.start_celery("worker", "--loglevel=info", *arguments, log=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)
        place.env["CELERY_TASK_DEFAULT_QUEUE"] = faults.QUEUE


def count_users_50_times(place: Arena, log: Path) -> None:
    done = log.read_text().count("succeeded in") + 50
    place.manage("shell", "-v", "0", "-c", SEND_50)
    wait_for(lambda: log.read_text().count("succeeded in") == done, "50 tasks")


def test_workers_survive_a_restart_of_postgres_on_their_connections(
    place: Arena, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    with worker(place, log, "--concurrency=2"):
        before = place.connections()
        count_users_50_times(place, log)
        assert place.connections() - before < 10
        place.postgres.stop()
        place.postgres.start()
        count_users_50_times(place, log)
        assert "raised unexpected" not in log.read_text()


def test_a_pool_of_threads_keeps_no_connection_for_each(place: Arena, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with worker(place, log, "--pool=threads", "--concurrency=30"):
        count_users_50_times(place, log)
        wait_for(lambda: place.open_connections() == 0, "the last task's connection to be closed")
