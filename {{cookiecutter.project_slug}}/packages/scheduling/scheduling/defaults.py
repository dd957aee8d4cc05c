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

# The run history
CELERY_RESULT_BACKEND = "scheduling.worker.results.DatabaseBackend"
# Store results only for schedules' runs and for tasks that opt in (ignore_result=False).
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_TRACK_STARTED = True  # record which runs have started, and when
CELERY_RESULT_EXTENDED = True  # record each run's schedule, task, arguments and worker
CELERY_RESULT_EXPIRES = None  # clean_up_history deletes in batches, not all at once

# A worker acknowledges a task when it is done. If the worker stops or dies, the queue delivers the
# task again, so a task may run twice. A task that ends its own process runs max_retries times more.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_RETRY_ON_WORKER_LOST = True
# A run that has begun does not expire, and a worker reads all of a message before it runs.
CELERY_TASK_ANNOTATIONS = {"*": {"Request": "scheduling.worker.request:Request"}}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1  # a long task does not hold back the ones behind it
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 30  # seconds for running tasks at a cold shutdown
# After a lost connection the broker delivers running tasks again: end them.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
# worker/signals.py decides when a worker replaces its database connection, not a count of tasks.
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
