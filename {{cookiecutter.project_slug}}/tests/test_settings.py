"""What the settings say in another environment, and what they refuse."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axes.helpers import get_client_ip_address
from celery import Celery, current_app
from django.conf import settings as current
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory
from environs import Env
from pytest_django import Settings

MODULE = os.environ["DJANGO_SETTINGS_MODULE"]
PACKAGE = MODULE.partition(".")[0]
PRODUCTION = {
    "SECRET_KEY": "kF3-vX9_qLz2RbN7wYc5TgHs8JmPd4Ae6UoKi1ZxQvWnEyBtCjSfMhDrGaLpOu",
    "ALLOWED_HOSTS": "portal.example.com",
    "DATABASE_URL": "sqlite://:memory:",
    "CELERY_BROKER_URL": "redis://127.0.0.1:6379/0",
}
Load = Callable[..., Any]
Run = Callable[..., str]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the settings in an environment, without a .env."""

    def load(**environment: str) -> Any:
        with monkeypatch.context() as patch:
            for name in os.environ.keys() - {"PATH"}:
                patch.delenv(name)
            for name, text in environment.items():
                patch.setenv(name, text)
            patch.setattr(Env, "read_env", lambda *arguments, **options: None)
            package = importlib.import_module(PACKAGE)
            for name in ("environment", "settings"):
                patch.setattr(package, name, None, raising=False)  # put back afterwards
                patch.delitem(sys.modules, f"{PACKAGE}.{name}", raising=False)
            return importlib.import_module(MODULE)

    return load


