"""A pytest plugin: Celery's suite with the engine's settings and its guard of Redis."""

import json
from pathlib import Path

from django.conf import settings
from kombu.transport import TRANSPORT_ALIASES
from scheduling import defaults

OTHERS = (
    "beat_scheduler",
    "db_reuse_max",
    "result_backend",  # the suite reads results, from Redis
    "task_ignore_result",
    "accept_content",  # some of its tasks send pickles
)


def pytest_configure(config) -> None:
    settings.configure(USE_TZ=True)
    TRANSPORT_ALIASES["redis"] = "scheduling.broker.waiting:Transport"
    ours = {
        name.removeprefix("CELERY_").lower(): value
        for name, value in vars(defaults).items()
        if name.startswith("CELERY_")
    }
    for name in OTHERS:
        del ours[name]
    Path(config.rootpath, "integration-tests-config.json").write_text(json.dumps(ours))
