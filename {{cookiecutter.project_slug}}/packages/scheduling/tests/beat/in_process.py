"""A beat in the tests' own process and time, on a broker in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery import current_app
from django.utils import timezone
from django_celery_beat import schedulers
from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.utils.objects import cached_property

from scheduling.beat.claim import Claimed
from scheduling.beat.scheduler import DatabaseScheduler


@dataclass(frozen=True)
class Sent:
    name: str
    due: datetime
    at: datetime
    id: str


class StockBeat(schedulers.DatabaseScheduler):  # type: ignore[misc]  # it has no types
    """django-celery-beat's own, which says of a run when it was sent, not when it was due."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        super().__init__(current_app, lazy=False)

    @cached_property
    def connection(self) -> Connection:
        return Connection("memory://")

    def install_default_entries(self, data: Any) -> None:
        """Leave out the clean-up of results: no row but those of the tests."""

    def apply_async(self, entry: Any, **kwargs: Any) -> Any:
        result = super().apply_async(entry, **kwargs)
        now = timezone.now()
        self.sent.append(Sent(entry.name, now, now, result.id))
        return result

    def run(self) -> None:
        while not self.tick():
            pass


class Beat(DatabaseScheduler):
    """Sends for real, and keeps what it has sent. Its broker and its commits may be made to fail."""

    def __init__(self, sent: list[Sent] | None = None) -> None:
        self.sent: list[Sent] = [] if sent is None else sent
        self.broker_is_away, self.refused = False, 0
        self.before_commit: Callable[[], None] = lambda: None
        super().__init__(current_app)

    @cached_property
    def connection(self) -> Connection:
        return Connection("memory://")

    def _send(self, claimed: list[Claimed], producer: Any) -> list[Claimed]:
        sent = super()._send(claimed, producer)
        self.sent += [Sent(c.row.name, c.due, c.now, str(c.run_id)) for c in sent]
        self.before_commit()
        return sent

    def _ensure_connected(self) -> Any:
        if self.broker_is_away:
            self.refused += 1
            raise OperationalError("The broker is away.")
        return super()._ensure_connected()

    def run(self) -> float:
        """Look for changes and do all that is due; returns the pause that it asks for."""
        self.queue.next_poll = 0.0
        pause = self.tick()
        while not pause:
            pause = self.tick()
        return pause
