"""What beat/scheduler.py, broker/ and worker/ override of Celery, kombu, py-amqp and
django-celery-beat.

A release that changes one of these may need a change there: read its new text, and if ours still
fits it, put the digest that the test names here.
"""

import ast
import hashlib
import inspect
from importlib import metadata
from textwrap import dedent
from typing import Any

import celery
import django_celery_beat
import pytest
from amqp import method_framing
from amqp.serialization import GenericContent
from celery import beat as celery_beat
from celery.schedules import solar
from celery.worker import request, strategy
from celery.worker.consumer import consumer, gossip
from django_celery_beat import schedulers
from django_celery_beat.models import PeriodicTask
from kombu.transport import redis
from scheduling.worker import reporting

RELIED_ON = {
    celery_beat.Scheduler.__init__: "8ee14a22ba6a",
    celery_beat.Scheduler.apply_entry: "fb4620a574a3",
    celery_beat.Scheduler.apply_async: "73672c460d1d",
    celery_beat.Scheduler.close: "3cdd8491a195",
    celery_beat.Scheduler._ensure_connected: "2dbf6e9c2f6b",
    celery_beat.Service.start: "9bf75f5de50d",
    schedulers.ModelEntry.__init__: "59cbd0208075",
    schedulers.ModelEntry.from_entry.__func__: "1744a6c7ac18",
    schedulers.DatabaseScheduler.__init__: "1ca8ffc02263",
    schedulers.DatabaseScheduler.install_default_entries: "9e44b47f9d37",
    schedulers.DatabaseScheduler.update_from_dict: "5f5571eed7f5",
    PeriodicTask.save: "dd6fa4b8ebee",
    solar._next_event: "526d5a4da4f7",  # timing.py finds the same in strides
    redis.Channel._connparams: "517586669aa3",
    redis.Channel._brpop_read: "61a2bfc9294c",
    GenericContent.inbound_header: "05c81d726803",
    method_framing.frame_handler: "f21ad47ba2a5",
    consumer.Consumer.create_task_handler: "548d78039466",
    consumer.Consumer.on_decode_error: "5d874ba648ff",
    consumer.Consumer.on_invalid_task: "e613ca28403c",
    consumer.Consumer.on_unknown_message: "c2bfe666545d",
    consumer.Consumer.on_unknown_task: "cf275201441d",
    gossip.Gossip.on_message: "0b0c01b4231c",
    strategy.default: "c08e88d7aadd",
    request.Request.__init__: "bfd21c43be62",
    request.Request._announce_cancelled: "47f7ddce6783",
    request.Request.maybe_expire: "f68220e2b2d3",
    reporting.celerys_table: "63183f5c7a42",
}


@pytest.mark.parametrize("function", RELIED_ON, ids=lambda function: str(function.__qualname__))
def test_what_is_overridden_is_as_it_was(function: Any) -> None:
    code = ast.unparse(ast.parse(dedent(inspect.getsource(function))))  # without its comments
    digest = hashlib.sha256(code.encode()).hexdigest()[:12]

    assert digest == RELIED_ON[function], (
        f"{function.__qualname__} is another in Celery {celery.__version__} or django-celery-beat "
        f"{django_celery_beat.__version__}: see whether the engine still fits it"
    )


def test_no_newer_django_is_allowed() -> None:
    required = metadata.requires("django-celery-beat") or []

    (bounds,) = (text for text in required if text.startswith("Django"))

    assert bounds == "Django<6.1,>=2.2", (
        f"django-celery-beat {django_celery_beat.__version__} now wants {bounds}: let make canary take "
        "the newest Django that it allows, and then put these bounds here"
    )
