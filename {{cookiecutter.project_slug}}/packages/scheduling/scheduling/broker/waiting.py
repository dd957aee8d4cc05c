"""Refuse a task with an ETA that Redis cannot hold: it would run once for each visibility_timeout.

A worker holds a message until its ETA without acknowledging it, and Redis delivers again what
nobody has acknowledged within ``visibility_timeout`` seconds.
"""

# kombu's stubs show its public part only:
# mypy: disable-error-code="misc"

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from celery import current_app
from django.utils import timezone
from kombu.transport import redis

from scheduling.broker.batches import Pipelines
from scheduling.broker.unreadable import ReadsAll


class LongWait(ValueError):
    """A task was not sent: the broker would deliver it again while it waits or runs."""


class RefusesLongWaits:
    """A channel that publishes no message which waits for longer than the broker holds it."""

    visibility_timeout: Any  # seconds

    def basic_publish(
        self, message: Mapping[str, Any], exchange: str, routing_key: str, **kwargs: Any
    ) -> Any:
        refuse_long_wait(message["headers"], self.visibility_timeout)
        return super().basic_publish(message, exchange, routing_key, **kwargs)


class Channel(ReadsAll, RefusesLongWaits, Pipelines, redis.Channel):
    """kombu's channel to Redis, with the guards, and with many messages in one call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.params: dict[bool, dict[str, Any]] = {}
        super().__init__(*args, **kwargs)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """Keep the first parameters.

        Celery 5.7's worker drops them when it loses its connection, needs them to put its messages
        back, and would end without them.
        """
        if asynchronous not in self.params:
            self.params[asynchronous] = super()._connparams(asynchronous)
        return self.params[asynchronous]


class Transport(redis.Transport):
    """kombu's transport for ``redis://`` and ``rediss://``, with the guards."""

    Channel = Channel


def refuse_long_wait(headers: Mapping[str, Any], visibility_timeout: float) -> None:
    """Raise ``LongWait`` if a task's message may not be acknowledged in time.

    It waits for its ETA, and then runs for as long as its time limit lets it. A limit that is too
    long by itself is not counted: the system check ``scheduling.W008`` names it.
    """
    if not headers.get("eta"):
        return
    eta = datetime.fromisoformat(headers["eta"])
    wait = ((eta if eta.tzinfo else eta.replace(tzinfo=UTC)) - timezone.now()).total_seconds()
    limit = (headers.get("timelimit") or [None])[0] or current_app.conf.task_time_limit or 0
    if limit >= visibility_timeout:
        limit = 0
    if wait <= 0 or wait + limit < visibility_timeout:
        return
    raise LongWait(
        f"{headers['task']} was not sent: it waits {wait:.0f} s and may run for {limit:.0f} s, "
        f"but Redis delivers it again after visibility_timeout, {visibility_timeout:.0f} s, and it "
        "would run more than once. Use scheduling.run_at(task, when), which needs no waiting "
        "message, or a longer visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS."
    )
