"""Let through what kombu cannot read, as a message that a worker puts aside.

kombu raises where Celery catches nothing: the worker ends. RabbitMQ then delivers the message to
the next one. Here such a message gets what it lacks: a tag by which it is acknowledged, and no
headers. So ``worker/consumer.py`` finds it to be no task.
"""

# kombu's stubs show its public part only:
# mypy: disable-error-code="attr-defined, no-untyped-call"

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from amqp import Message, method_framing
from kombu.transport import pyamqp
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

HEADER_FRAME = 2  # of AMQP: https://www.rabbitmq.com/amqp-0-9-1-protocol
NO_PROPERTIES = b"\0\0"  # after class, weight and size of the body, 12 bytes
KEPT = 1000  # bytes of an unreadable message: the log shows fewer


class ReadsAll:
    """A channel of kombu to Redis that delivers each message that it takes."""

    Message: Any
    global_keyprefix: str
    sep: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.client.set_response_callback("BRPOP", self.read)

    def read(self, reply: Any) -> Any:
        """Redis' answer, a queue's key and a message, with a message that kombu can read."""
        if not reply or self.is_readable(reply[1]):
            return reply
        key, text = reply
        queue = bytes_to_str(key).removeprefix(self.global_keyprefix).rsplit(self.sep, 1)[0]
        properties = {
            "delivery_tag": str(uuid4()),
            "delivery_info": {"exchange": "", "routing_key": queue},
        }
        head = text[:KEPT].decode(errors="backslashreplace")
        return key, dumps({"body": head, "headers": {}, "properties": properties})

    def is_readable(self, text: bytes) -> bool:
        """Whether kombu makes a message of it, which it can acknowledge and put back."""
        try:
            message = self.Message(loads(bytes_to_str(text)), channel=self)
            tag, info = message.delivery_tag, message.delivery_info
            names = (info["exchange"], info["routing_key"])
            return all(isinstance(name, str) for name in (tag, *names)) and any(names)
        except Exception:  # whatever kombu and codecs raise for what anybody may have sent
            return False


def frame_handler(connection: Any, callback: Callable[..., Any]) -> Callable[[Any], Any]:
    """py-amqp's handler of frames, which leaves out a message's properties if it cannot read them.

    A text may have any bytes, and a timestamp any size: other clients count milliseconds.
    """
    handle = method_framing.frame_handler(connection, callback)

    def on_frame(frame: tuple[int, int, bytes]) -> Any:
        kind, channel, content = frame
        try:
            return handle(frame)
        except Exception:
            if kind != HEADER_FRAME or has_readable_properties(content):
                raise
            return handle((kind, channel, content[:12] + NO_PROPERTIES))

    return on_frame


def has_readable_properties(content: bytes) -> bool:
    try:
        Message().inbound_header(content)
    except Exception:  # as above
        return False
    return True


class Connection(pyamqp.Connection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"frame_handler": frame_handler})


class Transport(pyamqp.Transport):
    """kombu's transport to RabbitMQ, which delivers each message."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):
    """The same for ``amqps://``."""

    Connection = Connection
