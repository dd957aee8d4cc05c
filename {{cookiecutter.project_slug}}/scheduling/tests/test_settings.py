"""What is in force: in Celery, and in a service that starts in another environment."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from celery.fixups.django import DjangoFixup
from django.conf import settings

MODULE = os.environ["DJANGO_SETTINGS_MODULE"]
PACKAGE = MODULE.partition(".")[0]
PRODUCTION = {
    "SECRET_KEY": "kF3-vX9_qLz2RbN7wYc5TgHs8JmPd4Ae6UoKi1ZxQvWnEyBtCjSfMhDrGaLpOu",
    "ALLOWED_HOSTS": "portal.example.com",
    "DATABASE_URL": "sqlite://:memory:",
    "CELERY_BROKER_URL": "redis://127.0.0.1:6379/0",
}

STOCK_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs code in a service that has this environment only, in a copy that has no .env."""
    shutil.copytree(Path(settings.BASE_DIR) / PACKAGE, tmp_path / PACKAGE)

    def run(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # noqa: S603
            [sys.executable, "-c", f"import django; django.setup()\n{code}"],
            cwd=tmp_path,
            env={
                "DJANGO_SETTINGS_MODULE": MODULE,
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(settings.BASE_DIR),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def value(run: Run, code: str, **environment: str) -> Any:
    """What an expression is worth in there, after the statements before it."""
    *statements, expression = code.strip().splitlines()
    lines = [*statements, "import json", f"print(json.dumps({expression}))"]
    process = run("\n".join(lines), **environment)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accept_content", ["json"]),
        ("task_serializer", "json"),
        ("result_serializer", "json"),
        ("worker_prefetch_multiplier", 1),
        ("broker_connection_retry_on_startup", True),
        ("beat_enable_remote_control", True),
        ("beat_cron_starting_deadline", 3600),
        ("worker_soft_shutdown_timeout", 30),
        ("task_acks_late", True),
        ("task_reject_on_worker_lost", True),
        ("worker_cancel_long_running_tasks_on_connection_loss", True),
        ("task_always_eager", False),
        ("task_ignore_result", True),
        ("enable_utc", True),
        ("timezone", settings.TIME_ZONE),
    ],
)
def test_celery_is_configured(name: str, expected: Any) -> None:
    assert getattr(current_app.conf, name) == expected


def test_crontabs_mean_local_time() -> None:
    assert str(current_app.timezone) == settings.TIME_ZONE


@pytest.mark.parametrize("broker", ["", "redis://127.0.0.1/0", "rediss://127.0.0.1/0"])
def test_no_task_that_runs_or_waits_for_a_retry_is_delivered_again(run: Run, broker: str) -> None:
    options, soft, hard, countdown = value(
        run,
        """
from celery import current_app as app
app.loader.import_default_modules()
countdown = max(getattr(task, "retry_backoff_max", 0) for task in app.tasks.values())
limits = [app.conf.task_soft_time_limit, app.conf.task_time_limit]
[app.connection_for_write().transport_options, *limits, countdown]
""",
        DEBUG="true",
        CELERY_BROKER_URL=broker,
    )

    assert 0 < soft < hard
    assert 0 < countdown
    assert hard + countdown < options["visibility_timeout"]
    assert options["unacked_restore_interval"] * options["unacked_restore_throttle"] <= 10
    assert options["socket_timeout"] > options["health_check_interval"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "scheduling.scheduler:DatabaseScheduler"),
        *[({"CELERY_BEAT_SCHEDULER": name}, name) for name in (STOCK_SCHEDULER, "celery:other")],
    ],
)
def test_beats_scheduler_is_a_variable_away(
    run: Run, environment: dict[str, str], expected: str
) -> None:
    code = "from celery import current_app\ncurrent_app.conf.beat_scheduler"

    assert value(run, code, DEBUG="true", **environment) == expected


def test_workers_keep_their_database_connection() -> None:
    fixup: Any = DjangoFixup(current_app).worker_fixup

    assert fixup.db_reuse_max == settings.CELERY_DB_REUSE_MAX  # this name is read past Celery's own


