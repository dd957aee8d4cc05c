"""What the benchmarks share: a generated service, and databases."""

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

TEMPLATE = Path(__file__).resolve().parent.parent
INSIDE = Path(__file__).parent / "inside"  # scripts that run in the service's environment


def clean_environment() -> dict[str, str]:
    """A terminal's environment: without what `uv run`, Django or a .env add to it."""
    ours = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "MAKEFLAGS", "MFLAGS", "PORT")
    services = ("DJANGO_", "CELERY_", "EMAIL_", "SECURE_", "CSRF_", "MAKE_", "LOG_", "SENTRY_")
    single = ("DEBUG", "SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL", "CACHE_URL")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(services) and name not in (*ours, *single)
    }
    folders = kept["PATH"].split(os.pathsep)
    return kept | {"PATH": os.pathsep.join(f for f in folders if f != f"{sys.prefix}/bin")}


def generate(template: Path, folder: Path, env: dict[str, str]) -> float:
    """Seconds that Cookiecutter takes to generate into a folder."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(folder), str(template)],
        env=env,
        check=True,
    )
    return time.perf_counter() - start


def install(folder: Path) -> Path:
    """Generate a service into a folder and install it; returns where it is."""
    env = clean_environment()
    generate(TEMPLATE, folder, env)
    subprocess.run(["make", "install"], cwd=folder / "architecture_portal", env=env, check=True)
    return folder / "architecture_portal"


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a new database, dropped afterwards."""
    server = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres")
    name = f"benchmark_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def run(service: Path, script: str, *arguments: str, **env: str) -> str:
    """What a script of INSIDE prints in the service, whose database is migrated first."""
    environment = clean_environment() | {
        "DEBUG": "true",
        "DJANGO_SETTINGS_MODULE": "architecture_portal.settings",
        "PYTHONPATH": str(service),
        **env,
    }
    output = ""
    for command in (["manage.py", "migrate", "-v", "0"], [str(INSIDE / script), *arguments]):
        output = subprocess.run(
            [service / ".venv/bin/python", *command],
            cwd=service,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    return output


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
