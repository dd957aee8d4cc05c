"""What probes are told, and that nobody can make them wait."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import current_app
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from pytest_django import Settings

from scheduling.monitoring import health

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")  # where collectstatic has not run
NOTHING = "no answer within 2 s"


@pytest.fixture
def client(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A probe's: by IP address and plain HTTP, in production."""
    settings.SECURE_SSL_REDIRECT = True
    settings.ALLOWED_HOSTS = ["portal.example.com"]
    monkeypatch.setattr(health, "last_checks", {})
    monkeypatch.setattr(health, "TIME_LIMIT", 10.0)
    return Client(raise_request_exception=False, headers={"host": "10.1.2.3:8000"})


@pytest.fixture
def hanging() -> Iterator[int]:
    """A port that takes connections and never says a word, as a process under SIGSTOP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed(hanging: int) -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def set_broker(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(current_app.conf, "broker_write_url", url)


def set_postgres(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    settings: Any = connections.settings
    server = {"HOST": "127.0.0.1", "PORT": port, "USER": "ada", "PASSWORD": "secret"}
    other = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}, **server}
    monkeypatch.setitem(settings, "default", settings["default"] | other)


def test_it_is_alive_without_any_query(client: Client) -> None:
    response = client.get("/health/live")  # pytest-django lets nobody near the database here

    assert (response.status_code, response.json()) == (200, {"process": "ok"})


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/health/live", "/health/schedules", "/metrics"])
def test_an_answer_has_the_security_headers_of_all_others(
    client: Client, settings: Settings, path: str
) -> None:
    settings.SECURE_HSTS_SECONDS, settings.METRICS_NETWORKS = 3600, ["0.0.0.0/0"]

    response = client.get(path, secure=True)

    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Strict-Transport-Security"] == "max-age=3600"
    assert "Strict-Transport-Security" not in client.get(path).headers  # over plain HTTP


@pytest.mark.django_db(transaction=True)
def test_it_is_ready_if_database_and_broker_answer(client: Client) -> None:
    response = client.get("/health/ready")

    assert (response.status_code, response.json()) == (200, {"database": "ok", "broker": "ok"})


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
@pytest.mark.django_db(transaction=True)
def test_answers_are_read_only_and_never_kept(client: Client, path: str) -> None:
    response = client.head(path)

    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    assert not response.cookies
    assert client.post(path).status_code == 405


@pytest.mark.parametrize(
    ("path", "status"), [("/", 400), ("/health/other", 400), ("/metrics-report", 400)]
)
def test_nothing_else_is_open_to_other_hosts(client: Client, path: str, status: int) -> None:
    assert client.get(path).status_code == status


@pytest.mark.django_db
def test_a_page_of_the_project_below_health_has_its_middleware(
    client: Client, settings: Settings
) -> None:
    settings.ALLOWED_HOSTS = ["*"]

    assert client.get("/health/team", secure=True).text == "AnonymousUser"


@pytest.mark.django_db(transaction=True)
def test_it_is_not_ready_before_migrate(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    migration = MigrationRecorder.Migration.objects.filter(app="scheduling").latest("pk")
    migration.delete()
    try:
        response = client.get("/health/ready")
    finally:
        migration.save()

    assert response.status_code == 503
    assert response.json() == {"database": "migrations not applied: 1", "broker": "ok"}
    assert "health: database: migrations not applied: 1" in caplog.text


@pytest.mark.parametrize(
    ("url", "why"),
    [("redis://:secret@127.0.0.1", "ConnectionError"), ("amqp://ada:secret@127.0.0.1", "Refused")],
)
@pytest.mark.django_db(transaction=True)
def test_a_broker_that_is_away_is_named_and_its_url_is_not(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    closed: int,
    url: str,
    why: str,
) -> None:
    client.get("/health/ready")  # whatever is imported at the first time
    monkeypatch.setattr(health, "TIME_LIMIT", 1.5)
    set_broker(monkeypatch, f"{url}:{closed}")

    response = client.get("/health/ready")

    assert response.status_code == 503
    assert response.json()["database"] == "ok"
    assert why in response.json()["broker"]
    assert "127.0.0.1" not in response.text
    assert "refused" in caplog.text  # the log has the rest ...
    assert "secret" not in response.text + caplog.text  # ... but for this


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_is_named_and_its_url_is_not(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closed: int
) -> None:
    set_postgres(monkeypatch, closed)

    response = client.get("/health/ready")

    assert response.status_code == 503
    assert response.json() == {"database": "OperationalError", "broker": "ok"}
    assert "refused" in caplog.text
    assert "secret" not in caplog.text
    assert client.get("/health/live").status_code == 200
    response = client.get("/health/schedules")
    assert (response.status_code, response.json()) == (503, {"database": "OperationalError"})


@pytest.mark.parametrize("scheme", ["redis", "rediss", "amqp", "amqps"])
@pytest.mark.django_db(transaction=True)
@pytest.mark.filterwarnings("ignore:Secure redis scheme")
def test_a_broker_that_hangs_holds_up_no_probe(
    client: Client, monkeypatch: pytest.MonkeyPatch, hanging: int, scheme: str
) -> None:
    client.get("/health/ready")
    monkeypatch.setattr(health, "TIME_LIMIT", 2.0)
    set_broker(monkeypatch, f"{scheme}://127.0.0.1:{hanging}")

    start = time.monotonic()
    response = client.get("/health/ready")

    assert time.monotonic() - start < 10
    assert response.json() == {"database": "ok", "broker": NOTHING}


@pytest.mark.django_db(transaction=True)
def test_a_database_that_hangs_holds_up_one_thread_however_many_probes_come(
    client: Client, monkeypatch: pytest.MonkeyPatch, hanging: int
) -> None:
    client.get("/health/ready")
    monkeypatch.setattr(health, "TIME_LIMIT", 2.0)
    set_postgres(monkeypatch, hanging)

    assert client.get("/health/ready").json() == {"database": NOTHING, "broker": "ok"}
    waiting = health.last_checks["database"]
    assert client.get("/health/ready").json() == {"database": NOTHING, "broker": "ok"}
    assert client.get("/health/schedules").json() == {"database": NOTHING}

    assert health.last_checks["database"] is waiting
