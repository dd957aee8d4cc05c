"""Whoever can ask a worker for its settings learns no secret."""

from typing import Any

import pytest
from celery import Celery
from celery.worker.control import Panel

SETTINGS: dict[str, Any] = {
    "SECRET_KEY": "hidden-1",
    "CACHES": {"default": {"LOCATION": "rediss://:hidden-2@cache.example.com:6379/1"}},
    "DATABASES": {"default": {"PASSWORD": "hidden-3", "OPTIONS": {"options": "hidden-4"}}},
    "SENTRY_DSN": "https://hidden-5@sentry.example.com/1",
    "CELERY_BROKER_URL": "amqp://hidden-6:hidden-7@a.example.com//",
    "CELERY_BROKER_READ_URL": ["redis://:hidden-9@a.example.com/0"],
    "CELERY_BROKER_TRANSPORT_OPTIONS": {
        "sentinel_kwargs": {"password": "hidden-10", "proxy": "socks5://user:hidden-11@proxy"}
    },
    "CELERY_RESULT_BACKEND": "db+postgresql://hidden-12@db.example.com/results?password=hidden-8",
    "CELERY_TASK_DEFAULT_QUEUE": "shop",
}


class State:
    app = Celery(set_as_current=False)


State.app.config_from_object(SETTINGS, namespace="CELERY")


@pytest.mark.parametrize("with_defaults", [False, True])
def test_a_worker_shows_celerys_settings_and_no_secret(with_defaults: bool) -> None:
    shown = Panel.data["conf"](State, with_defaults=with_defaults)

    assert "hid" not in str(shown)
    assert shown["CELERY_TASK_DEFAULT_QUEUE"] == "shop"
    assert shown["CELERY_BROKER_READ_URL"] == ["redis://a.example.com/0"]
    assert shown["CELERY_RESULT_BACKEND"] == "db+postgresql://db.example.com/results"


def test_a_report_for_others_shows_no_secret() -> None:
    assert "hid" not in State.app.conf.humanize()


def test_the_process_itself_sees_all() -> None:
    assert State.app.conf.table(censored=False)["SECRET_KEY"] == "hidden-1"
