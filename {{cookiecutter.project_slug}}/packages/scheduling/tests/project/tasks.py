from celery import shared_task


@shared_task
def remind(recipient: str) -> None:
    """Remind somebody."""
