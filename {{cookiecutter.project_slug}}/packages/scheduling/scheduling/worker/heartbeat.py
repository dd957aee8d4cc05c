"""A worker's heartbeat in the ledger: that it lives, what it consumes, and what it holds."""

import logging
import threading
from typing import Any
from uuid import uuid4

from celery.signals import worker_init, worker_ready, worker_shutdown
from celery.worker import state
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from scheduling import database
from scheduling.models import Node
from scheduling.runs.nodes import HEARTBEAT_EVERY
from scheduling.worker import ledger

logger = logging.getLogger(__name__)


class Heartbeat(threading.Thread):
    """Writes this worker's Node every HEARTBEAT_EVERY seconds, in its main process."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(daemon=True, name="heartbeat")
        self.consumer = consumer
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            self.write()
            self.ending.wait(HEARTBEAT_EVERY)

    def write(self) -> None:
        try:
            Node.objects.bulk_create(
                [self.describe()],
                update_conflicts=True,
                unique_fields=["name"],
                update_fields=["seen_at", "queues", "slots", "busy", "holds"],
            )
        except (DatabaseError, InterfaceError) as error:
            logger.error("ledger: no heartbeat: %s", error)
        finally:
            database.connection().close()  # the worker forks

    def describe(self) -> Node:
        """This worker as it is now."""
        return Node(
            name=ledger.node,
            is_worker=True,
            seen_at=timezone.now(),
            queues=sorted(queue.name for queue in self.consumer.task_consumer.queues),
            slots=self.consumer.pool.num_processes,
            busy=len(state.active_requests),
            holds=sorted(held_runs(self.consumer)),
        )

    def end(self) -> None:
        """Delete the Node, so that nobody waits for what this worker has begun."""
        self.ending.set()
        self.join(HEARTBEAT_EVERY)
        try:
            Node.objects.filter(name=ledger.node).delete()
        except (DatabaseError, InterfaceError) as error:
            logger.error("ledger: %s stays until it is seen to be gone: %s", ledger.node, error)


def held_runs(consumer: Any) -> set[str]:
    """The ids of the runs that this worker runs, or has taken and not begun."""
    waiting = [entry.args[0] for _, _, entry in list(consumer.timer.queue) if entry.args]
    requests = [*list(state.reserved_requests), *waiting]
    return {
        request.id
        for request in requests
        if "scheduled_for" in (getattr(request, "request_dict", None) or {})
    }


heartbeat: Heartbeat | None = None  # of a worker's main process


@worker_init.connect
def name_node(sender: Any, **kwargs: Any) -> None:
    """Name this start of the worker: another start under its name is another node."""
    ledger.node = f"{sender.hostname}/{uuid4().hex[:8]}"


@worker_ready.connect
def start_heartbeat(sender: Any, **kwargs: Any) -> None:
    global heartbeat
    heartbeat = Heartbeat(sender)
    heartbeat.start()


@worker_shutdown.connect
def end_heartbeat(**kwargs: Any) -> None:
    if heartbeat:
        heartbeat.end()
