"""The operator's view. Django's autodiscovery imports this; the parts register themselves."""

from scheduling.admin import runs, schedules, timings

__all__ = ["runs", "schedules", "timings"]
