"""The probes that the service's README names, asked of what works, what hangs and what has gone."""

import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena import RedisServer
from conftest import unavailable
from test_live import Live, live, wait_for

__all__ = ["live"]  # a fixture


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may be stopped."""
    if not shutil.which("redis-server") and not shutil.which("valkey-server"):
        unavailable("No redis-server on the PATH")
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.stop()


def command(live: Live, what: str) -> list[str]:
    """The probe of the service's README, for nodes of this host."""
    readme = (live.project.path / "README.md").read_text()
    [line] = [line for line in readme.splitlines() if f"inspect ping -d {what}@" in line]
    return line.partition(" #")[0].replace("$(hostname)", socket.gethostname()).split()


@pytest.mark.parametrize(("part", "node"), [("beat", "celerybeat"), ("worker", "celery")])
def test_a_node_answers_while_it_works(live: Live, redis_url: str, part: str, node: str) -> None:
    live.env["CELERY_BROKER_URL"] = redis_url
    live.project.run("python", "manage.py", "migrate", env=live.env)

    def ping() -> int:
        return subprocess.run(
            command(live, node), cwd=live.project.path, env=live.env, capture_output=True
        ).returncode

    process = live.celery(part, "--loglevel=info").process
    wait_for(lambda: ping() == 0, "an answer")
    process.send_signal(signal.SIGSTOP)
    assert ping() != 0
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: ping() == 0, "an answer")
    process.terminate()
    process.wait(timeout=60)
    assert ping() != 0


def test_the_web_is_alive_and_says_whether_it_is_ready(
    live: Live, redis: RedisServer, postgres_url: str
) -> None:
    live.env |= {
        "DEBUG": "false",
        "SECRET_KEY": uuid.uuid4().hex * 2,
        "ALLOWED_HOSTS": "portal.example.com",
        "DATABASE_URL": postgres_url,
        "CELERY_BROKER_URL": f"redis://127.0.0.1:{redis.port}/0",
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

    live.project.run("python", "manage.py", "migrate", env=live.env)
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
