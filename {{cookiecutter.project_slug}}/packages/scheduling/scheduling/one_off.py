"""run_at: one run of a task at a time, as a row that goes when it is done."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, Literal
from uuid import uuid4

from celery import Task, current_app, states
from celery.signals import task_failure, task_postrun, task_revoked
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.utils import timezone
from django_celery_beat.models import ClockedSchedule, PeriodicTask

from scheduling import database
from scheduling.declare.schedule import Schedule, canonical

MARK = "delete_when_done"  # the header of a row, and of its run's message, that run_at made
HEADERS = canonical({MARK: True})
LONGEST_PREFIX = 160  # of a name: the column has 200 characters, and a uuid takes 36


def run_at(
    task: "Task[..., Any] | str",
    when: datetime,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    expires: timedelta | Literal["period"] | None = None,
) -> PeriodicTask:
    """Run a task once, at a time. Returns the new row, which beat sends like any schedule's.

    Nothing waits in the broker, so ``when`` may be years away. In a transaction of its database,
    the row comes with the commit. A ``when`` that has passed is due at once, if beat would still
    make it up. When the run has succeeded, failed, expired or been revoked, a worker deletes the
    row; the run history keeps the run under ``name``, which is the task's with a uuid unless given.

    Raises ``ValueError`` for an unknown task, a name that is taken, and a ``when`` that has no time
    zone or is too old; ``TypeError`` for arguments that the task does not take; else what
    ``Schedule`` raises.
    """
    task_name = task if isinstance(task, str) else task.name
    schedule = Schedule(
        f"{task_name[:LONGEST_PREFIX]} {uuid4()}" if name is None else name,
        task,
        when,
        args=args,
        kwargs=kwargs or {},
        queue=queue,
        priority=priority,
        expires=expires,
    )
    _check_call(task_name, schedule)
    _refuse_old(when)
    values = {column: value for column, value in schedule.values.items() if column != "when"}
    values |= {
        "expire_seconds": values.pop("expires"),
        "headers": HEADERS,
        "description": "Runs once. A worker deletes it when it is done.",
    }
    try:
        with database.atomic():
            # A row counts from when it is saved: its time must not have passed.
            clocked = ClockedSchedule.objects.create(clocked_time=max(when, timezone.now()))
            row: PeriodicTask = PeriodicTask.objects.create(clocked=clocked, **values)
            return row
    except (IntegrityError, ValidationError):
        if not PeriodicTask.objects.filter(name=schedule.name).exists():
            raise
        raise ValueError(
            f"A schedule called {schedule.name!r} exists already; leave the name out, or change "
            "that schedule"
        ) from None


def _check_call(task_name: str, schedule: Schedule) -> None:
    """Refuse what Celery would refuse when beat sends it."""
    if task_name not in current_app.tasks:
        current_app.loader.import_default_modules()  # registers tasks
    if task_name not in current_app.tasks:
        near = get_close_matches(task_name, current_app.tasks, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "look at its app's tasks.py"
        raise ValueError(f"No installed app registers the task {task_name!r}; {hint}")
    task: Any = current_app.tasks[task_name]
    if task.typing and hasattr(task, "__header__"):
        task.__header__(*schedule.args, **schedule.kwargs)


def _refuse_old(when: datetime) -> None:
    deadline = current_app.conf.beat_cron_starting_deadline
    if deadline is not None and when < timezone.now() - timedelta(seconds=deadline):
        raise ValueError(
            f"{when} has passed: beat runs what is at most beat_cron_starting_deadline, "
            f"{deadline} s, late; call the task's delay(), or give a later time"
        )


@task_postrun.connect
@task_failure.connect  # of a process that was killed, too
def delete_done(sender: Any, state: str = "", **kwargs: Any) -> None:
    """Delete the row that ``run_at`` made for the run that has ended."""
    if state != states.RETRY:
        _delete_row(sender.request)


@task_revoked.connect
def delete_revoked(request: Any, **kwargs: Any) -> None:
    """The same for a run that was revoked, or expired before a worker took it up."""
    _delete_row(request)


def _delete_row(request: Any) -> None:
    headers = request.headers or {}
    if not headers.get(MARK):
        return
    due = datetime.fromisoformat(headers["scheduled_for"])  # "run now" ends another run
    name = headers["periodic_task_name"]
    rows = PeriodicTask.objects.using(database.alias())
    for row in rows.filter(name=name, clocked__clocked_time=due):
        if json.loads(row.headers or "{}").get(MARK):
            delete(row)


def delete(row: PeriodicTask) -> None:
    """Delete a row that is done, and its time, unless another row has it too."""
    row.no_changes = True  # beat need not reload: it has no entry for the row any more
    with database.atomic():
        row.delete()
        ClockedSchedule.objects.filter(pk=row.clocked_id, periodictask=None).delete()


def delete_left_over(oldest: datetime) -> int:
    """Delete the rows whose run was sent before ``oldest``, if no worker did. Returns how many."""
    rows = PeriodicTask.objects.using(database.alias()).filter(
        headers=HEADERS, enabled=False, total_run_count__gt=0, clocked__clocked_time__lt=oldest
    )
    left_over = list(rows)
    for row in left_over:
        delete(row)
    return len(left_over)
