"""Celery's Request, of which a run that was begun does not expire."""

from typing import Literal

from celery.worker import request


class Request(request.Request):
    """A message at a worker. That of a run which was begun does not expire: it is tried again, or
    delivered again as its worker died."""

    def maybe_expire(self) -> Literal[True] | None:
        begun = self.request_dict.get("retries") or self.delivery_info["redelivered"]
        if begun and "scheduled_for" in self.request_dict:
            return None
        return super().maybe_expire()