def test_production_says_all_that_is_missing_at_once(run: Run) -> None:
    process = run("")

    assert process.returncode != 0
    message = process.stderr.partition("ImproperlyConfigured: ")[2]
    assert all(f"  {name}: " in message for name in PRODUCTION)


@pytest.mark.parametrize("missing", PRODUCTION)
def test_production_needs_each_of_its_settings(run: Run, missing: str) -> None:
    process = run("", **{name: text for name, text in PRODUCTION.items() if name != missing})

    message = process.stderr.partition("ImproperlyConfigured: ")[2]
    assert [name for name in PRODUCTION if f"  {name}: " in message] == [missing]


@pytest.mark.parametrize("name", PRODUCTION)
def test_production_takes_no_empty_setting(run: Run, name: str) -> None:
    process = run("", **PRODUCTION | {name: ""})

    assert f"  {name}: " in process.stderr.partition("ImproperlyConfigured: ")[2]


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
def test_production_takes_no_default_of_development(run: Run, name: str, text: str) -> None:
    refused = run("", ALLOWED_HOSTS="", **{name: text})
    development = run("", DEBUG="true", **{name: text})

    message = refused.stderr.partition("ImproperlyConfigured: ")[2]
    assert f"  {name}: " in message
    assert "  ALLOWED_HOSTS: " in message  # in the same breath
    assert development.returncode == 0, development.stderr


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
    ],
)
@pytest.mark.parametrize("debug", ["true", "false"])
def test_what_is_no_url_of_its_kind_is_refused(run: Run, name: str, text: str, debug: str) -> None:
    process = run("", **PRODUCTION | {name: text, "DEBUG": debug})

    assert f"  {name}: " in process.stderr.partition("ImproperlyConfigured: ")[2]


def test_blanks_in_a_list_are_none_of_its_items(run: Run) -> None:
    code = "from django.conf import settings as s\n[s.ALLOWED_HOSTS, s.CSRF_TRUSTED_ORIGINS]"
    lists = {"ALLOWED_HOSTS": "a.example.com, b.example.com", "CSRF_TRUSTED_ORIGINS": " https://a "}

    found = value(run, code, **PRODUCTION | lists)

    assert found == [["a.example.com", "b.example.com"], ["https://a"]]


@pytest.mark.parametrize("networks", ["10.0.0.1/8", "10.0.0.0/8,everybody", "*"])
def test_what_is_no_network_is_refused(run: Run, networks: str) -> None:
    process = run("", **PRODUCTION, METRICS_NETWORKS=networks)

    assert "  METRICS_NETWORKS: " in process.stderr.partition("ImproperlyConfigured: ")[2]


def test_networks_are_read(run: Run) -> None:
    code = "from django.conf import settings\nsettings.METRICS_NETWORKS"

    assert value(run, code, **PRODUCTION) == []
    networks = {"METRICS_NETWORKS": "10.0.0.0/8,fd00::/8"}
    assert value(run, code, **PRODUCTION, **networks) == ["10.0.0.0/8", "fd00::/8"]


def test_production_starts_when_it_has_its_settings(run: Run) -> None:
    debug, secure = value(
        run,
        "from django.conf import settings\n[settings.DEBUG, settings.SESSION_COOKIE_SECURE]",
        **PRODUCTION,
    )

    assert (debug, secure) == (False, True)


def test_the_environment_wins_over_the_env_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEBUG=true\nLOG_LEVEL=ERROR\nSECRET_KEY=from-the-file\n")

    found = value(
        run,
        "from django.conf import settings as s\n[s.DEBUG, s.LOG_LEVEL, s.SECRET_KEY]",
        LOG_LEVEL="DEBUG",
    )

    assert found == [True, "DEBUG", "from-the-file"]


SAY = """
import logging
logging.getLogger("app").warning("Two\\nlines")
logging.getLogger("django.request").warning("Not found")
"""


@pytest.mark.parametrize(
    ("environment", "is_json"),
    [
        ({"DEBUG": "true"}, False),
        ({"DEBUG": "true", "LOG_FORMAT": "json"}, True),
        (PRODUCTION, True),
        (PRODUCTION | {"LOG_FORMAT": "plain"}, False),
    ],
)
def test_logs_are_json_in_production_and_plain_in_development(
    run: Run, environment: dict[str, str], is_json: bool
) -> None:
    written = run(SAY, **environment).stderr

    assert written.count("Not found") == 1
    if is_json:
        lines = [json.loads(line)["message"] for line in written.splitlines()]
        assert lines == ["Two\nlines", "Not found"]
    else:
        assert " WARNING app: Two\nlines\n" in written


