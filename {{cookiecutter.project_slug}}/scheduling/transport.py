"""kombu's Redis transport, which loses no message between a queue and a worker.

kombu takes a message from its queue (BRPOP), and when it has read the reply, it notes in Redis that
the message is not acknowledged. A worker that is killed in between takes the message with it; a
busy one may leave a reply unread for as long as its tasks take. Here a script does both at once. It
cannot wait for a message; where there was none, BLMOVE does, and puts it back where it was.
"""

# kombu's stubs show its public part only:
# mypy: disable-error-code="attr-defined, assignment, operator"

from queue import Empty
from time import monotonic, time
from typing import Any

from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

# KEYS: what is not acknowledged, its index by time, the queues. ARGV: now, in seconds since 1970.
# Written as kombu's QoS.append writes it; a full Redis (allow-oom, since Redis 7) can be emptied.
TAKE = """#!lua flags=allow-oom
for i = 3, #KEYS do
    local message = redis.call("RPOP", KEYS[i])
    if message then
        pcall(function()  -- what is no message of kombu's is for kombu to refuse
            local properties = cjson.decode(message).properties
            local tag, to = properties.delivery_tag, properties.delivery_info
            local names = cjson.encode({to.exchange, to.routing_key})
            redis.call("HSET", KEYS[1], tag, "[" .. message .. "," .. names:sub(2))
            redis.call("ZADD", KEYS[2], ARGV[1], tag)
        end)
        return {KEYS[i], message}
    end
end
"""


class QoS(redis.QoS):
    def append(self, message: Any, delivery_tag: str) -> None:
        """Count a message as delivered; the script has written the rest, unless it was got alone."""
        base = virtual.QoS if delivery_tag == self.channel.taken else redis.QoS
        base.append(self, message, delivery_tag)


class Channel(redis.Channel):
    QoS = QoS
    taken = ""  # the tag of the message that the script took last
    waiting = False  # for a message, in place of taking one

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        keys = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        if self.waiting:
            end = timeout or self.brpop_timeout
            command = ["BLMOVE", keys[0], keys[0], "RIGHT", "RIGHT", end]
        else:
            keys = [self.unacked_key, self.unacked_index_key, *keys]
            command = ["EVAL", TAKE, len(keys), *keys, time()]
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self._in_poll.send_command(*command)

    def _brpop_read(self, **options: Any) -> bool:
        connection = self.client.connection
        try:
            try:
                reply = self.client.parse_response(connection, "EVAL", **options)
            except self.connection_errors:
                connection.disconnect()
                raise
            waited, self.waiting = self.waiting, not self.waiting and not reply
            if waited or not reply:
                raise Empty
            key, text = map(bytes_to_str, reply)
            queue, message = key.rsplit(self.sep, 1)[0], loads(text)
            self._queue_cycle.rotate(queue)
            self.taken = message["properties"]["delivery_tag"]
            self.connection._deliver(message, queue)
            if self.taken not in self.qos._delivered:  # nobody will acknowledge it
                self.qos._remove_from_indices(self.taken).execute()
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()


class Transport(redis.Transport):
    Channel = Channel
    # Seconds. BLMOVE waits for one queue: others, and messages with a priority, wait for its end.
    brpop_timeout: float = 0.2
