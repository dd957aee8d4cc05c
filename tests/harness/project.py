"""A generated service, and the environment that its processes get."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[2]
OUTPUT = TEMPLATE / "{{cookiecutter.project_slug}}"
ENGINE = "packages/scheduling"  # in a service
ENGINE_SETTINGS = f"{ENGINE}/tests/project/settings.py"
ENVIRONMENT = TEMPLATE / "build/test-environment"  # the virtual environment that all bakes share
INSTALLED = "UV=true"  # for make: the environment is there, so the command true stands in for uv
# What `uv run`, make, pytest, Django and a .env add to a terminal's environment.
FOREIGN = (
    "ALLOWED_HOSTS",
    "CACHE_URL",
    "CELERY_",
    "COV",
    "CSRF_",
    "DATABASE_URL",
    "DEBUG",
    "DJANGO_",
    "EMAIL_",
    "LOG_",
    "MAKE",
    "MFLAGS",
    "PORT",
    "PYTEST_",
    "PYTHONPATH",
    "SECRET_KEY",
    "SECURE_",
    "SENTRY_",
    "UV_PROJECT_ENVIRONMENT",
    "VIRTUAL_ENV",
)


def clean_environment() -> dict[str, str]:
    """This process's environment without FOREIGN and without its virtual environment's folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    folders = kept["PATH"].split(os.pathsep)
    return kept | {"PATH": os.pathsep.join(f for f in folders if f != f"{sys.prefix}/bin")}


@dataclass
class Project:
    """A generated service, and the virtual environment that it runs in."""

    path: Path
    slug: str
    venv: Path
    env: dict[str, str] = field(default_factory=dict)  # for all that runs in it

    @property
    def engine(self) -> Path:
        return self.path / ENGINE

    def environment(self, **env: str) -> dict[str, str]:
        """A terminal's environment with the virtual environment active, in development mode.

        PYTHONPATH comes before site-packages: in the environment that all bakes share, the
        editable install of the engine belongs to whichever bake was synced last.
        """
        clean = clean_environment()
        return clean | {
            "DEBUG": "true",
            "PATH": f"{self.venv / 'bin'}{os.pathsep}{clean['PATH']}",
            "PYTHONPATH": str(self.engine),
            "UV_PROJECT_ENVIRONMENT": str(self.venv),
            **self.env,
            **env,
        }

    def run(
        self,
        *command: str,
        env: dict[str, str] | None = None,
        check: bool = True,
        cwd: Path | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in the service; with ``check``, its failure fails the test."""
        done = subprocess.run(
            command,
            cwd=cwd or self.path,
            env=self.environment(**env or {}),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text in a file of the service; the old text must be there."""
        file = self.path / path
        text = file.read_text()
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new))
