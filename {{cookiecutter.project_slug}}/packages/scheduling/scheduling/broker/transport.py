"""kombu's Redis transport, changed so that it loses no message between a queue and a worker.

kombu takes a message from its queue (BRPOP). Only when it has read the reply does it note in Redis
that the message is not acknowledged. A worker that is killed in between takes the message with it,
and a busy worker may leave a reply unread for as long as its tasks take. Here one script takes the
message and notes it. A script cannot wait, so BLMOVE waits where there was no message: it moves
the next one onto its own place.
"""

# kombu's stubs show its public part only:
# mypy: disable-error-code="attr-defined, assignment, misc, operator"

from queue import Empty
from time import monotonic, sleep, time
from typing import Any

from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import OutOfMemoryError

from scheduling.broker.batches import Pipelines
from scheduling.broker.waiting import RefusesLongWaits

# KEYS: unacknowledged messages, their index by time, the queues. ARGV: now, in seconds since 1970.
# The notes are those of kombu's QoS.append. allow-oom, since Redis 7: a full Redis can be emptied.
TAKE = """#!lua flags=allow-oom
for i = 3, #KEYS do
    local message = redis.call("RPOP", KEYS[i])
    if message then
        local noted = pcall(function()  -- if this fails, kombu notes or refuses the message
            local properties = cjson.decode(message).properties
            local tag, to = properties.delivery_tag, properties.delivery_info
            local names = cjson.encode({to.exchange, to.routing_key})
            redis.call("HSET", KEYS[1], tag, "[" .. message .. "," .. names:sub(2))
            redis.call("ZADD", KEYS[2], ARGV[1], tag)
        end)
        return {KEYS[i], message, noted}
    end
end
"""


class QoS(redis.QoS):
    def append(self, message: Any, delivery_tag: str) -> None:
        """Count a message as delivered. Note it, unless the script has noted it."""
        base = virtual.QoS if delivery_tag == self.channel.taken else redis.QoS
        base.append(self, message, delivery_tag)

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        if pipe:
            return super()._remove_from_indices(delivery_tag, pipe)
        with self.channel.conn_or_acquire() as client:
            pipe = client.pipeline(transaction=False)  # a full Redis refuses a MULTI
        return pipe.hdel(self.unacked_key, delivery_tag).zrem(self.unacked_index_key, delivery_tag)


class Channel(RefusesLongWaits, Pipelines, redis.Channel):
    QoS = QoS
    taken = ""  # the tag of the message that is being delivered, if the script has noted it
    waiting = False  # whether the next command waits for a message instead of taking one

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.params: dict[bool, dict[str, Any]] = {}
        super().__init__(*args, **kwargs)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """Keep the first parameters.

        Celery 5.7's worker drops them when it loses its connection, needs them to put its messages
        back, and would end without them.
        """
        if asynchronous not in self.params:
            self.params[asynchronous] = super()._connparams(asynchronous)
        return self.params[asynchronous]

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        keys = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        keys = [
            self.global_keyprefix + key for key in (self.unacked_key, self.unacked_index_key, *keys)
        ]
        if self.waiting:
            command = ["BLMOVE", keys[2], keys[2], "RIGHT", "RIGHT", timeout or self.brpop_timeout]
        else:
            command = ["EVAL", TAKE, len(keys), *keys, time()]
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self._in_poll.send_command(*command)

    def _brpop_read(self, **options: Any) -> bool:
        connection = self.client.connection
        waited, self.waiting = self.waiting, False
        try:
            try:
                reply = self.client.parse_response(connection, "EVAL", **options)
            except self.connection_errors:
                connection.disconnect()
                raise
            except OutOfMemoryError:  # a full Redis refuses BLMOVE
                sleep(self.brpop_timeout)
                reply = None
            if waited or not reply:
                self.waiting = not waited
                raise Empty
            key, text, noted = reply
            queue = bytes_to_str(key).removeprefix(self.global_keyprefix).rsplit(self.sep, 1)[0]
            message = loads(bytes_to_str(text))
            tag = message["properties"]["delivery_tag"]
            self._queue_cycle.rotate(queue)
            # Any channel sends back a message that no consumer wants.
            self.taken = tag if noted and queue in self.connection._callbacks else ""
            self.connection._deliver(message, queue)
            if self.taken and tag not in self.qos._delivered:  # nobody acknowledges it
                self.qos._remove_from_indices(tag).execute()
            return True
        finally:
            self.taken = ""
            self._in_poll = None
            self._flush_brpop_reauth()


class Transport(redis.Transport):
    Channel = Channel
    # Seconds. BLMOVE waits for one queue; other queues and priorities wait until it returns.
    brpop_timeout: float = 0.2
