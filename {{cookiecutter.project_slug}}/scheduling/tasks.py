import logging

from celery import shared_task
from django.utils import timezone
from django_celery_results.models import GroupResult, TaskResult

from scheduling.history import kept
from scheduling.models import Heartbeat

BATCH = 1_000  # rows deleted at once: nobody waits long for their locks

logger = logging.getLogger(__name__)


@shared_task
def clean_up_history() -> int:
    """Delete what is older than the setting ``RUN_HISTORY_DAYS``. Returns how many results."""
    oldest = timezone.now() - kept()
    old, deleted = TaskResult.objects.filter(date_done__lt=oldest).order_by("date_done"), 0
    while keys := list(old.values_list("pk", flat=True)[:BATCH]):
        TaskResult.objects.filter(pk__in=keys).delete()  # and their runs
        deleted += len(keys)
    GroupResult.objects.filter(date_done__lt=oldest).delete()
    Heartbeat.objects.filter(ticked_at__lt=oldest).delete()
    logger.info("Deleted %s results older than %s", deleted, oldest)
    return deleted
