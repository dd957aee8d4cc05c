"""The app of a worker under measurement: the service's, with two tasks, and any result backend."""

import os
import time

from architecture_portal.celery import app

app.conf.result_backend = os.environ.get("BACKEND", app.conf.result_backend)


@app.task
def nothing() -> None:
    pass


@app.task
def ten_milliseconds() -> None:
    time.sleep(0.01)
