"""What is in force in Celery where settings star the defaults."""

from typing import Any

import pytest
from celery import Celery, current_app
from celery.fixups.django import DjangoFixup
from django.conf import settings

from scheduling import defaults
from scheduling.conf import Conf, conf


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
        ("task_ignore_result", False),
        ("result_expires", 86_400),
        ("enable_utc", True),
    ],
)
def test_celery_is_configured(name: str, expected: Any) -> None:
    assert getattr(current_app.conf, name) == expected


def test_workers_keep_their_database_connection() -> None:
    fixup: Any = DjangoFixup(current_app).worker_fixup

    assert fixup.db_reuse_max == settings.CELERY_DB_REUSE_MAX  # this name is read past Celery's own


def options(broker_url: str) -> dict[str, Any]:
    """The transport options of a connection to a broker, with the defaults."""
    app = Celery(set_as_current=False, broker=broker_url)
    app.config_from_object(defaults, namespace="CELERY")
    return dict(app.connection_for_write().transport_options or {})


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_redis_delivers_again_what_a_dead_worker_had(scheme: str) -> None:
    found = options(f"{scheme}://127.0.0.1/0")

    assert found["unacked_restore_interval"] * found["unacked_restore_throttle"] <= 10
    assert found["socket_timeout"] > found["health_check_interval"]


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_rabbitmq_confirms_what_it_has_taken(scheme: str) -> None:
    assert options(f"{scheme}://guest:guest@127.0.0.1//")["confirm_publish"] is True


def test_a_setting_of_the_engine_is_djangos_else_its_default(settings: Any) -> None:
    assert conf.LATE_AFTER == Conf.LATE_AFTER == 60

    settings.LATE_AFTER = 5

    assert (conf.LATE_AFTER, Conf.LATE_AFTER) == (5, 60)
    with pytest.raises(AttributeError):
        getattr(conf, "LATE_AFTR")  # noqa: B009