def test_a_log_format_that_there_is_not_is_refused(run: Run) -> None:
    assert "  LOG_FORMAT: Must be json or plain." in run("", **PRODUCTION, LOG_FORMAT="xml").stderr


SENTRY_DSN = "http://key@127.0.0.1:9/1"


def test_sentry_is_told_nothing_personal(run: Run) -> None:
    code = """
import sentry_sdk
options = sentry_sdk.get_client().options
names = ["dsn", "environment", "release", "send_default_pii", "include_local_variables"]
[options[name] for name in [*names, "max_request_body_size"]]
"""
    names = {"SENTRY_ENVIRONMENT": "staging", "SENTRY_RELEASE": "portal@1.2"}

    options = value(run, code, **PRODUCTION, **names, SENTRY_DSN=SENTRY_DSN)

    assert options == [SENTRY_DSN, "staging", "portal@1.2", False, False, "never"]


def test_without_a_dsn_there_is_no_sentry(run: Run) -> None:
    assert value(run, "import sys\n'sentry_sdk' in sys.modules", **PRODUCTION) is False


def test_a_dsn_without_sentrys_package_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['sentry_sdk'] = None\n")
    path = f"{tmp_path}:{settings.BASE_DIR}"

    process = run("", **PRODUCTION, SENTRY_DSN=SENTRY_DSN, PYTHONPATH=path)

    assert process.returncode != 0
    assert "  SENTRY_DSN: Needs the extra: uv sync --no-dev --all-extras." in process.stderr


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
    run: Run, cache: str, refused: bool
) -> None:
    process = run("", **PRODUCTION, CACHE_URL=cache)

    assert ("name the same Redis database" in process.stderr) is refused
    assert (process.returncode != 0) is refused


def test_a_redis_with_tls_must_show_its_certificate(run: Run) -> None:
    environment = PRODUCTION | {"CELERY_BROKER_URL": "rediss://127.0.0.1:6379/0"}
    code = "from celery import current_app\ncurrent_app.connection_for_write().ssl"

    assert value(run, code, **environment) == {"ssl_cert_reqs": 2}  # ssl.CERT_REQUIRED


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
    run: Run, url: str, expected: list[str | None]
) -> None:
    code = """
from django.conf import settings
options = settings.DATABASES["default"].get("OPTIONS", {})
[options.get("sslmode"), options.get("sslrootcert")]
"""

    assert value(run, code, **PRODUCTION | {"DATABASE_URL": url}) == expected


@pytest.mark.parametrize(
    ("proxy", "header", "expected"),
    [
        ("true", "198.51.100.1", "198.51.100.1"),
        ("true", "203.0.113.9, 198.51.100.1", "198.51.100.1"),  # the first is a claim
        ("true", "", "192.0.2.1"),
        ("false", "198.51.100.1", "192.0.2.1"),
    ],
)
def test_a_client_is_who_the_proxy_saw(run: Run, proxy: str, header: str, expected: str) -> None:
    code = f"""
from axes.helpers import get_client_ip_address
from django.test import RequestFactory
request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR="{header}")
get_client_ip_address(request)
"""

    assert value(run, code, **PRODUCTION, BEHIND_PROXY=proxy) == expected


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_rabbitmq_confirms_what_it_has_taken(run: Run, scheme: str) -> None:
    environment = PRODUCTION | {"CELERY_BROKER_URL": f"{scheme}://guest:guest@127.0.0.1//"}
    code = "from celery import current_app\ncurrent_app.connection_for_write().transport_options"

    assert value(run, code, **environment)["confirm_publish"] is True


def test_sqlite_lets_readers_go_on_and_writers_wait(run: Run) -> None:
    journal, immediate = value(
        run,
        """
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
[journal, immediate]
""",
        DEBUG="true",
    )

    assert (journal, immediate) == ("wal", True)
