"""Kills beat -9 in the middle of bursts, and counts what comes twice.

KILLS ROWS together|one-by-one: prints, as JSON, what was counted. "one-by-one" publishes each
message with a call of its own, as beats without batches do.
"""

import json
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from queue import Empty
from types import SimpleNamespace

import django

django.setup()

from celery import current_app  # noqa: E402
from django.db import connections  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks  # noqa: E402
from scheduling.beat import batch  # noqa: E402
from scheduling.beat.scheduler import DatabaseScheduler  # noqa: E402
from scheduling.models import Node, Run  # noqa: E402
from scheduling.worker import ledger  # noqa: E402

TASK = "application.tasks.send_email_task"


def fill(rows: int) -> None:
    PeriodicTask.objects.all().delete()
    Run.objects.all()._raw_delete("default")
    hourly = IntervalSchedule.objects.create(every=1, period="hours")
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"Row {n}", task=TASK, args='["user@example.com"]', interval=hourly)
        for n in range(rows)
    )
    current_app.amqp.default_queue(current_app.connection().channel()).purge()


def make_all_due(turn: int) -> None:
    """Each turn has due times of its own, so that its runs have ids of their own."""
    last = timezone.now() - timedelta(hours=1, seconds=1, microseconds=turn)
    PeriodicTask.objects.update(last_run_at=last)
    PeriodicTasks.update_changed()


def one_by_one(channel, messages):
    for message, exchange, routing_key in messages:
        channel.basic_publish(message, exchange, routing_key)
    return [None] * len(messages)


def start_beat(seen: int) -> int:
    """Fork a beat that sends all that is due, and ends. Returns its process id, when it has begun."""
    connections.close_all()
    if pid := os.fork():
        while Run.objects.count() == seen:
            time.sleep(0.001)  # until its first commit
        return pid
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    beat = DatabaseScheduler(app=current_app, lazy=True)
    beat.queue.poll_changes()
    while beat.queue.heap and beat.queue.heap[0][0] <= time.time():
        beat.tick()
    os._exit(0)


def taken() -> list[SimpleNamespace]:
    """All messages, as requests that workers make of them."""
    found = []
    with (
        current_app.connection_for_read() as connection,
        connection.SimpleQueue(current_app.amqp.default_queue) as queue,
        suppress(Empty),
    ):
        while message := queue.get_nowait():
            message.ack()
            found.append(
                SimpleNamespace(
                    id=message.headers["id"],
                    task=message.headers["task"],
                    headers=message.headers,
                    retries=0,
                    is_eager=False,
                    delivery_info=message.delivery_info,
                )
            )
    return found


def main(kills: int, rows: int) -> None:
    logging.disable()
    current_app.loader.import_default_modules()
    chance = random.Random(1)  # noqa: S311
    counted: Counter[str] = Counter()
    fill(rows)
    for turn in range(kills):
        make_all_due(turn)
        before = Run.objects.count()
        pid = start_beat(before)
        time.sleep(chance.random() * 0.0003 * rows)
        os.kill(pid, signal.SIGKILL)  # a zombie if it has sent all
        os.waitpid(pid, 0)
        done = Run.objects.count()
        was_in_the_middle = done < before + rows
        if was_in_the_middle:
            os.waitpid(start_beat(done), 0)
        messages = taken()
        ids = Counter(message.id for message in messages)
        Node.objects.update_or_create(
            name=ledger.node, defaults={"is_worker": True, "seen_at": timezone.now()}
        )
        doubled = [message for message in messages if ids[message.id] > 1]
        begun = Counter(message.id for message in doubled if ledger.begin(message))
        counted["killed in the middle"] += was_in_the_middle
        counted["runs due"] += rows
        counted["messages"] += len(messages)
        counted["doubled messages"] += len(messages) - len(ids)
        counted["kills that doubled"] += len(messages) > len(ids)
        counted["lost"] += rows - len(ids)
        counted["runs begun twice"] += sum(times > 1 for times in begun.values())
        counted["doubled and not begun"] += len({message.id for message in doubled} - set(begun))
    print(json.dumps(counted))


ledger.node = "benchmark"
if sys.argv[3] == "one-by-one":
    batch.publish = one_by_one
main(int(sys.argv[1]), int(sys.argv[2]))
