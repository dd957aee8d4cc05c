"""What all tests share: bakes, the environment that they run in, and the services."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis, RedisError

from tests.harness.project import ENVIRONMENT, Project
from tests.harness.services import (
    RedisServer,
    listens,
    new_database,
    postgres_server,
    redis_program,
    unavailable,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that stay together first: the longest start early, and the rest fills the gaps."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session")
def bake(cookies_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Project]:
    """Bake a service from answers; each call makes one in a new folder."""

    def bake(**answers: str) -> Project:
        cookies_session._new_output_dir = lambda: str(tmp_path_factory.mktemp("bake"))
        result = cookies_session.bake(extra_context=answers)
        assert result.exception is None, result.exception
        return Project(result.project_path, result.context["project_slug"], ENVIRONMENT)

    return bake


@pytest.fixture(scope="session")
def environment(bake: Callable[..., Project]) -> Path:
    """The virtual environment of all bakes, as a service's Makefile makes it."""
    if not shutil.which("uv"):
        pytest.fail("There is no uv on the PATH: run the tests with make test.")
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with (ENVIRONMENT.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time makes it
        bake().run("make", "install")
    return ENVIRONMENT


@pytest.fixture
def service(bake: Callable[..., Project], environment: Path) -> Project:
    """A service with the default answers, ready to run."""
    return bake()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis: the named one, the one on the usual port, or one for these tests."""
    url = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379")
    if listens(url):
        yield url
        return
    if not redis_program():
        unavailable(f"No Redis at {url}, and no redis-server on the PATH")
    server = RedisServer(tmp_path_factory.mktemp("redis") / "data")
    server.start()
    yield server.url
    server.stop()


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
    try:
        psycopg.connect(postgres_server()).close()
    except psycopg.OperationalError as error:
        unavailable(f"No Postgres at {postgres_server()}: {error}")
    with new_database() as url:
        yield url


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
