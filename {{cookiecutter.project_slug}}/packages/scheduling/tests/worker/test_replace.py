"""A run whose task is replaced (``self.replace``) goes on: it ends with what replaced it.

Celery gives the id of the run to the last task of the replacement, and no header.
"""

from collections.abc import Iterator
from contextlib import suppress
from queue import Empty
from typing import Any

import pytest
from celery import chain, chord, current_app, group, shared_task
from celery.app.task import Context
from celery.signals import before_task_publish
from kombu.utils.imports import symbol_by_name

from scheduling.beat.recovery import recover
from scheduling.models import Run
from scheduling.worker import ledger
from scheduling.worker.signals import hand_on_run
from tests.factories import NOON, store


@pytest.fixture(autouse=True)
def in_a_worker() -> Iterator[None]:
    before_task_publish.connect(hand_on_run)
    yield
    before_task_publish.disconnect(hand_on_run)


QUEUE = current_app.conf.task_default_queue

pytestmark = pytest.mark.django_db(transaction=True)


@shared_task(name="replace.good")
def good(*args: Any) -> str:
    return "good"


@shared_task(name="replace.bad")
def bad(*args: Any) -> None:
    raise ValueError("bad")


@shared_task(bind=True, name="replace.replaced")
def replaced(self: Any, how: str) -> None:
    self.replace(REPLACEMENTS[how][0]())


# By what a task is replaced, and how the run ends.
REPLACEMENTS: dict[str, tuple[Any, str]] = {
    "a task": (lambda: good.s(), "succeeded"),
    "a task that fails": (lambda: bad.s(), "failed"),
    "a task that is replaced": (lambda: replaced.s("a task"), "succeeded"),
    "a chain": (lambda: chain(good.s(), good.s(), good.s()), "succeeded"),
    "a chain that fails": (lambda: chain(bad.s(), good.s(), good.s()), "failed"),
    "a group": (lambda: group(good.s(), good.s()), "succeeded"),
    "a group that fails": (lambda: group(bad.s(), good.s()), "failed"),
    "a chord": (lambda: chord([good.s(), good.s()], good.s()), "succeeded"),
    "a chord that fails": (lambda: chord([bad.s(), good.s()], good.s()), "failed"),
    "a chain with a group": (lambda: chain(good.s(), group(good.s(), good.s())), "succeeded"),
}


def headers_of(name: str) -> dict[str, Any]:
    """Those of beat's message of a run."""
    moments = dict.fromkeys(("scheduled_for", "queued_at"), NOON.isoformat())
    return moments | {
        "periodic_task_name": name,
        "periodic_task_id": None,
        "run_trigger": "schedule",
    }


def work() -> None:
    """Do what is in the queue, and what that sends, as a worker does."""
    app: Any = current_app
    with app.connection_for_read() as broker, broker.SimpleQueue(QUEUE) as queue, suppress(Empty):
        while message := queue.get(block=False):
            task = app.tasks[message.headers["task"]]
            symbol_by_name(task.Request)(message, app=app, task=task).execute()
            message.ack()


def test_a_run_ends_with_what_replaced_its_task(caplog: pytest.LogCaptureFixture) -> None:
    for how in REPLACEMENTS:
        run = store(how, NOON, "sent")
        replaced.apply_async(
            [how], task_id=str(run.pk), headers=headers_of(how), ignore_result=True
        )
    work()

    runs = Run.objects.filter(started_at__isnull=False, finished_at__isnull=False)
    ends = {how: state for how, (_, state) in REPLACEMENTS.items()}
    assert dict(runs.values_list("schedule", "state")) == ends
    assert Run.objects.count() == caplog.text.count("s late") == len(ends)


def test_a_run_that_is_handed_on_is_not_sent_again() -> None:
    run = store("Some", NOON, "started")
    Run.objects.update(worker=ledger.node)
    ledger.hand_on(Context(id=str(run.pk), headers=headers_of("Some")))

    with current_app.connection_for_write() as broker:
        recover(current_app, broker)

    run = Run.objects.get()
    assert (run.state, run.reason, run.sends) == ("retrying", "replaced by other tasks", 1)
