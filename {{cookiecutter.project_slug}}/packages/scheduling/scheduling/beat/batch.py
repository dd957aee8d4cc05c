"""Batch: messages that Celery builds one by one, and that the broker gets in one call."""

from typing import Any, cast

from celery import Celery
from kombu.exceptions import OperationalError

from scheduling.broker.batches import Message, publish


class Batch:
    """Collects what ``producer`` publishes, in place of its channel; ``send`` hands it over."""

    def __init__(self, app: Celery, channel: Any) -> None:
        self.channel = channel
        self.messages: list[Message] = []
        self.parts: tuple[Any, ...] = ()  # of which the last message is made
        self.producer: Any = app.amqp.Producer(cast("Any", self), auto_declare=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.channel, name)

    def prepare_message(self, *parts: Any) -> Any:
        self.parts = parts
        return self.channel.prepare_message(*parts)

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        self.messages.append((message, exchange, routing_key))

    def queue(self, position: int) -> str:
        """The queue, or the routing key, of a message."""
        return self.messages[position][2]

    def send(self) -> list[Exception | None]:
        """Publish all. Returns why the broker refused each; None if it took it.

        Raises kombu's ``OperationalError`` if the broker is away: then it may have them, or not.
        """
        if not self.messages:
            return []
        connection = self.channel.connection.client
        try:
            return publish(self.channel, self.messages)
        except (*connection.connection_errors, *connection.channel_errors) as error:
            raise OperationalError(str(error)) from error
