"""A run whose task is replaced (``self.replace``) goes on: it ends with what replaced it.

Celery gives the id of the run to the last task of the replacement, and no header.
"""

from contextlib import suppress
from queue import Empty
from typing import Any

import pytest
from celery import chain, chord, current_app, group, shared_task
from django_celery_results.models import TaskResult
from kombu.utils.imports import symbol_by_name

from scheduling.models import Run
from scheduling.worker.results import DatabaseBackend
from tests.factories import NOON, store

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
    "a task": (lambda: good.s(), "SUCCESS"),
    "a task that fails": (lambda: bad.s(), "FAILURE"),
    "a task that is replaced": (lambda: replaced.s("a task"), "SUCCESS"),
    "a chain": (lambda: chain(good.s(), good.s(), good.s()), "SUCCESS"),
    "a chain that fails": (lambda: chain(bad.s(), good.s(), good.s()), "FAILURE"),
    "a group": (lambda: group(good.s(), good.s()), "SUCCESS"),
    "a group that fails": (lambda: group(bad.s(), good.s()), "FAILURE"),
    "a chord": (lambda: chord([good.s(), good.s()], good.s()), "SUCCESS"),
    "a chord that fails": (lambda: chord([bad.s(), good.s()], good.s()), "FAILURE"),
    "a chain with a group": (lambda: chain(good.s(), group(good.s(), good.s())), "SUCCESS"),
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
        headers = {"scheduled_for": NOON.isoformat(), "periodic_task_name": how}
        replaced.apply_async([how], task_id=how, headers=headers, ignore_result=False)
    work()

    runs = Run.objects.filter(started_at__isnull=False, finished_at__isnull=False)
    ends = {how: status for how, (_, status) in REPLACEMENTS.items()}
    assert dict(runs.values_list("schedule", "result__status")) == ends
    assert Run.objects.count() == caplog.text.count("s late") == len(ends)


def test_a_task_that_is_no_run_stores_no_result_when_it_is_replaced() -> None:
    replaced.delay("a chain")
    work()

    assert not TaskResult.objects.exists()


def test_a_run_that_others_have_ended_is_kept_when_its_start_is_written_late() -> None:
    """A worker writes a start up to a tenth of a second late; the first of a chain may have failed."""
    DatabaseBackend(current_app).store_result(f"Row {NOON}", ValueError("bad"), "FAILURE")
    store("Row", NOON, "STARTED")

    run = Run.objects.select_related("result").get()
    assert run.result.status == "FAILURE"
    assert run.finished_at == run.result.date_done
