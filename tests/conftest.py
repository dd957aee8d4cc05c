"""What the tests share: baking, the environment that bakes run in, and the services."""

import fcntl
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import psycopg
import pytest
from redis import Redis, RedisError

import arena
from service import free_port

TEMPLATE = Path(__file__).resolve().parent.parent
FOREIGN = (
    "CELERY_",
    "COV",
    "DATABASE_URL",
    "DEBUG",
    "DJANGO_",
    "LOG_",
    "MAKE",
    "PYTEST_",
    "PYTHONPATH",
    "SECRET_KEY",
    "SENTRY_",
    "VIRTUAL_ENV",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that stay together first: the longest start early, and the rest fills the gaps."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@dataclass
class Project:
    """A baked service, and the virtual environment that all bakes share."""

    path: Path
    slug: str
    venv: Path
    env: dict[str, str] = field(default_factory=dict)  # for all that runs in it

    def environment(self, **env: str) -> dict[str, str]:
        """This process's environment without what tests put there, in development mode."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        return clean | {
            "DEBUG": "true",
            "PATH": f"{self.venv / 'bin'}:{os.environ['PATH']}",
            "UV_PROJECT_ENVIRONMENT": str(self.venv),
            **self.env,
            **env,
        }

    def run(
        self, *command: str, env: dict[str, str] | None = None, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in the service; with ``check``, its failure fails the test."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment(**env or {}),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace what stands in a file of the service."""
        file = self.path / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


@pytest.fixture(scope="session")
def bake(cookies_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Project]:
    """Bake a service from answers; each call makes one in a new folder."""

    def bake(**answers: str) -> Project:
        cookies_session._new_output_dir = lambda: str(tmp_path_factory.mktemp("bake"))
        result = cookies_session.bake(extra_context=answers)
        assert result.exception is None, result.exception
        return Project(
            result.project_path, result.context["project_slug"], TEMPLATE / "build/test-environment"
        )

    return bake


@pytest.fixture(scope="session")
def environment(bake: Callable[..., Project]) -> Path:
    """The virtual environment of all bakes, made by uv as a service's Makefile makes it."""
    if not shutil.which("uv"):
        pytest.fail("There is no uv on the PATH: run the tests with make test.")
    project = bake()
    project.venv.parent.mkdir(exist_ok=True)
    with (project.venv.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time makes it
        project.run("uv", "sync", "--quiet", "--all-extras")
    return project.venv


@pytest.fixture
def service(bake: Callable[..., Project], environment: Path) -> Project:
    """A service with the default answers, ready to run."""
    return bake()


@pytest.fixture(scope="session")
def make_arena(
    bake: Callable[..., Project], environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], AbstractContextManager[arena.Arena]]:
    """An arena of a service with one task more, whose text is given."""

    def make(task: str) -> AbstractContextManager[arena.Arena]:
        if not shutil.which("redis-server") and not shutil.which("valkey-server"):
            unavailable("No redis-server on the PATH")
        if not arena.postgres_programs():
            unavailable("No initdb of Postgres")
        project = bake()
        tasks = project.path / "application/tasks.py"
        tasks.write_text(tasks.read_text() + task)
        return arena.arena(project.path, environment, tmp_path_factory.mktemp("arena"), arena.OURS)

    return make


def unavailable(reason: str) -> NoReturn:
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}, and REQUIRE_SERVICES=1")
    pytest.skip(reason)


def listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis: the named one, the one on the usual port, or one for these tests."""
    url = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379")
    if listens(url):
        yield url
        return
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if not binary:
        unavailable(f"No Redis at {url}, and no redis-server on the PATH")
    port = free_port()
    server = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        cwd=tmp_path_factory.mktemp("redis"),
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}"
    while not listens(url) and server.poll() is None:
        time.sleep(0.05)
    yield url
    server.terminate()
    server.wait()


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """An empty database of a Redis, emptied afterwards; one with data in it is never touched."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])  # each takes its own
    for number in range(15 - worker, -1, -int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))):
        url = f"{redis_server}/{number}"
        with Redis.from_url(url) as client:
            try:
                if client.dbsize() == 0:
                    yield url
                    client.flushdb()
                    return
            except RedisError as error:
                unavailable(f"The Redis at {url} does not work: {error}")
    unavailable(f"No database of {redis_server} is empty")


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A new database of the named Postgres or the one on the usual port, dropped afterwards."""
    server = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres")
    name = f"test_{uuid.uuid4().hex}"
    try:
        connection = psycopg.connect(server, autocommit=True)
    except psycopg.OperationalError as error:
        unavailable(f"No Postgres at {server}: {error}")
    with connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def rabbitmq_url() -> str:
    """A RabbitMQ. Its queues are shared: take one of your own."""
    url = os.environ.get("TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
    if not listens(url):
        unavailable(f"No RabbitMQ at {url}")
    return url


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    unavailable("No Chromium on the PATH")
