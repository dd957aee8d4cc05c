"""Copies of messages that Celery has built: a tenth of the time that Celery takes for each.

Celery builds the first message of a kind: of one task, queue and priority. The next ones differ in
their ids, arguments, headers and expiry only, unless a project's own code has a say in them: then
Celery builds each of them too.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from celery import signals
from celery.app.amqp import AMQP
from celery.app.routes import MapRoute
from celery.beat import Scheduler
from celery.utils.saferepr import saferepr
from django.utils import timezone
from kombu import Producer, serialization

from scheduling.beat.batch import Batch
from scheduling.messages import RunMessage

MAX_KINDS = 1_000
OF_A_KIND = ("queue", "exchange", "routing_key", "priority", "ignore_result", "retry")
OPTIONS = {*OF_A_KIND, "task_id", "headers", "expires"}
OF_A_MESSAGE = {"correlation_id", "expiration", "delivery_info"}  # of its properties
NO_CALLBACKS = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
REPR_MAX = AMQP.argsrepr_maxsize
SERIALIZERS = serialization.registry.type_to_name  # type: ignore[attr-defined]  # its stub lacks it
SIGNALS = (signals.before_task_publish, signals.after_task_publish, signals.task_sent)


@dataclass(frozen=True, slots=True)
class Original:
    """What the messages of a kind have in common."""

    check_arguments: Callable[..., Any] | None  # raises as a call of the task would
    routing_key: str
    serializer: str
    max_levels: int  # of the arguments that are shown
    priority: Any
    content: tuple[str, str]  # type and encoding
    headers: dict[str, Any]
    properties: dict[str, Any]

    def copy(self, entry: RunMessage, channel: Any) -> Any:
        """The message of another run. Raises what Celery would."""
        options, args, kwargs = entry.options, entry.args or (), entry.kwargs
        if self.check_arguments:
            self.check_arguments(*args, **kwargs)
        key, expires = options["task_id"], options.get("expires")
        headers = self.headers | {
            "id": key,
            "root_id": key,
            "argsrepr": saferepr(args, REPR_MAX, self.max_levels),
            "kwargsrepr": saferepr(kwargs, REPR_MAX, self.max_levels) if kwargs else "{}",
            "expires": expires and expires.isoformat(),
            **options["headers"],
            "celery_beat_task": True,
        }
        properties = self.properties | {"correlation_id": key}
        if expires:
            left = (expires - timezone.now()).total_seconds()
            properties["expiration"] = str(int(max(left, 0) * 1000))
        body = encode(entry, self.serializer)
        return channel.prepare_message(body, self.priority, *self.content, headers, properties)


class Copies:
    """The originals of a connection to the broker, and the copies that are made of them.

    With an original, Celery has declared its queue.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.originals: dict[Hashable, Original] = {}
        self.own_headers = set(scheduler.app.amqp.as_task_v2("", "").headers)

    def publish(self, entry: RunMessage, batch: Batch) -> bool:
        """Publish an entry's run as a copy, if its kind has an original. Returns whether it has."""
        original = self.originals.get(kind(entry))
        if original is None or not self._is_usual(entry):
            return False
        batch.basic_publish(original.copy(entry, batch.channel), "", original.routing_key)
        return True

    def learn(self, entry: RunMessage, batch: Batch) -> None:
        """Keep what Celery has published for an entry, if all of its kind would be like it."""
        _, exchange, routing_key = batch.messages[-1]
        body, priority, content_type, encoding, headers, properties = batch.parts
        is_like_others = (
            not exchange
            and ("expires" in entry.options or not headers.get("expires"))
            and self._is_usual(entry)
            and self._is_left_to_celery(entry.task)
            and encode(entry, SERIALIZERS[content_type]) == body  # it may be compressed
        )
        if not is_like_others:
            return
        task: Any = self.scheduler.app.tasks.get(entry.task)
        if len(self.originals) >= MAX_KINDS:
            self.originals.clear()
        self.originals[kind(entry)] = Original(
            check_arguments=getattr(task, "__header__", None) if task and task.typing else None,
            routing_key=routing_key,
            serializer=SERIALIZERS[content_type],
            max_levels=self.scheduler.app.conf.task_repr_maxlevels,
            priority=priority,
            content=(content_type, encoding),
            headers={name: headers[name] for name in headers.keys() - entry.options["headers"]},
            properties={name: properties[name] for name in properties.keys() - OF_A_MESSAGE},
        )

    def _is_usual(self, entry: RunMessage) -> bool:
        """Whether nobody but the row and the engine has a say in an entry's message."""
        options = entry.options
        expires = options.get("expires")
        return not (
            any(signal.receivers for signal in SIGNALS)
            or options.keys() - OPTIONS
            or not self.own_headers.isdisjoint(options["headers"])
            or (expires and expires <= timezone.now())
        )

    def _is_left_to_celery(self, name: str) -> bool:
        """Whether no code of the project, or of a tool that it uses, builds a task's messages."""
        app = self.scheduler.app
        task = app.tasks.get(name)
        functions = [self.scheduler.send_task, app.send_task, Producer.publish]
        if task:
            functions += [task.apply_async, task.shadow_name]
        return (
            all(is_celerys(function) for function in functions)
            and all(isinstance(route, MapRoute) for route in app.amqp.routes)
            and type(app.amqp) is AMQP
            and not (app.conf.task_always_eager or app.conf.task_send_sent_event)
            and getattr(task, "_dump_pydantic_arguments", None) is None
        )


def encode(entry: RunMessage, serializer: str) -> Any:
    """The body of an entry's message."""
    body = (entry.args or (), entry.kwargs, NO_CALLBACKS)
    return serialization.dumps(body, serializer=serializer)[2]


def kind(entry: RunMessage) -> Hashable:
    """What is equal for entries whose messages may be copies of one."""
    options = entry.options
    return (entry.task, "expires" in options, *map(options.get, OF_A_KIND))


def is_celerys(function: Any) -> bool:
    """Whether a function or method is Celery's or kombu's own: neither overridden nor wrapped."""
    if type(function) is MethodType:  # no isinstance(): some wrappers pass for what they wrap
        function = function.__func__
    if type(function) is not FunctionType:
        return False
    module: str = function.__globals__["__name__"]
    return module.startswith(("celery.", "kombu."))