def problems(load: Load, **environment: str) -> list[str]:
    """The variables that an environment is refused for."""
    with pytest.raises(ImproperlyConfigured) as error:
        load(**environment)
    lines = str(error.value).splitlines()
    return [line.strip().partition(":")[0] for line in lines if line.startswith("  ")]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs code in a process that has this environment only, in a copy that has no .env.

    Returns what it wrote.
    """
    shutil.copytree(Path(current.BASE_DIR) / PACKAGE, tmp_path / PACKAGE)

    def run(code: str, **environment: str) -> str:
        process = subprocess.run(  # noqa: S603
            [sys.executable, "-c", f"import django; django.setup()\n{code}"],
            cwd=tmp_path,
            env={
                "DJANGO_SETTINGS_MODULE": MODULE,
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join([str(current.BASE_DIR), *sys.path]),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout + process.stderr

    return run


def celery(settings: Any) -> Celery:
    app = Celery(set_as_current=False)
    app.config_from_object(settings, namespace="CELERY")
    return app


def test_crontabs_mean_local_time() -> None:
    assert str(current_app.timezone) == current.TIME_ZONE


@pytest.mark.parametrize(
    "name",
    [
        "scheduling.beat.scheduler:DatabaseScheduler",
        "django_celery_beat.schedulers:DatabaseScheduler",
    ],
)
def test_beats_scheduler_is_a_variable_away(load: Load, name: str) -> None:
    assert load(DEBUG="true", CELERY_BEAT_SCHEDULER=name).CELERY_BEAT_SCHEDULER == name
    assert load(DEBUG="true").CELERY_BEAT_SCHEDULER == "scheduling.beat.scheduler:DatabaseScheduler"


def test_production_names_all_that_is_missing_at_once(load: Load) -> None:
    assert set(problems(load)) == set(PRODUCTION)


@pytest.mark.parametrize("missing", PRODUCTION)
def test_production_needs_each_of_its_settings(load: Load, missing: str) -> None:
    others = {name: text for name, text in PRODUCTION.items() if name != missing}

    assert problems(load, **others) == [missing]


@pytest.mark.parametrize("name", PRODUCTION)
def test_production_takes_no_empty_setting(load: Load, name: str) -> None:
    assert problems(load, **PRODUCTION | {name: ""}) == [name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SECRET_KEY", "development-only"),
        ("SECRET_KEY", PRODUCTION["SECRET_KEY"][:49]),
        ("SECRET_KEY", "abcd" * 15),
        ("SECRET_KEY", "django-insecure-" + PRODUCTION["SECRET_KEY"]),
        ("EMAIL_URL", "console://"),
    ],
)
def test_production_takes_no_default_of_development(load: Load, name: str, text: str) -> None:
    refused = problems(load, **PRODUCTION | {name: text, "ALLOWED_HOSTS": ""})

    assert set(refused) == {name, "ALLOWED_HOSTS"}  # in one message
    assert load(DEBUG="true", **{name: text}).DEBUG


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("EMAIL_URL", ""),
        ("EMAIL_URL", "smtp.example.com"),
        ("EMAIL_URL", "imap://example.com"),
        ("CELERY_BROKER_URL", "redis.example.com"),
        ("CELERY_BROKER_URL", "memory://"),
        ("CELERY_BROKER_URL", "sqs://"),
        ("CELERY_BROKER_URL", "redis://127.0.0.1:many/0"),
        ("METRICS_NETWORKS", "10.0.0.1/8"),
        ("METRICS_NETWORKS", "10.0.0.0/8,everybody"),
        ("METRICS_NETWORKS", "*"),
        ("LOG_FORMAT", "xml"),
        ("HEALTH_FAILING_AFTER", "0"),
    ],
)
@pytest.mark.parametrize("debug", ["true", "false"])
def test_a_value_that_cannot_work_is_refused(load: Load, name: str, text: str, debug: str) -> None:
    assert problems(load, **PRODUCTION | {name: text, "DEBUG": debug}) == [name]


def test_blanks_in_a_list_are_not_part_of_its_items(load: Load) -> None:
    settings = load(
        **PRODUCTION
        | {
            "ALLOWED_HOSTS": "a.example.com, b.example.com",
            "CSRF_TRUSTED_ORIGINS": " https://a ",
            "METRICS_NETWORKS": "10.0.0.0/8,fd00::/8",
        }
    )

    assert settings.ALLOWED_HOSTS == ["a.example.com", "b.example.com"]
    assert settings.CSRF_TRUSTED_ORIGINS == ["https://a"]
    assert settings.METRICS_NETWORKS == ["10.0.0.0/8", "fd00::/8"]


def test_production_starts_when_it_has_its_settings(load: Load) -> None:
    settings = load(**PRODUCTION)

    assert (settings.DEBUG, settings.SESSION_COOKIE_SECURE) == (False, True)
    assert settings.METRICS_NETWORKS == []


def test_the_environment_wins_over_the_env_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEBUG=true\nLOG_LEVEL=ERROR\nSECRET_KEY=from-the-file\n")

    code = "from django.conf import settings as s\nprint(s.DEBUG, s.LOG_LEVEL, s.SECRET_KEY)"
    assert run(code, LOG_LEVEL="DEBUG") == "True DEBUG from-the-file\n"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"DEBUG": "true"}, "plain"),
        ({"DEBUG": "true", "LOG_FORMAT": "json"}, "json"),
        (PRODUCTION, "json"),
        (PRODUCTION | {"LOG_FORMAT": "plain"}, "plain"),
    ],
)
def test_logs_are_json_in_production_and_plain_in_development(
    load: Load, environment: dict[str, str], expected: str
) -> None:
    settings = load(**environment)

    assert settings.LOGGING["handlers"]["console"]["formatter"] == expected
    assert settings.LOG_FORMAT == expected  # which Celery's lines follow


def test_each_line_of_a_production_log_is_one_json_object(run: Run) -> None:
    code = """
import logging
logging.getLogger("app").warning("Two\\nlines")
logging.getLogger("django.request").warning("Not found")
"""
    written = run(code, **PRODUCTION)

    assert [json.loads(line)["message"] for line in written.splitlines()] == [
        "Two\nlines",
        "Not found",
    ]


SENTRY_DSN = "http://key@127.0.0.1:9/1"


def test_sentry_is_told_nothing_personal(run: Run) -> None:
    code = """
