"""Celery's Consumer, which outlives a Redis that goes away while tasks run, and its Request."""

from typing import Any, Literal, NoReturn

from celery.worker import consumer, request


class Consumer(consumer.Consumer):
    """Celery 5.7's worker ends when it has lost a Redis in the middle of tasks.

    Messages that were not acknowledged are put back, or acknowledged, on a channel whose connection
    it has let go of, which is an AttributeError. As the loss of a connection it is one more reason
    to connect anew; Redis delivers them again after the visibility timeout.
    """

    task_consumer: Any

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        if self.task_consumer:
            # kombu.transport.redis.Channel asks this for a new connection; RabbitMQ's never does.
            self.task_consumer.channel._connparams = no_connection
        super().on_connection_error_after_connected(exc)


def no_connection(asynchronous: bool = False) -> NoReturn:
    raise ConnectionError("The connection of this channel was lost")


class Request(request.Request):
    """A message at a worker. That of a run which was begun does not expire: it is tried again, or
    delivered again as its worker died."""

    def maybe_expire(self) -> Literal[True] | None:
        begun = self.request_dict.get("retries") or self.delivery_info["redelivered"]
        if begun and "scheduled_for" in self.request_dict:
            return None
        return super().maybe_expire()
