from typing import Any

from django.db import models
from django.db.models import Case, F, When
from django.db.models.functions import Now
from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver
from django_celery_beat.models import PeriodicTask

from scheduling.timing import TIMING_KEYS


class Declaration(models.Model):
    """What code declared about a schedule at the last seeding: the base of the next merge."""

    name = models.CharField(max_length=200, primary_key=True)
    # None after an operator has deleted the row; the next seeding says so.
    periodic_task = models.OneToOneField(
        PeriodicTask, models.SET_NULL, null=True, related_name="declaration"
    )
    values = models.JSONField()

    class Meta:
        default_permissions = ()
        permissions = [("run_schedule", "Can run a schedule now")]

    def __str__(self) -> str:
        return self.name


class State(models.TextChoices):
    """How far a run is. A worker may begin it while it is SENT, RETRYING or LOST."""

    SENT = "sent"  # beat has sent it; no worker has begun it
    STARTED = "started"
    RETRYING = "retrying"  # it failed, and waits for its next try
    LOST = "lost"  # its worker or its message has gone; it may come back
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"  # no worker began it in time
    SKIPPED = "skipped"  # it was due, and beat did not send it
    CANCELLED = "cancelled"  # an operator revoked it


class Trigger(models.TextChoices):
    """Why a run was sent."""

    SCHEDULE = "schedule"  # it was due
    CATCH_UP = "catch-up"  # it was due while beat was away
    BACKFILL = "backfill"
    MANUAL = "manual"  # "run now"


OPEN = (State.SENT, State.STARTED, State.RETRYING, State.LOST)
ENDED = tuple(state for state in State if state not in OPEN)
NOT_GOOD = (State.FAILED, State.EXPIRED, State.LOST, State.SKIPPED, State.CANCELLED)
MISSED = "missed for longer than beat_cron_starting_deadline"  # why a stretch was skipped
# A run that did not do what it was for.
BAD = models.Q(state__in=(State.FAILED, State.EXPIRED, State.LOST)) | models.Q(reason=MISSED)


class Run(models.Model):
    """The ledger: one row for each due run. Beat inserts it as it sends it; workers bring it forward.

    The constraint lets no two beats send one due run, and ``worker.ledger`` lets one message of a
    run begin it.
    """

    id = models.UUIDField(primary_key=True)  # Celery's id of the task
    # The schedule's row; None once it is deleted. No constraint in the database: each insertion
    # would pay for it.
    periodic_task = models.ForeignKey(
        PeriodicTask,
        models.SET_NULL,
        null=True,
        related_name="runs",
        db_constraint=False,
        db_index=False,  # the unique constraint has one
    )
    schedule = models.CharField(max_length=200)  # its name then; the history outlives the row
    task = models.CharField(max_length=200)
    scheduled_for = models.DateTimeField()  # when it was due
    # How many due times the row stands for: a stretch that was skipped, from scheduled_for on, is
    # one row.
    due_times = models.PositiveIntegerField(default=1)
    trigger = models.CharField(max_length=10, choices=Trigger, default=Trigger.SCHEDULE)
    state = models.CharField(max_length=10, choices=State, default=State.SENT)
    reason = models.CharField(max_length=200, blank=True)  # why it was skipped, lost, …
    queue = models.CharField(max_length=200, blank=True)
    worker = models.CharField(max_length=255, blank=True)  # the Node that began it last
    attempts = models.PositiveIntegerField(default=0)  # how often a worker began it
    retries = models.PositiveIntegerField(default=0)  # Celery's number of the last attempt
    sends = models.PositiveIntegerField(default=1)  # how often beat sent it
    queued_at = models.DateTimeField(null=True)  # when beat sent it first
    ready_at = models.DateTimeField(null=True)  # from when a worker may begin its last message
    expires_at = models.DateTimeField(null=True)  # if no worker has begun it
    started_at = models.DateTimeField(null=True)  # its first attempt
    finished_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=500, blank=True)  # in a line
    traceback = models.TextField(blank=True)

    class Meta:
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=["periodic_task", "scheduled_for"],
                name="scheduling_one_row_for_each_due_run",
            )
        ]
        indexes = [
            models.Index(fields=["scheduled_for"], name="scheduling_run_time"),
            models.Index(
                fields=["state", "ready_at"],
                condition=models.Q(state__in=OPEN),
                name="scheduling_run_open",
            ),
            models.Index(
                fields=["periodic_task", "-scheduled_for"],
                condition=models.Q(state__in=NOT_GOOD),
                name="scheduling_run_not_good",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.schedule}, due at {self.scheduled_for}"


class Node(models.Model):
    """A heartbeat of a beat or worker process. A process that starts again is another node."""

    name = models.CharField(max_length=255, primary_key=True)
    is_worker = models.BooleanField()
    seen_at = models.DateTimeField()
    # Of a worker:
    queues = models.JSONField(default=list)  # the names of those that it consumes
    slots = models.PositiveIntegerField(default=0)  # tasks that it can run at once
    busy = models.PositiveIntegerField(default=0)  # tasks that it runs
    holds = models.JSONField(default=list)  # the ids of the runs that it runs or has taken

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class Change(models.Model):
    """A schedule that beats must read again: it, or what says when, was edited, added or deleted.

    Triggers write it (``change_log``).
    """

    id = models.BigAutoField(primary_key=True)
    periodic_task_id = models.BigIntegerField(null=True)  # None: any schedule
    position = models.BigIntegerField()  # which transaction wrote it; see change_log.POSITION
    made_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        indexes = [models.Index(fields=["position", "id"], name="scheduling_change_position")]

    def __str__(self) -> str:
        return str(self.periodic_task_id)


class Pause(models.Model):
    """A schedule that was paused by "pause all"; "resume all" resumes it."""

    periodic_task = models.OneToOneField(PeriodicTask, models.CASCADE, primary_key=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.periodic_task)


class Counter(models.Model):
    """A count over all processes that never falls."""

    UNREADABLE = "unreadable_messages"  # that workers put aside

    name = models.CharField(max_length=50, primary_key=True)
    value = models.PositiveBigIntegerField(default=0)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"

    @classmethod
    def add(cls, name: str, number: int) -> None:
        cls.objects.get_or_create(name=name)
        cls.objects.filter(name=name).update(value=F("value") + number)


@receiver(pre_save, sender=PeriodicTask)
def keep_run_times(
    instance: PeriodicTask, raw: bool, update_fields: Any = None, **kwargs: Any
) -> None:
    """Keep beat's columns as the database has them: an instance that is saved may be old.

    A row that is enabled, or gets another time, counts from now: its last run is cleared, as
    django-celery-beat clears that of a disabled row.
    """
    # django-celery-beat's own scheduler sets no_changes on what it saves, and knows the run times.
    if raw or update_fields or instance._state.adding or "no_changes" in vars(instance):
        return
    instance._run_times = instance.last_run_at, instance.total_run_count
    instance.total_run_count = F("total_run_count")
    if instance.enabled:
        same_time = {column: getattr(instance, column) for column in (*TIMING_KEYS, "start_time")}
        instance.last_run_at = Case(When(enabled=True, **same_time, then=F("last_run_at")))


@receiver(post_save, sender=PeriodicTask)
def put_run_times_back(instance: PeriodicTask, **kwargs: Any) -> None:
    """Give the instance its values back in place of expressions.

    A row that somebody enables by itself is not "paused with all" any more.
    """
    if run_times := instance.__dict__.pop("_run_times", None):
        instance.last_run_at, instance.total_run_count = run_times
        if instance.enabled:
            Pause.objects.filter(periodic_task=instance).delete()
