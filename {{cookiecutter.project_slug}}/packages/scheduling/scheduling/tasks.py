import logging
from datetime import timedelta

from celery import shared_task
from django.utils import timezone
from django_celery_results.models import GroupResult, TaskResult

from scheduling import database
from scheduling.conf import conf
from scheduling.models import Heartbeat
from scheduling.one_off import delete_left_over

DELETE_BATCH_SIZE = 1_000  # results: their locks are held for a short time

logger = logging.getLogger(__name__)


@shared_task
def clean_up_history() -> int:
    """Delete history older than the setting ``RUN_HISTORY_DAYS``.

    Returns the number of deleted task results.
    """
    retention = timedelta(days=conf.RUN_HISTORY_DAYS)
    oldest = timezone.now() - retention
    results, deleted = TaskResult.objects.using(database.alias()), 0
    expired = results.filter(date_done__lt=oldest).order_by("date_done")
    while keys := list(expired.values_list("pk", flat=True)[:DELETE_BATCH_SIZE]):
        results.filter(pk__in=keys).delete()  # cascades to Run
        deleted += len(keys)
    GroupResult.objects.filter(date_done__lt=oldest).delete()
    Heartbeat.objects.filter(ticked_at__lt=oldest).delete()
    delete_left_over(oldest)
    logger.info("Deleted %s results older than %s", deleted, oldest)
    return deleted
