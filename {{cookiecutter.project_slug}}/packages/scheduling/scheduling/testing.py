"""A pytest plugin: no test sends a task to the broker of the settings, or reads its results.

pytest loads it wherever the engine is installed. Connections to the broker and the result backend
that the settings name lead to ones in memory, for all of Celery's apps and in all threads. Any
other broker, which a test has made, is reached as usual. Two fixtures say what becomes of tasks:

- ``sent_tasks``: the list of what the test has sent; nothing runs.
- ``eager_tasks``: each task runs where it is sent, and raises there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue
from typing import Any

import pytest
from celery import Celery, current_app, signals
from celery.app import backends
from django.conf import settings
from kombu import Connection
from kombu.transport import memory, redis, virtual

from scheduling.broker.waiting import RefusesLongWaits

NO_TIMEOUT = float("inf")

Address = tuple[Any, ...]


class Channel(RefusesLongWaits, memory.Channel):
    """A channel in memory that takes what the real broker takes."""

    queues: dict[str, "Queue[Any]"] = {}  # its own: a test may use memory:// itself

    @property
    def visibility_timeout(self) -> float:
        client: Any = self.connection.client
        if client.transport_cls not in ("redis", "rediss", "embedded"):
            return NO_TIMEOUT
        default = redis.Channel.visibility_timeout
        return float(client.transport_options.get("visibility_timeout", default))


class Transport(memory.Transport):
    Channel = Channel
    global_state = virtual.BrokerState()


class Shield:
    """Leads connections to the settings' broker and result backend into memory."""

    def __init__(self) -> None:
        self.brokers: set[Address] = set()
        self.backends: set[str] = set()
        self.is_learning = True  # until the first test, which may change Celery's settings
        self.undo: list[Callable[[], None]] = []

    def install(self) -> None:
        """Change kombu and Celery, until ``remove``."""
        if self.undo:
            return
        connections: Any = Connection
        get_transport_cls, by_url = connections.get_transport_cls, backends.by_url
        shield = self

        def shielded_transport(connection: Any) -> Any:
            return Transport if shield.hides(connection) else get_transport_cls(connection)

        def shielded_backend(backend: Any = None, loader: Any = None) -> Any:
            shield.learn()
            return by_url("cache+memory://" if backend in shield.backends else backend, loader)

        connections.get_transport_cls = shielded_transport
        backends.by_url = shielded_backend
        self.undo = [
            lambda: setattr(connections, "get_transport_cls", get_transport_cls),
            lambda: setattr(backends, "by_url", by_url),
        ]

    def remove(self) -> None:
        while self.undo:
            self.undo.pop()()

    def hides(self, connection: Any) -> bool:
        self.learn()
        return address(connection) in self.brokers

    def learn(self) -> None:
        """Read from the settings which brokers and backends are out of reach."""
        app: Any = current_app
        if not self.is_learning or not (settings.configured or app.configured):
            return
        urls = django_urls()
        named = [app.connection_for_read(), app.connection_for_write(), *map(Connection, urls)]
        for connection in named:
            self.brokers.add(address(connection))
            self.brokers.update(address(Connection(other)) for other in connection.alt)
        # Celery's configuration also knows the environment's CELERY_BROKER_URL.
        found = [app.conf.result_backend, getattr(settings, "CELERY_RESULT_BACKEND", None)]
        found += [app.conf.broker_read_url, app.conf.broker_write_url, *urls]
        self.backends |= {url for url in found if isinstance(url, str) and "://" in url}


def django_urls() -> list[Any]:
    """The brokers of Django's settings: Celery's app may not be imported yet."""
    names = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
    return [url for name in names if (url := getattr(settings, name, None))]


def address(connection: Any) -> Address:
    """Which broker a connection leads to. It does not connect."""
    return connection.transport_cls, connection.hostname, connection.port, connection.virtual_host


shield = Shield()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    shield.install()


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    shield.install()  # where a conftest names this plugin


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    shield.learn()
    shield.is_learning = not shield.brokers


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    Channel.queues.clear()  # what a test has sent is not the next one's


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    shield.remove()


@dataclass(frozen=True)
class SentTask:
    """A task that was sent: its name, its arguments, and the queue that it went to."""

    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    queue: str


@pytest.fixture
def sent_tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SentTask]]:
    """The tasks that the test has sent so far, in order. None of them runs."""
    monkeypatch.setitem(current_app.conf, "task_always_eager", False)  # what the suite may say
    sent: list[SentTask] = []
    queues: dict[str, str] = {}  # by task id

    def keep_queue(
        headers: dict[str, Any], routing_key: str, declare: list[Any] | None, **_: Any
    ) -> None:
        queues[headers["id"]] = declare[0].name if declare else routing_key

    def keep(sender: str, headers: dict[str, Any], body: Any, **_: Any) -> None:
        args, kwargs, _options = body
        sent.append(SentTask(sender, list(args), dict(kwargs), queues.pop(headers["id"])))

    signals.before_task_publish.connect(keep_queue)
    signals.after_task_publish.connect(keep)  # what was refused was not sent
    yield sent
    signals.before_task_publish.disconnect(keep_queue)
    signals.after_task_publish.disconnect(keep)


@pytest.fixture
def eager_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each task where it is sent, at once. What it raises is raised there."""

    def send_task(app: Any, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        if not app.conf.task_always_eager:
            return original(app, name, args, kwargs, **options)
        if name not in app.tasks:
            app.loader.import_default_modules()
        return app.tasks[name].apply_async(args, kwargs, **options)

    original = Celery.send_task
    monkeypatch.setitem(current_app.conf, "task_always_eager", True)
    monkeypatch.setitem(current_app.conf, "task_eager_propagates", True)
    monkeypatch.setattr(Celery, "send_task", send_task)  # it would not be eager
