"""Services with a virtual environment of their own, for benchmarks and screenshots."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.harness.project import TEMPLATE, Project, clean_environment


def generate(template: Path, folder: Path, env: dict[str, str]) -> float:
    """Generate a service into a folder; returns how many seconds Cookiecutter takes."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(folder), str(template)],
        env=env,
        check=True,
    )
    return time.perf_counter() - start


def install(folder: Path) -> Project:
    """Generate a service into a folder and install it."""
    env = clean_environment()
    generate(TEMPLATE, folder, env)
    service = folder / "architecture_portal"
    subprocess.run(["make", "install"], cwd=service, env=env, check=True)
    return Project(service, service.name, service / ".venv")


def run(service: Project, script: Path, *arguments: str, **env: str) -> str:
    """What a script prints that runs in the service, whose database is migrated first."""
    folders = os.pathsep.join([str(service.path), str(service.engine)])
    environment = service.environment(
        DJANGO_SETTINGS_MODULE=f"{service.slug}.settings", PYTHONPATH=folders, **env
    )
    output = ""
    for command in (["manage.py", "migrate", "-v", "0"], [str(script), *arguments]):
        output = subprocess.run(
            [service.venv / "bin/python", *command],
            cwd=service.path,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    return output
