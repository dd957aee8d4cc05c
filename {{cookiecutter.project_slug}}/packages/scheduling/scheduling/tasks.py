import logging
from datetime import timedelta

from celery import shared_task
from django.utils import timezone

from scheduling import database
from scheduling.conf import conf
from scheduling.models import Node, Run
from scheduling.one_off import delete_left_over

DELETE_BATCH_SIZE = 1_000  # runs: their locks are held for a short time

logger = logging.getLogger(__name__)


@shared_task
def clean_up_history() -> int:
    """Delete runs older than the setting ``RUN_HISTORY_DAYS``. Returns how many were deleted."""
    retention = timedelta(days=conf.RUN_HISTORY_DAYS)
    oldest = timezone.now() - retention
    runs, deleted = Run.objects.using(database.alias()), 0
    expired = runs.filter(scheduled_for__lt=oldest).order_by("scheduled_for")
    while keys := list(expired.values_list("pk", flat=True)[:DELETE_BATCH_SIZE]):
        runs.filter(pk__in=keys).delete()
        deleted += len(keys)
    Node.objects.filter(seen_at__lt=oldest).delete()
    delete_left_over(oldest)
    logger.info("Deleted %s runs older than %s", deleted, oldest)
    return deleted
