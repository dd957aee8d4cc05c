"""What the settings say in another environment, and what they refuse."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, current_app
from django.conf import settings as current
from django.core.exceptions import ImproperlyConfigured
from environs import Env

MODULE = os.environ["DJANGO_SETTINGS_MODULE"]
PACKAGE = MODULE.partition(".")[0]
PRODUCTION = {
    "SECRET_KEY": "kF3-vX9_qLz2RbN7wYc5TgHs8JmPd4Ae6UoKi1ZxQvWnEyBtCjSfMhDrGaLpOu",
    "ALLOWED_HOSTS": "portal.example.com",
    "DATABASE_URL": "sqlite://:memory:",
    "CELERY_BROKER_URL": "redis://127.0.0.1:6379/0",
}
Load = Callable[..., Any]


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
    assert "secret" not in str(error.value)
    lines = str(error.value).splitlines()
    return [line.strip().partition(":")[0] for line in lines if line.startswith("  ")]


def test_crontabs_mean_local_time() -> None:
    assert str(current_app.timezone) == current.TIME_ZONE


def test_beats_scheduler_is_a_variable_away(load: Load) -> None:
    stock = "django_celery_beat.schedulers:DatabaseScheduler"

    assert load(DEBUG="true", CELERY_BEAT_SCHEDULER=stock).CELERY_BEAT_SCHEDULER == stock
    assert load(DEBUG="true").CELERY_BEAT_SCHEDULER == "scheduling.beat.scheduler:DatabaseScheduler"


def test_production_names_all_that_is_missing_at_once(load: Load) -> None:
    assert set(problems(load)) == set(PRODUCTION)


@pytest.mark.parametrize("name", PRODUCTION)
def test_production_needs_each_of_its_settings(load: Load, name: str) -> None:
    others = {other: text for other, text in PRODUCTION.items() if other != name}

    assert problems(load, **others) == problems(load, **others, **{name: ""}) == [name]


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
        ("CELERY_BROKER_URL", "redis://:secret/@127.0.0.1/0"),  # of which urllib makes the port
        ("CELERY_BROKER_URL", "redis://:secret[@127.0.0.1/0"),
        ("CACHE_URL", "redis://:secret#@127.0.0.1/1"),
        ("EMAIL_URL", "smtp://user:secret[@127.0.0.1"),
        ("SENTRY_DSN", "https://key:secret/@127.0.0.1/1"),
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
    lists = {
        "ALLOWED_HOSTS": "a.example.com, b.example.com",
        "CSRF_TRUSTED_ORIGINS": " https://a ",
        "METRICS_NETWORKS": "10.0.0.0/8,fd00::/8",
    }
    settings = load(**PRODUCTION | lists)

    assert settings.ALLOWED_HOSTS == ["a.example.com", "b.example.com"]
    assert settings.CSRF_TRUSTED_ORIGINS == ["https://a"]
    assert settings.METRICS_NETWORKS == ["10.0.0.0/8", "fd00::/8"]


def test_production_starts_when_it_has_its_settings(load: Load) -> None:
    settings = load(**PRODUCTION)

    assert (settings.DEBUG, settings.SESSION_COOKIE_SECURE) == (False, True)
    assert settings.METRICS_NETWORKS == []


def test_gunicorn_refuses_the_debug_of_development(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gunicorn", None)

    assert problems(load, **PRODUCTION, DEBUG="true") == ["DEBUG"]
    assert not load(**PRODUCTION).DEBUG


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


SENTRY_DSN = "http://key@127.0.0.1:9/1"


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
    app = Celery(set_as_current=False)
    app.config_from_object(load(**PRODUCTION | {"CELERY_BROKER_URL": broker}), namespace="CELERY")

    assert app.conf.broker_use_ssl == expected


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
