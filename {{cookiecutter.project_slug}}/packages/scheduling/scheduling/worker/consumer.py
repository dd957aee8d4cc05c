"""Celery's Consumer, which no message ends: one that cannot be read is put aside."""

from collections.abc import Callable
from typing import Any

from celery import signals
from celery.exceptions import InvalidTaskError
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.worker import consumer
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    close_old_connections,
)
from kombu.exceptions import ContentDisallowed, DecodeError

from scheduling.models import Counter
from scheduling.worker.request import check_headers

# What reading wrong data raises. A lost connection or a pool that has gone is no message's fault.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    ContentDisallowed,
    DataError,
    DecodeError,
    IntegrityError,
    InvalidTaskError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
HEAD = 200  # characters of a message in the log
COUNT_EVERY = 1.0  # seconds between two writes of the count

logger = get_logger(__name__)


class Consumer(consumer.Consumer):
    """Takes messages from the broker.

    Celery looks at few of a message's values. Of what a wrong one raises, it catches little.
    """

    connection_errors: Any
    gossip: Any  # takes the events of other workers

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.uncounted = 0
        super().__init__(*args, **kwargs)
        self.gossip.on_message = guarded(self.gossip.on_message, self.put_aside)
        self.timer.call_repeatedly(COUNT_EVERY, self.count)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[..., None]:
        return guarded(super().create_task_handler(*args, **kwargs), self.put_aside)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self.put_aside(message, InvalidTaskError("it is no task"))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        check_headers(message.headers if "task" in message.headers else message.payload)
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self.put_aside(message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self.put_aside(message, exc)

    def put_aside(self, message: Any, error: Exception) -> None:
        """Reject a message, so that it does not come back. Log how it begins, and count it."""
        # RabbitMQ takes no answer to events and remote control: it closes the channel.
        unanswered = message.channel.no_ack_consumers or ()
        if not message.acknowledged and message.delivery_info.get("consumer_tag") not in unanswered:
            message.reject_log_error(logger, self.connection_errors)
        reason, head = head_of(error), head_of([message.headers, message.body])
        logger.error("Put aside a message that cannot be read: %s. It begins: %s", reason, head)
        signals.task_rejected.send(sender=self, message=message, exc=error)
        self.uncounted += 1

    def count(self) -> None:
        """Add what was put aside to the database's count; while it is away, keep it."""
        if not (number := self.uncounted):
            return
        try:
            Counter.add(Counter.UNREADABLE, number)
            self.uncounted -= number
        except (DatabaseError, InterfaceError) as error:
            logger.error("%s messages that cannot be read are not counted yet: %s", number, error)
        finally:
            close_old_connections()

    def shutdown(self) -> None:
        self.count()
        super().shutdown()


def guarded(
    handle: Callable[..., Any], put_aside: Callable[[Any, Exception], None]
) -> Callable[..., None]:
    """A handler, whose last argument is a message, that puts aside one that it cannot read."""

    def on_message(*args: Any) -> None:
        try:
            handle(*args)
        except UNREADABLE as error:
            put_aside(args[-1], error)

    return on_message


def head_of(value: Any) -> str:
    """How a value's ``repr`` begins, in printable ASCII."""
    return saferepr(value, maxlen=HEAD)[:HEAD].encode("unicode_escape").decode()
