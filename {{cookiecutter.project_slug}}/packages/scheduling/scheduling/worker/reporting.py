"""What ``celery inspect conf``, Flower and ``celery report`` show: Celery's settings, no password.

Celery shows all of Django's settings and hides those with a name such as SECRET. So it shows the
passwords in CACHES and CELERY_BROKER_URL to whoever can ask a worker.
"""

import re
from collections.abc import Mapping
from typing import Any

from celery.app.utils import Settings

celerys_table = Settings.table


def table(self: Settings, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
    """The settings by name. If ``censored``, only Celery's, without users and options in URLs."""
    found: dict[str, Any] = celerys_table(self, with_defaults, censored)
    if not censored:
        return found
    return {
        name: _shown(value)
        for name, value in found.items()
        if name.startswith("CELERY_") or name.islower()
    }


def _shown(value: Any) -> Any:
    match value:
        case str() if "://" in value:
            return re.sub(r"(?<=://)\S*@|\?\S*", "", value)
        case Mapping():
            return {key: _shown(item) for key, item in value.items()}
        case list() | tuple() | set():
            return [_shown(item) for item in value]
        case _:
            return value


Settings.table = table  # type: ignore[method-assign]
