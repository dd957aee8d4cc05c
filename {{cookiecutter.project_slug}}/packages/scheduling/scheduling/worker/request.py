"""Celery's Request, where the ledger needs it to be more exact."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from celery.worker import request

from scheduling.worker import ledger


class Request(request.Request):
    """A message at a worker."""

    _context: Any  # celery-types lacks it

    def maybe_expire(self) -> Literal[True] | None:
        """Expire only what has not begun.

        Celery drops an expired message even if it is the next try of a run that has begun, or a
        redelivery after the death of its worker.
        """
        begun = self.request_dict.get("retries") or self.delivery_info["redelivered"]
        if begun and "scheduled_for" in self.request_dict:
            return None
        return super().maybe_expire()

    def on_failure(self, *args: Any, **kwargs: Any) -> Any:
        with self.as_current():
            return super().on_failure(*args, **kwargs)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        with self.as_current():
            super().on_timeout(soft, timeout)

    @contextmanager
    def as_current(self) -> Iterator[None]:
        """Let handlers of ``task_failure`` see the request, as in the task's own process."""
        self.task.request_stack.push(self._context)
        try:
            yield
        finally:
            self.task.request_stack.pop()

    def reject(self, requeue: bool = False) -> None:
        """Let the message that comes back begin its run."""
        if requeue:
            ledger.release(self._context)
        super().reject(requeue)
