"""What CELERY_TASK_ANNOTATIONS adds to every task."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from celery.exceptions import Ignore


class Annotations:
    """Celery makes one, and asks it what to add to any task."""

    def annotate(self, task: Any) -> None:
        return None

    def annotate_any(self) -> dict[str, Any]:
        return {"Request": "scheduling.worker.request:Request", "@before_start": begins_once}


def begins_once(before_start: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a task's ``before_start`` so that it drops a message that may not begin its run."""

    @wraps(before_start)
    def begin(self: Any, task_id: str, args: Any, kwargs: Any) -> Any:
        from scheduling.worker import ledger  # settings name this module before apps are loaded

        if not ledger.begin(self.request):
            self.request.refused = True
            raise Ignore
        return before_start(self, task_id, args, kwargs)

    return begin
