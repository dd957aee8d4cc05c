"""The probes of the web, beat and workers, asked of what works, what hangs and what has gone."""

import signal
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.processes import Live, wait_for
from tests.harness.services import RedisServer, redis_program, unavailable


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may be stopped."""
    if not redis_program():
        unavailable("No redis-server on the PATH")
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.mark.parametrize("part", ["beat", "worker"])
def test_a_probe_blames_a_node_that_hangs_and_not_one_without_a_broker(
    live: Live, redis: RedisServer, part: str
) -> None:
    live.env["CELERY_BROKER_URL"] = f"{redis.url}/0"
    live.migrate()

    def works(*options: str) -> bool:
        """By the probe's exit code."""
        command = ["python", "manage.py", "probe", part, *options]
        done = live.project.run(*command, env=live.env, check=False)
        return done.returncode == 0

    process = live.celery(part, "--loglevel=info").process
    wait_for(lambda: works("--ready"), "an answer")
    process.send_signal(signal.SIGSTOP)
    assert not works()
    process.send_signal(signal.SIGCONT)
    wait_for(works, "an answer")
    redis.stop()
    assert works()
    assert not works("--ready")
    redis.start()
    wait_for(lambda: works("--ready"), "an answer after the outage")
    process.terminate()
    process.wait(timeout=60)
    assert not works()


def test_the_web_is_alive_and_says_whether_it_is_ready(
    live: Live, redis: RedisServer, postgres_url: str
) -> None:
    live.env |= {
        "DEBUG": "false",
        "SECRET_KEY": uuid.uuid4().hex * 2,
        "ALLOWED_HOSTS": "portal.example.com",
        "DATABASE_URL": postgres_url,
        "CELERY_BROKER_URL": f"{redis.url}/0",
    }

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{live.port}{path}", timeout=30) as done:
                return done.status, done.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    live.start("gunicorn", f"{live.project.slug}.wsgi", "-b", f"127.0.0.1:{live.port}").wait_for(
        "Booting worker"
    )
    assert get("/health/live") == (200, '{"process": "ok"}')
    code, body = get("/health/ready")
    assert code == 503
    assert '"database": "migrations not applied: ' in body

    live.migrate()
    assert get("/health/ready") == (200, '{"database": "ok", "broker": "ok"}')

    redis.process.send_signal(signal.SIGSTOP)
    assert get("/health/ready") == (503, '{"database": "ok", "broker": "no answer within 3 s"}')
    assert get("/health/live")[0] == 200
    redis.process.send_signal(signal.SIGCONT)
    wait_for(lambda: get("/health/ready")[0] == 200, "the web to be ready again")

    redis.stop()
    assert get("/health/ready") == (503, '{"database": "ok", "broker": "ConnectionError"}')
    redis.start()
    assert get("/health/ready")[0] == 200
