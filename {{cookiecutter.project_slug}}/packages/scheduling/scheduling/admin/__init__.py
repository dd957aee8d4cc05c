"""The operator's view. Django's autodiscovery imports this; the parts register themselves."""

from scheduling.admin import schedules, timings

__all__ = ["schedules", "timings"]
