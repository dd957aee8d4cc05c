"""Celery's settings that keep the engine's promises.

``from scheduling.defaults import *`` at the top of Django's settings, for a Celery app that is
configured with ``namespace="CELERY"``. What the settings say below it wins.
"""

CELERY_BEAT_SCHEDULER = "scheduling.beat.scheduler:DatabaseScheduler"
# Seconds. Beat makes up one missed run of a schedule, and skips it with a warning if it is older.
CELERY_BEAT_CRON_STARTING_DEADLINE = 3600
CELERY_BEAT_ENABLE_REMOTE_CONTROL = True  # celery inspect ping -d celerybeat@HOST: does it tick?

# A message that cannot be read is put aside. It would end each worker that takes it.
CELERY_WORKER_CONSUMER = "scheduling.worker.consumer:Consumer"
CELERY_ACCEPT_CONTENT = ["json"]  # a JSON message cannot run code, a pickle can
CELERY_TASK_SERIALIZER = "json"

CELERY_RESULT_EXPIRES = 24 * 3600  # seconds; results are read soon, and runs leave none

# A worker acknowledges a task when it is done. If the worker stops or dies, the queue delivers the
# task again, so a task may run twice. A task that ends its own process runs max_retries times more.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_RETRY_ON_WORKER_LOST = True
# Each run begins once, and one that has begun does not expire. A worker reads all of a message before
# it runs.
CELERY_TASK_ANNOTATIONS = ["scheduling.worker.annotations:Annotations"]
CELERY_WORKER_PREFETCH_MULTIPLIER = 1  # a long task does not hold back the ones behind it
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 30  # seconds for running tasks at a cold shutdown
# After a lost connection the broker delivers running tasks again: end them.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
# A process keeps its database connection between tasks; worker/signals.py decides until when.
CELERY_DB_REUSE_MAX = 2**31

CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True  # wait for the broker instead of ending
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # Redis: seconds until it delivers a task again that no worker has acknowledged. Longer than
    # any task may run and any retry may wait, or tasks run twice.
    "visibility_timeout": 3600,
    # Redis: look for them every 5 s, not every 100 s.
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    # Redis: a connection that hangs fails, and is made anew.
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 25,
    # RabbitMQ: publishing waits until the broker says that it has the message.
    "confirm_publish": True,
}
