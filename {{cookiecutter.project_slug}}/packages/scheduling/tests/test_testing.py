"""The pytest plugin: a suite of its own runs with a real server as the broker of its settings."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from celery import current_app
from django.db import transaction
from redis import Redis

from scheduling.broker import server as broker
from scheduling.testing import SentTask
from tests.project.tasks import remind

SUITE = """
import threading

import pytest
from celery import Celery, current_app, shared_task
from kombu import Connection
from django.db import transaction
from redis import Redis

from scheduling.broker.waiting import LongWait

early = current_app.connection_for_write().connect()  # when the suite is collected
REDIS = "redis+socket://{socket}"
OWN = "redis+socket://{socket}?virtual_host=1"


@shared_task(ignore_result=False)
def add(a, b):
    return a + b


def arrived():
    return [key for key in Redis(unix_socket_path="{socket}").keys()]


def test_delay():
    add.delay(1, 2)
    add.apply_async((1, 2), queue="long")
    current_app.send_task("some.task", [1], queue="other")
    (add.s(1, 2) | add.s(3)).delay()
    assert arrived() == []


def test_a_thread_and_connections_made_earlier():
    producer = current_app.amqp.Producer(early.client.default_channel)
    producer.publish({{}}, routing_key="celery")
    thread = threading.Thread(target=add.delay, args=(1, 2))
    thread.start()
    thread.join()
    Connection(REDIS).SimpleQueue("celery").put("by hand")
    assert arrived() == []


def test_results_stay_here():
    result = add.delay(1, 2)
    add.backend.store_result(result.id, 3, "SUCCESS")
    assert result.get(timeout=10) == 3
    assert arrived() == []


def test_what_one_test_sends_is_not_the_next_ones():
    assert current_app.connection_for_write().SimpleQueue("celery").qsize() == 0


def test_what_the_real_broker_refuses_is_refused(sent_tasks):
    with pytest.raises(LongWait):
        add.apply_async((1, 2), countdown=4000)
    assert sent_tasks == []


def test_a_broker_of_the_tests_own_is_reached():
    with Celery(broker=OWN, set_as_current=False) as own:
        own.send_task("some.task")
    assert arrived() == []
    assert Redis(unix_socket_path="{socket}", db=1).llen("celery") == 1


def test_a_setting_of_the_tests_own_is_used(monkeypatch):
    monkeypatch.setitem(current_app.conf, "broker_url", OWN)
    current_app.connection_for_write().SimpleQueue("own").put("by hand")
    with Connection(REDIS) as connection:
        connection.SimpleQueue("celery").put("by hand")
    assert arrived() == []
    assert Redis(unix_socket_path="{socket}", db=1).llen("own") == 1
"""
SETTINGS = """
from tests.project.settings import *
CELERY_BROKER_URL = "redis+socket://{socket}"
CELERY_RESULT_BACKEND = CELERY_BROKER_URL
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    """The socket of a real server."""
    broker.start(tmp_path)
    socket = broker.socket_path(tmp_path)
    with Redis(unix_socket_path=str(socket)) as client:
        client.ping()  # it stays while there is a client
        yield socket
    broker.stop_if_idle(tmp_path)


# Celery prefers the environment to what a test says.
@pytest.mark.parametrize(
    ("named_by", "only"), [("settings", "test"), ("environment", "not tests_own")]
)
def test_nothing_reaches_the_broker_of_the_settings(
    server: Path, tmp_path: Path, named_by: str, only: str
) -> None:
    url = f"redis+socket://{server}"
    (tmp_path / "suite_settings.py").write_text(SETTINGS.format(socket=server))
    (tmp_path / "test_suite.py").write_text(SUITE.format(socket=server))
    variables = {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
    env = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("CELERY_", "PYTEST_"))
    }
    settings = "suite_settings" if named_by == "settings" else "tests.project.settings"
    paths = f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"
    ran = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        + ["--rootdir", str(tmp_path), "--ds", settings, "-k", only, str(tmp_path)],
        cwd=tmp_path,
        env=env | {"PYTHONPATH": paths} | (variables if named_by == "environment" else {}),
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    with Redis(unix_socket_path=str(server)) as client:
        assert client.dbsize() == 0


@pytest.mark.parametrize("is_eager_suite", [False, True])
def test_what_was_sent_is_seen(is_eager_suite: bool, request: pytest.FixtureRequest) -> None:
    if is_eager_suite:
        request.getfixturevalue("eager_tasks")
    sent_tasks: list[SentTask] = request.getfixturevalue("sent_tasks")

    remind.delay("a@example.com")
    remind.apply_async(kwargs={"recipient": "b@example.com"}, queue="long")
    current_app.send_task("some.task", [1])

    assert sent_tasks == [
        SentTask("tests.project.tasks.remind", ["a@example.com"], {}, "celery"),
        SentTask("tests.project.tasks.remind", [], {"recipient": "b@example.com"}, "long"),
        SentTask("some.task", [1], {}, "celery"),
    ]


@pytest.mark.usefixtures("eager_tasks")
def test_tasks_run_where_they_are_sent() -> None:
    @current_app.task(name="tests.divide")
    def divide(number: int, by: int) -> float:
        return number / by

    assert divide.delay(6, 3).get() == 2
    assert current_app.send_task("tests.divide", [6, 2], queue="long").get() == 3
    with pytest.raises(ZeroDivisionError):
        divide.delay(1, 0)


@pytest.mark.django_db(transaction=True)
def test_a_task_is_sent_after_the_commit(sent_tasks: list[SentTask]) -> None:
    """mypy passes each of these only with the engine's plugin, but for the first."""
    with transaction.atomic():
        transaction.on_commit(partial(remind.delay, "a@example.com"))
        remind.delay_on_commit("b@example.com")
        remind.apply_async_on_commit(args=["c@example.com"], queue="long")
        assert sent_tasks == []

    assert [sent.args[0][0] for sent in sent_tasks] == ["a", "b", "c"]
    assert remind.apply(args=["d@example.com"]).get() is None


def test_without_a_fixture_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remind, "run", lambda recipient: pytest.fail("it ran"))

    remind.delay("a@example.com")
