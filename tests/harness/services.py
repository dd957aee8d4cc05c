"""Redis, Postgres and other programs that tests need: find them, start them, stop them."""

import glob
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from tests.harness.processes import free_port, wait_for


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it if REQUIRE_SERVICES is 1."""
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}, and REQUIRE_SERVICES=1")
    pytest.skip(reason)


def listens(url: str) -> bool:
    """Whether the host and port of a URL take connections."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
    except OSError:
        return False
    return True


def redis_program() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def postgres_programs() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps off the PATH."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    initdb = shutil.which("initdb") or (found[-1] if found else None)
    return Path(initdb).parent if initdb else None


def postgres_server() -> str:
    """The URL of the named Postgres, or of the one on the usual port."""
    return os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres")


@contextmanager
def new_database() -> Iterator[str]:
    """The URL of a new database of that Postgres, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield urlsplit(postgres_server())._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


class RedisServer:
    """A Redis that keeps its data over a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        folder.mkdir()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [redis_program() or "redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
            + ["--dir", str(self.folder), "--save", "", "--appendonly", "yes"],
            stdout=subprocess.DEVNULL,
        )
        wait_for(self.answers, "Redis")

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port)

    def answers(self) -> bool:
        with suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class PostgresServer:
    """A Postgres. The user postgres runs it if this is root, whom it refuses."""

    def __init__(self) -> None:
        self.folder, self.port = Path(tempfile.mkdtemp()), free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        self.programs = postgres_programs() or Path()
        self.run_as = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self.run_as:
            shutil.chown(self.folder, "postgres")
        data = f"{self.folder}/data"
        self.run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self.run_as, str(self.programs / program), *arguments],
            cwd="/",
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        data = str(self.folder / "data")
        self.run("pg_ctl", "-D", data, "-o", options, "-l", f"{self.folder}/log", "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "fast", "-w", "stop")
