"""Messages a second and from hand to hand, and what kills lose: kombu's transport and ours.

Prints JSON; argv: the URL of a Redis database that is its own.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from threading import Thread
from typing import Any

from kombu import Connection, Consumer, Queue
from redis import Redis

TRANSPORTS = {"kombu's": "redis", "the template's": "scheduling.broker.transport:Transport"}
QUEUE = Queue("benchmark")
MESSAGES, AWAITED, KILLS = 5_000, 200, 30


def put(connection: Any, *bodies: Any) -> None:
    producer = connection.Producer()
    for body in bodies:
        producer.publish(body, routing_key=QUEUE.name, declare=[QUEUE])


@contextmanager
def consumer(connection: Any, receive: Any) -> Iterator[None]:
    with connection.channel() as channel:
        channel.basic_qos(0, 4, False)
        with Consumer(channel, [QUEUE], callbacks=[receive]):
            yield


def a_second(connection: Any) -> float:
    """Messages that one consumer takes and acknowledges, of a full queue."""
    put(connection, *range(MESSAGES))
    taken = []

    def receive(body: int, message: Any) -> None:
        taken.append(body)
        message.ack()

    start = time.perf_counter()
    with consumer(connection, receive):
        while len(taken) < MESSAGES:
            connection.drain_events(timeout=9)
    return MESSAGES / (time.perf_counter() - start)


def hand_to_hand(connection: Any) -> float:
    """Seconds from sending to a consumer that waits, the median."""
    took: list[float] = []

    def receive(sent_at: float, message: Any) -> None:
        took.append(time.perf_counter() - sent_at)
        message.ack()

    def send() -> None:
        with connection.clone() as other:
            for _ in range(AWAITED):
                time.sleep(0.01)
                put(other, time.perf_counter())

    sender = Thread(target=send)
    sender.start()
    with consumer(connection, receive):
        while len(took) < AWAITED:
            connection.drain_events(timeout=9)
    sender.join()
    return median(took)


def lost(connection: Any, server: Redis, transport: str) -> int:
    """Messages that are neither in the queue nor given out, after consumers were killed."""
    put(connection, *range(MESSAGES))
    for number in range(KILLS):
        given = server.hlen("unacked")
        process = subprocess.Popen([sys.executable, __file__, sys.argv[1], transport])
        while server.hlen("unacked") < given + 10 + number:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    return MESSAGES - server.llen(QUEUE.name) - server.hlen("unacked")


def take_until_killed(url: str, transport: str) -> None:
    with Connection(url, transport=transport) as connection:
        with Consumer(connection, [QUEUE], callbacks=[lambda body, message: None]):
            while True:
                connection.drain_events()


def main(url: str) -> None:
    found: dict[str, dict[str, float]] = {}
    for name, transport in TRANSPORTS.items():
        with Redis.from_url(url) as server, Connection(url, transport=transport) as connection:
            server.flushdb()
            found[name] = {
                "a second": a_second(connection),
                "hand to hand": hand_to_hand(connection),
                "lost": lost(connection, server, transport),
            }
            server.flushdb()
    print(json.dumps(found))


if __name__ == "__main__":
    take_until_killed(*sys.argv[1:]) if len(sys.argv) > 2 else main(sys.argv[1])
