from celery.schedules import crontab

from scheduling.declare.schedule import Schedule
from scheduling.tasks import clean_up_history

schedules = [
    Schedule(
        "Clean up the run history",
        clean_up_history,
        crontab(hour=4, minute=15),
        description="Deletes runs older than RUN_HISTORY_DAYS.",
    ),
]
