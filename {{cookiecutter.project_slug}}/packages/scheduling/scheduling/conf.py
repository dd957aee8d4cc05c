"""The engine's settings: ``conf.NAME`` is Django's setting of that name, else the default below."""

from typing import Any

from django.conf import settings


class Conf:
    # Seconds. A run that starts later is late; a schedule whose run is not sent by then is overdue.
    LATE_AFTER: int = 60
    RUN_HISTORY_DAYS: int = 14
    SEED_SCHEDULES_ON_MIGRATE: bool = True
    LOG_FORMAT: str = "plain"  # or "json"
    # /health/schedules answers 503 beyond these.
    HEALTH_BEAT_MAX_AGE: int = 60  # seconds since any beat ticked
    HEALTH_MAX_OVERDUE: int = 0  # schedules
    HEALTH_MAX_WAITING: int = 0  # runs that wait for a worker for longer than LATE_AFTER
    HEALTH_MAX_FAILING: int = 0  # schedules
    HEALTH_FAILING_AFTER: int = 2  # a schedule is failing after so many failed runs in a row
    # Who may read /metrics, and names at /health/schedules. By default nobody may.
    METRICS_TOKEN: str = ""
    METRICS_NETWORKS: list[str] = []
    # /metrics has the series of so many schedules, declared ones first: each has twenty.
    METRICS_MAX_SCHEDULES: int = 1_000

    def __getattribute__(self, name: str) -> Any:
        default = object.__getattribute__(self, name)
        return getattr(settings, name, default) if name.isupper() else default


conf = Conf()
