"""Beat under faults: a service with a Redis and a Postgres of its own, which are stopped and killed.

A scenario takes an arena and returns what it counted; tests/faults/test_beat.py runs them with the
service's beat, and benchmarks/faults.py with stock beat too.
"""

import json
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psycopg
import redis

from tests.harness.processes import wait_for
from tests.harness.project import Project
from tests.harness.services import PostgresServer, RedisServer

STOCK = "django_celery_beat.schedulers:DatabaseScheduler"
OURS = "scheduling.beat.scheduler:DatabaseScheduler"
QUEUE = "arena"


@dataclass
class Message:
    name: str
    arrived: float
    due: float | None  # a timestamp; stock beat's messages do not say when they were due


class Arena:
    """A migrated service with its servers, the beats that run in it, and what they have sent."""

    def __init__(self, project: Project, folder: Path, scheduler: str) -> None:
        self.project = project
        self.redis, self.postgres = RedisServer(folder / "redis"), PostgresServer()
        self.env = project.environment(
            LATE_AFTER="3600",  # tests take messages and begin no runs: beat would send them again
            DATABASE_URL=self.postgres.url,
            CELERY_BROKER_URL=f"{self.redis.url}/0",
            CELERY_BEAT_SCHEDULER=scheduler,
            CELERY_TASK_DEFAULT_QUEUE=QUEUE,
            SEED_SCHEDULES_ON_MIGRATE="false",
        )
        self.log = (folder / "beat.log").open("ab")
        self.messages: list[Message] = []
        self.beats: list[subprocess.Popen[bytes]] = []
        self.is_over = threading.Event()
        self.sink = threading.Thread(target=self.take_messages)

    def start(self) -> None:
        self.redis.start()
        self.postgres.start()
        self.manage("migrate", "-v", "0")
        self.sink.start()

    def clear(self) -> None:
        """As it was after the start: no beat, no row, no message."""
        self.end_beats()
        with psycopg.connect(self.env["DATABASE_URL"], autocommit=True) as connection:
            connection.execute("TRUNCATE django_celery_beat_periodictask CASCADE")
        with self.redis.client() as client:
            client.flushdb()
        self.messages.clear()

    def end_beats(self) -> None:
        while self.beats:
            beat = self.beats.pop()
            beat.kill()
            beat.wait()

    def end_sink(self) -> None:
        """Leave the messages in the broker from now on."""
        self.is_over.set()
        if self.sink.is_alive():
            self.sink.join()

    def end(self) -> None:
        self.end_beats()
        self.end_sink()
        for server in (self.redis, self.postgres):
            with suppress(Exception):  # a scenario may have stopped it
                server.stop()
        shutil.rmtree(self.postgres.folder)
        self.log.close()

    def manage(self, *arguments: str) -> str:
        return self.python("manage.py", *arguments)

    def python(self, *arguments: str) -> str:
        return subprocess.run(
            [self.project.venv / "bin/python", *arguments],
            cwd=self.project.path,
            env=self.env,
            check=True,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        ).stdout

    def make(self, code: str) -> None:
        """Rows, by code that has ``every(seconds)``, ``task(name, **columns)`` and Django's now."""
        self.manage("shell", "-v", "0", "-c", MAKE + code)

    def start_beat(self) -> "subprocess.Popen[bytes]":
        beat = self.start_celery("beat", "--loglevel=info", "--pidfile=")
        self.beats.append(beat)
        return beat

    def start_celery(
        self, *arguments: str, log: Path | None = None, **env: str
    ) -> "subprocess.Popen[bytes]":
        """A Celery process, which writes into a log of its own or the arena's; its caller ends it."""
        with (log or Path(self.log.name)).open("ab") as output:
            return subprocess.Popen(
                [str(self.project.venv / "bin/celery"), "-A", self.project.slug, *arguments],
                cwd=self.project.path,
                env=self.env | env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def take_messages(self) -> None:
        """A worker's place: takes what beats send, as it comes."""
        while not self.is_over.is_set():
            with suppress(redis.RedisError), self.redis.client() as client:
                while not self.is_over.is_set():
                    if taken := client.brpop([QUEUE], timeout=1):
                        headers = json.loads(taken[1])["headers"]
                        due = headers.get("scheduled_for")
                        self.messages.append(
                            Message(
                                headers.get("periodic_task_name", ""),
                                time.time(),
                                due and datetime.fromisoformat(due).timestamp(),
                            )
                        )
            self.is_over.wait(0.1)

    def connections(self) -> int:
        """How many connections Postgres has had since it started."""
        with psycopg.connect(self.env["DATABASE_URL"]) as connection:
            row = connection.execute("SELECT sum(sessions) FROM pg_stat_database").fetchone()
        return int(row[0]) if row else 0

    def open_connections(self) -> int:
        """How many clients Postgres has now, without this one."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        with psycopg.connect(self.env["DATABASE_URL"]) as connection:
            row = connection.execute(query).fetchone()
        return int(row[0]) - 1 if row else 0

    def wait_for_message(self, count: int = 1, since: int = 0) -> None:
        try:
            wait_for(lambda: len(self.messages) >= since + count, f"{count} messages")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{Path(self.log.name).read_text()[-2000:]}") from None

    def by_name(self) -> dict[str, list[float]]:
        """When each schedule's runs were due, or, from stock beat, arrived."""
        found = defaultdict(list)
        for message in self.messages:
            found[message.name].append(message.due or message.arrived)
        return found

    def doubles(self, apart: float) -> int:
        """Messages of a schedule that follow the one before by less than so many seconds."""
        times = self.by_name().values()
        return sum(b - a < apart for arrived in times for a, b in pairwise(arrived))

    def longest_gap(self) -> float:
        times = self.by_name().values()
        return max((b - a for arrived in times for a, b in pairwise(arrived)), default=0)


MAKE = """
from datetime import datetime, timedelta
from django.utils.timezone import now
from django_celery_beat.models import *
def every(seconds):
    return IntervalSchedule.objects.get_or_create(every=seconds, period="seconds")[0]
def task(name, **columns):
    PeriodicTask.objects.create(name=name, task="some.task", **columns)
"""


@contextmanager
def arena(project: Project, folder: Path, scheduler: str) -> Iterator[Arena]:
    """An arena that has started, and is ended afterwards; the folder is for its data and log."""
    made = Arena(project, folder, scheduler)
    try:
        made.start()
        yield made
    finally:
        made.end()


def rows_saved_all_the_time(arena: Arena, seconds: float = 25) -> dict[str, float]:
    """20 two-second schedules, and one of the rows saved five times a second."""
    arena.make("for n in range(20): task(f'Every {n}', interval=every(2))")
    arena.start_beat()
    arena.wait_for_message()
    arena.make(
        f"import time\nend = time.monotonic() + {seconds}\n"
        "while time.monotonic() < end:\n"
        "    row = PeriodicTask.objects.order_by('?')[0]\n"
        "    row.save()\n"
        "    time.sleep(0.2)"
    )
    return {
        "sent": len(arena.messages),
        "doubled": arena.doubles(apart=1),
        "longest gap, s": arena.longest_gap(),
    }


def beats_killed_in_turn(arena: Arena, count: int, seconds: float = 60) -> dict[str, float]:
    """20 two-second schedules, several beats, one of them killed -9 every ten seconds."""
    arena.make("for n in range(20): task(f'Every {n}', interval=every(2))")
    for _ in range(count):
        arena.start_beat()
    arena.wait_for_message(20)
    end, kills = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        time.sleep(min(10, max(0, end - time.monotonic())))
        victim = arena.beats.pop(0)
        victim.kill()
        victim.wait()
        arena.start_beat()
        kills += 1
    return {
        "sent": len(arena.messages),
        "killed": kills,
        "doubled": arena.doubles(apart=1),
        "longest gap, s": arena.longest_gap(),
    }


def killed_after_a_dispatch(arena: Arena) -> dict[str, float]:
    """10 hourly schedules and 10 that run once are due; beat is killed -9 half a second later.

    The next beat has sent all that it ever will when it sends a schedule that is due later.
    """
    arena.make(
        "for n in range(10):\n"
        "    task(f'Hourly {n}', interval=every(3600))\n"
        "    time = ClockedSchedule.objects.create(clocked_time=now() + timedelta(seconds=8))\n"
        "    task(f'Once {n}', clocked=time, one_off=True)\n"
        "soon = now() - timedelta(seconds=3592)\n"
        "PeriodicTask.objects.filter(interval__isnull=False).update(last_run_at=soon)"
    )
    arena.start_beat()
    arena.wait_for_message(20)
    time.sleep(0.5)  # the last batch is committed: in the middle of one is another scenario
    beat = arena.beats.pop()
    beat.kill()
    beat.wait()
    arena.make("task('After', interval=every(3))")
    arena.start_beat()
    wait_for(lambda: len(arena.by_name()["After"]) >= 2, "the next beat")
    sent = len(arena.messages) - len(arena.by_name()["After"])
    return {"sent": sent, "repeated": sent - 20}


def redis_away(arena: Arena) -> dict[str, float]:
    """10 that run once and 10 crontabs fall due, a second apart, while Redis is stopped."""
    arena.make(
        "start = now() + timedelta(seconds=15)\n"
        "minute, _ = CrontabSchedule.objects.get_or_create(timezone='UTC')\n"
        "for n in range(10):\n"
        "    time = ClockedSchedule.objects.create(clocked_time=start + timedelta(seconds=n))\n"
        "    task(f'Once {n}', clocked=time, one_off=True)\n"
        "    task(f'Minutely {n}', crontab=minute)\n"
        "task('Every second', interval=every(1))"
    )
    all_due = time.time() + 25
    arena.start_beat()
    arena.wait_for_message(3)
    before = len(arena.messages)
    arena.redis.stop()
    full_minute = (time.time() // 60 + 1) * 60  # when crontabs fall due
    wait_for(lambda: time.time() > max(all_due, full_minute + 1), "all to be due")
    back = time.time()
    arena.redis.start()
    due = {f"{kind} {n}" for kind in ("Once", "Minutely") for n in range(10)}
    with suppress(AssertionError):  # stock beat loses some
        wait_for(lambda: due <= set(arena.by_name()), "what was due", 15)
    wait_for(lambda: [m for m in arena.messages if m.arrived > back + 5], "what is due later")
    late = [m.due for m in arena.messages[before:] if m.due and m.due < back]
    sent = {name: len(times) for name, times in arena.by_name().items()}
    return {
        "due": len(due),
        "lost": sum(name not in sent for name in due),
        "doubled": sum(sent.get(f"Once {n}", 0) > 1 for n in range(10)) + arena.doubles(apart=0.3),
        "out of order": sum(a > b for a, b in pairwise(late)),
    }


def postgres_away(arena: Arena, seconds: float = 40, age: float = 0) -> dict[str, float]:
    """Postgres is restarted, then away across a reload, with 20 five-second schedules.

    Stock beat reloads by itself every five minutes: at that ``age``, then, it is away.
    """
    arena.make("for n in range(20): task(f'Every {n}', interval=every(5))")
    beat, started = arena.start_beat(), time.monotonic()
    arena.wait_for_message(20)
    arena.postgres.stop()
    arena.postgres.start()
    arena.wait_for_message(20, since=len(arena.messages))
    if age:
        time.sleep(age - (time.monotonic() - started))
    else:
        arena.make("PeriodicTasks.update_changed()")
    arena.postgres.stop()
    time.sleep(seconds)
    before = len(arena.messages)
    arena.postgres.start()
    with suppress(AssertionError):
        wait_for(lambda: len(arena.messages) >= before + 40, "runs after the outage", 30)
    return {
        "beat lives": float(beat.poll() is None),
        "schedules sent after": len({m.name for m in arena.messages[before:]}),
        "doubled": arena.doubles(apart=2.5),
    }


def sigterm_in_a_burst(arena: Arena) -> dict[str, float]:
    """10,000 runs are due at once; beat is ended while it sends them, and started again."""
    arena.make(
        "PeriodicTask.objects.bulk_create(PeriodicTask(name=f'Hourly {n}', task='some.task', "
        "interval=every(3600), last_run_at=now() - timedelta(seconds=3600)) for n in range(10_000))"
    )
    killed = 0
    for _ in range(3):
        beat, before = arena.start_beat(), len(arena.messages)
        arena.wait_for_message(100, since=before)
        beat.terminate()
        try:
            beat.wait(30)
        except subprocess.TimeoutExpired:  # stock beat waits for its own lock now and then
            beat.kill()
            killed += 1
    arena.start_beat()
    wait_for(lambda: len(arena.by_name()) == 10_000, "all runs")
    time.sleep(3)
    sent = len(arena.messages)
    return {"sent": sent, "doubled": sent - 10_000, "did not end in 30 s": killed}
