"""Celery's Request, with one difference: a run that has begun does not expire."""

from typing import Literal

from celery.worker import request


class Request(request.Request):
    """A message at a worker.

    Celery drops an expired message even if it is the next try of a run that has begun, or a
    redelivery after the death of its worker.
    """

    def maybe_expire(self) -> Literal[True] | None:
        begun = self.request_dict.get("retries") or self.delivery_info["redelivered"]
        if begun and "scheduled_for" in self.request_dict:
            return None
        return super().maybe_expire()
