"""Consumer: Celery's, which outlives a broker that goes away while tasks run."""

from typing import Any

from celery.worker import consumer


class Consumer(consumer.Consumer):
    """Celery 5.7's worker ends when it loses a Redis that has messages it has not acknowledged.

    It lets go of the connection, then closes it, and closing puts messages back: over no connection,
    which is an AttributeError. Here they stay where they are, and Redis delivers them again after
    the visibility timeout, as it does those of a worker that was killed.
    """

    task_consumer: Any

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        if self.task_consumer:
            self.task_consumer.channel.do_restore = False  # RabbitMQ's channel does not read it
        super().on_connection_error_after_connected(exc)
