"""What a container's liveness and readiness probes run for beat and workers."""

import socket
from typing import Any

from celery import current_app
from django.core.management.base import BaseCommand, CommandError, CommandParser
from kombu.exceptions import OperationalError

NODES = {"worker": "celery", "beat": "celerybeat"}
BROKER_TIMEOUT = 3  # seconds, to connect and for each answer of the broker
ANSWER_TIMEOUT = 5.0  # seconds


class Command(BaseCommand):
    help = "Ask this host's beat or worker whether it works. Exit code 0: it does."
    requires_system_checks = []  # a probe is to be quick

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("node", choices=NODES)
        parser.add_argument(
            "--ready",
            action="store_true",
            help="also fail while the broker is away; without it, a restart would not help",
        )
        parser.add_argument("--hostname", default=socket.gethostname())

    def handle(self, *args: Any, node: str, ready: bool, hostname: str, **options: Any) -> None:
        name = f"{NODES[node]}@{hostname}"
        try:
            answers = ping(name)
        except (OperationalError, OSError) as error:
            if ready:
                raise CommandError(f"The broker is away: {error}") from None
            self.stdout.write(f"The broker is away, so {name} cannot answer: {error}")
            return
        if not answers:
            raise CommandError(f"{name} did not answer within {ANSWER_TIMEOUT:g} s.")
        self.stdout.write(f"{name} works.")


def ping(name: str) -> list[Any]:
    """The answers of a node. Raises kombu's ``OperationalError`` if the broker is away."""
    with current_app.connection_for_write(connect_timeout=BROKER_TIMEOUT) as connection:
        connection.transport_options = (connection.transport_options or {}) | {
            "socket_timeout": BROKER_TIMEOUT + ANSWER_TIMEOUT,
            "socket_connect_timeout": BROKER_TIMEOUT,
        }
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        answers = current_app.control.ping([name], timeout=ANSWER_TIMEOUT, connection=connection)
        return list(answers or [])
