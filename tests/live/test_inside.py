"""Every bake is clean by its own tools from the first minute, whatever it is called."""

import json
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.hook import listed, possible_slugs
from tests.harness.project import ENGINE_SETTINGS, INSTALLED, TEMPLATE, Project

ANSWERS: dict[str, dict[str, str]] = {
    "default": {},
    "odd-name": {
        "project_name": 'Café 🚀 "Quoted" it\'s \\ {x} {% y %}',
        "description": 'Says "hi" to {% everyone %} \\ <b>all</b> 🚀',
        "author_name": 'Zoë O\'Brien "Z"',
        "timezone": "America/Argentina/ComodRivadavia",
    },
    "one-letter-slug": {
        "project_name": "漢" * 40,
        "project_slug": "a",
        "author_email": "post@bücher.example",
    },
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


# The service


def test_a_service_is_clean(project: Project) -> None:
    said = project.run("make", "lint", "ENGINE=", INSTALLED).stdout

    assert "Success: no issues found" in said  # mypy
    assert "1 kept, 0 broken" in said  # import-linter


def test_a_service_has_no_warning(project: Project) -> None:
    project.run("python", "manage.py", "check", "--fail-level", "WARNING")


def test_a_service_is_fit_to_deploy(project: Project) -> None:
    project.run(
        *"python manage.py check --deploy --fail-level WARNING".split(),
        env={
            "DEBUG": "false",
            "SECRET_KEY": secrets.token_urlsafe(60),
            "ALLOWED_HOSTS": "portal.example.com",
            "DATABASE_URL": "sqlite://:memory:",
            "CELERY_BROKER_URL": "redis://127.0.0.1:6379/0",
            "BEHIND_PROXY": "true",
        },
    )


def test_a_services_own_tests_pass(project: Project) -> None:
    assert " passed" in project.run("make", "test", INSTALLED).stdout


# The engine: the same in every service


def test_the_engine_is_clean(service: Project) -> None:
    said = service.run("make", "lint-engine", INSTALLED).stdout

    assert "Success: no issues found" in said
    assert "1 kept, 0 broken" in said


@pytest.mark.xdist_group("engine")  # groups start first, and this takes long
def test_the_engines_own_tests_pass_west_of_utc(service: Project) -> None:
    """On SQLite; test_production.py runs them on Postgres and east of UTC, as CI does."""
    service.edit(ENGINE_SETTINGS, 'TIME_ZONE = "UTC"', 'TIME_ZONE = "America/Los_Angeles"')

    assert " passed" in service.run("make", "test-engine", INSTALLED).stdout


UPWARD = "from scheduling.beat import scheduler  # noqa\n"


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("runs/queries.py", UPWARD, "scheduling.runs is not allowed to import scheduling.beat"),
        ("levers.py", "", "- scheduling.levers"),
    ],
)
def test_the_engines_layers_are_enforced(
    service: Project, file: str, text: str, reason: str
) -> None:
    """No import goes up, and no module is without a layer."""
    module = service.engine / "scheduling" / file
    module.write_text(text + (module.read_text() if module.exists() else ""))

    done = service.run("lint-imports", "--no-cache", cwd=service.engine, check=False)

    assert done.returncode != 0
    assert reason in done.stdout


def test_the_engine_imports_nothing_of_the_service(service: Project) -> None:
    module = service.engine / "scheduling/runs/queries.py"
    module.write_text("import application.tasks  # noqa\n" + module.read_text())

    done = service.run("lint-imports", "--no-cache", check=False)

    assert done.returncode != 0
    assert "scheduling is not allowed to import application" in done.stdout


@pytest.mark.parametrize(
    ("name", "database"),
    [
        ("test_merge.py", "sqlite"),
        ("test_merge.py", "postgres"),
        ("test_fuzz.py", "sqlite"),
        pytest.param("test_fuzz.py", "postgres", marks=pytest.mark.xdist_group("fuzz")),
        ("test_upstream.py", "sqlite"),
        ("test_rabbitmq.py", "postgres"),
    ],
)
def test_the_engine_stands_what_the_template_does_to_it(
    service: Project, request: pytest.FixtureRequest, name: str, database: str
) -> None:
    """tests/live/inside: random histories, and the libraries' own text."""
    shutil.copy(TEMPLATE / "tests/live/inside" / name, service.engine / "tests")

    service.run(
        *"uv run --quiet --all-packages --all-extras --with hypothesis".split(),
        *f"python -m pytest -q tests/{name}".split(),
        env=url_of(database, request)
        | ({"RABBITMQ_URL": request.getfixturevalue("rabbitmq_url")} if "rabbit" in name else {}),
        cwd=service.engine,
    )


def url_of(database: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment for a new database; nothing for the default, SQLite."""
    return {} if database == "sqlite" else {"DATABASE_URL": request.getfixturevalue("postgres_url")}


# The environment

PACKAGES = """
import importlib.metadata as metadata, json
print(json.dumps(list(metadata.packages_distributions())))
"""


def test_every_package_that_is_installed_is_refused_as_a_slug(service: Project) -> None:
    """By the names that are imported; tests/generate/test_slugs.py has those of distributions."""
    names = json.loads(service.run("python", "-c", PACKAGES).stdout)

    assert possible_slugs(names) - set(listed("TAKEN")) == set()
