"""Publish many messages in one call: one transaction for Redis, one wait for RabbitMQ."""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import amqp

Message = tuple[Any, str, str]  # a message of kombu's, its exchange and routing key
CONFIRMED_WITHIN = 30.0  # seconds


class MessageNacked(Exception):
    """RabbitMQ refused a message."""


class Pipelines:
    """A channel of kombu's Redis transport that can publish many messages in one transaction."""

    def publish_all(self, messages: Iterable[Message]) -> list[Exception | None]:
        """Publish all or, if Redis is away, none. Returns why Redis refused each, or None."""
        with self.conn_or_acquire() as client, client.pipeline(transaction=True) as pipeline:  # type: ignore[attr-defined]
            commands = Commands(pipeline)
            for message, exchange, routing_key in messages:
                commands.firsts.append(len(pipeline))
                self.basic_publish(message, exchange, routing_key, _publish_batch=commands)  # type: ignore[attr-defined]
            answers = pipeline.execute(raise_on_error=False)
        return [
            error_in(answers[first:next_]) for first, next_ in pairwise([*commands.firsts, None])
        ]


class Commands:
    """Takes the commands of a message from kombu's channel, as kombu's own batch does."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.firsts: list[int] = []  # the number of each message's first command

    def add(self, name: str, *arguments: Any) -> None:
        getattr(self.pipeline, name)(*arguments)


def error_in(answers: Iterable[Any]) -> Exception | None:
    return next((answer for answer in answers if isinstance(answer, Exception)), None)


def publish(channel: Any, messages: Sequence[Message]) -> list[Exception | None]:
    """Publish messages. Returns why the broker refused each, or None.

    Those to the default exchange, which are nearly all, go in one call. Raises what the transport
    raises if the broker is away.
    """
    answers: dict[int, Exception | None] = {}
    direct = [number for number, (_, exchange, _) in enumerate(messages) if not exchange]
    together = _publish_together(channel, [messages[number] for number in direct])
    answers.update(zip(direct, together, strict=True))
    for number, message in enumerate(messages):
        if number not in answers:
            answers[number] = _publish_one(channel.connection.client, message)
    return [answers[number] for number in range(len(messages))]


def _publish_together(channel: Any, messages: Sequence[Message]) -> list[Exception | None]:
    if isinstance(channel, Pipelines):
        return channel.publish_all(messages)
    if isinstance(channel, amqp.Channel):
        return _publish_confirmed(channel, messages)
    return [_publish_one(channel.connection.client, message) for message in messages]


def _publish_confirmed(channel: Any, messages: Sequence[Message]) -> list[Exception | None]:
    """Publish all on a channel of their own, then wait until RabbitMQ has them all."""
    answers: dict[int, Exception | None] = {}  # by delivery tag, which counts from 1

    def note(answer: Exception | None, tag: int, multiple: bool) -> None:
        for one in range(1 if multiple else tag, tag + 1):
            answers.setdefault(one, answer)

    with channel.connection.channel() as own:
        # Not own.wait(): publishing reads what has come, too.
        own.events["basic_ack"].add(partial(note, None))
        own.events["basic_nack"].add(partial(note, MessageNacked()))
        own.confirm_select()
        for message, exchange, routing_key in messages:
            # Not own.basic_publish(), which waits for each.
            amqp.Channel.basic_publish(own, message, exchange=exchange, routing_key=routing_key)
        while len(answers) < len(messages):
            own.connection.drain_events(timeout=CONFIRMED_WITHIN)
    return [answers[tag] for tag in range(1, len(messages) + 1)]


def _publish_one(connection: Any, message: Message) -> Exception | None:
    """Publish on a channel of its own, which RabbitMQ closes if there is no such exchange."""
    body, exchange, routing_key = message
    try:
        with connection.channel() as own:
            own.basic_publish(body, exchange=exchange, routing_key=routing_key)
    except connection.channel_errors as error:
        refusal: Exception = error
        return refusal
    return None