import json, sentry_sdk
options = sentry_sdk.get_client().options
names = ["dsn", "environment", "release", "send_default_pii", "include_local_variables"]
print(json.dumps([options[name] for name in [*names, "max_request_body_size"]]))
"""
    names = {"SENTRY_ENVIRONMENT": "staging", "SENTRY_RELEASE": "portal@1.2"}

    options = json.loads(run(code, **PRODUCTION, **names, SENTRY_DSN=SENTRY_DSN))

    assert options == [SENTRY_DSN, "staging", "portal@1.2", False, False, "never"]


def test_without_a_dsn_there_is_no_sentry(run: Run) -> None:
    assert run("import sys; print('sentry_sdk' in sys.modules)", **PRODUCTION) == "False\n"


def test_a_dsn_without_sentrys_package_is_refused(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)

    assert problems(load, **PRODUCTION, SENTRY_DSN=SENTRY_DSN) == ["SENTRY_DSN"]


@pytest.mark.parametrize(
    ("cache", "refused"),
    [
        ("redis://127.0.0.1:6379/0", True),
        ("redis://127.0.0.1", True),
        ("redis://localhost:6379/0", True),
        ("redis://127.0.0.1:6379/0/prefix", True),
        ("redis://:password@127.0.0.1/0", True),
        ("redis://127.0.0.1:6379/1", False),
        ("redis://127.0.0.2:6379/0", False),
        ("locmem://", False),
    ],
)
def test_a_cache_in_the_brokers_redis_database_is_refused(
    load: Load, cache: str, refused: bool
) -> None:
    if refused:
        with pytest.raises(ImproperlyConfigured, match="name the same Redis database"):
            load(**PRODUCTION, CACHE_URL=cache)
    else:
        load(**PRODUCTION, CACHE_URL=cache)


@pytest.mark.parametrize(
    ("broker", "expected"),
    [
        ("redis://127.0.0.1:6379/0", None),
        ("rediss://127.0.0.1:6379/0", {"ssl_cert_reqs": 2}),  # ssl.CERT_REQUIRED
        ("amqp://guest:guest@127.0.0.1//", None),
        ("amqps://guest:guest@127.0.0.1//", {"cert_reqs": 2, "server_hostname": None}),
    ],
)
def test_a_broker_with_tls_must_show_its_certificate(
    load: Load, broker: str, expected: Any
) -> None:
    settings = load(**PRODUCTION | {"CELERY_BROKER_URL": broker})

    assert celery(settings).conf.broker_use_ssl == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://db.example.com/portal", ["verify-full", "system"]),
        ("postgres://db.example.com/portal?sslrootcert=/ca.pem", ["verify-full", "/ca.pem"]),
        ("postgres://db.example.com/portal?sslmode=disable", ["disable", None]),
        ("postgres://db.example.com/portal?sslmode=require", ["require", None]),
        ("postgres://127.0.0.1/portal", [None, None]),
        ("postgres://localhost/portal", [None, None]),
    ],
)
def test_a_postgres_elsewhere_must_show_its_certificate(
    load: Load, url: str, expected: list[str | None]
) -> None:
    settings = load(**PRODUCTION | {"DATABASE_URL": url})

    options = settings.DATABASES["default"].get("OPTIONS", {})
    assert [options.get("sslmode"), options.get("sslrootcert")] == expected


@pytest.mark.parametrize(
    ("proxy", "header", "expected"),
    [
        ("true", "198.51.100.1", "198.51.100.1"),
        ("true", "203.0.113.9, 198.51.100.1", "198.51.100.1"),  # the first is a claim
        ("true", "", "192.0.2.1"),
        ("false", "198.51.100.1", "192.0.2.1"),
    ],
)
def test_a_client_is_who_the_proxy_saw(
    load: Load, settings: Settings, proxy: str, header: str, expected: str
) -> None:
    loaded = load(**PRODUCTION, BEHIND_PROXY=proxy)
    settings.AXES_CLIENT_IP_CALLABLE = getattr(loaded, "AXES_CLIENT_IP_CALLABLE", None)
    request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR=header)

    assert get_client_ip_address(request) == expected


def test_sqlite_lets_readers_go_on_and_writers_wait(run: Run) -> None:
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
    assert run(code, DEBUG="true") == "wal True\n"
