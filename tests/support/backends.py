# SPDX-License-Identifier: MIT
"""The two backends as a test sees them: a URL to mount, and what is really in a queue."""

import contextlib
import dataclasses
import os
import socket
import urllib.parse

import pika

from processes import eventually

BASIC = ("content_type", "content_encoding", "correlation_id", "reply_to", "type", "app_id", "message_id", "expiration")


@dataclasses.dataclass
class Message:
    """What came out of a queue, whichever way."""

    body: bytes
    priority: int = 0
    headers: dict = dataclasses.field(default_factory=dict)
    properties: dict = dataclasses.field(default_factory=dict)
    redelivered: bool = False
    delivery_mode: int = 2
    timestamp: int = 0


class Sqlite:
    """The embedded store: nobody but mqfs can look into it."""

    name = "sqlite"

    def __init__(self, directory):
        self.path = directory / "store.db"
        self.url = f"sqlite:{self.path}"

    def depth(self, queue):
        return int(queue.stats()["ready"])

    def drain(self, queue):
        """Takes out all there is."""
        messages = []
        while names := queue.names("pending"):
            messages += [self._take(queue, name) for name in names]
        return messages

    @staticmethod
    def _take(queue, name):
        path = queue.pending / name
        values = {key[len("user.mqfs."):]: os.getxattr(path, key).decode(errors="replace")
                  for key in os.listxattr(path) if key.startswith("user.mqfs.")}
        body = path.read_bytes()
        os.unlink(path)
        return Message(body, int(values.get("priority", 0)),
                       {key[len("header."):]: value for key, value in values.items() if key.startswith("header.")},
                       {key: values[key.replace("_", "-")] for key in BASIC if key.replace("_", "-") in values},
                       values.get("redelivered") in ("1", "yes", "true"))

    def expect(self, queue, count, seconds=10):
        """Exactly that many messages; gives them. Nothing more may follow."""
        messages = []

        def enough():
            messages.extend(self.drain(queue))
            return len(messages) >= count

        if count:
            eventually(enough, seconds, f"{count} messages (now {messages})")
        else:
            enough()
        assert len(messages) == count, messages
        return messages

    def abort(self):
        """Nothing that waits."""

    def close(self):
        """Nothing to end: the store is a file in the test's directory."""


class Rabbit:
    """A virtual host of its own on the run's broker, watched through pika."""

    name = "rabbitmq"

    def __init__(self, broker, vhost):
        self.broker = broker
        self.vhost = vhost
        self.url = broker.url(vhost)
        self._connection = None
        broker.add_vhost(vhost)

    def connect(self, user="guest", password="guest"):
        parameters = pika.URLParameters(self.broker.url(self.vhost, user, password))
        parameters.heartbeat = 0
        parameters.socket_timeout = parameters.blocked_connection_timeout = 15
        return pika.BlockingConnection(parameters)

    def channel(self):
        """A fresh channel each time: a refused operation closes the one it was tried on."""
        if self._connection is None or self._connection.is_closed:
            self._connection = self.connect()
        return self._connection.channel()

    def declare(self, name, arguments=None, durable=True):
        channel = self.channel()
        channel.queue_declare(name, durable=durable, arguments=arguments or {})
        channel.close()

    def delete(self, name):
        channel = self.channel()
        channel.queue_delete(name)
        channel.close()

    def exists(self, name):
        return self.passive(name) is not None

    def passive(self, name):
        channel = self.channel()
        try:
            answer = channel.queue_declare(name, passive=True).method
        except pika.exceptions.ChannelClosedByBroker:
            return None
        channel.close()
        return answer

    def publish(self, name, *bodies, confirm=True, user="guest", password="guest", **properties):
        connection = None if user == "guest" else self.connect(user, password)
        channel = connection.channel() if connection else self.channel()
        if confirm:
            channel.confirm_delivery()
        properties.setdefault("delivery_mode", 2)
        for body in bodies:
            channel.basic_publish("", name, body, pika.BasicProperties(**properties), mandatory=confirm)
        channel.close()
        if connection:
            connection.close()

    def depth(self, queue):
        """Messages that are ready, as the broker counts them."""
        return self.passive(getattr(queue, "name", queue)).message_count

    def drain(self, queue):
        """Takes out all there is."""
        name = getattr(queue, "name", queue)
        channel = self.channel()
        messages = []
        while True:
            method, properties, body = channel.basic_get(name, auto_ack=True)
            if method is None:
                channel.close()
                return messages
            messages.append(Message(
                body, properties.priority or 0, properties.headers or {},
                {key: getattr(properties, key) for key in BASIC if getattr(properties, key) is not None},
                method.redelivered, properties.delivery_mode, properties.timestamp or 0))

    def expect(self, queue, count, seconds=10):
        """Exactly that many messages; gives them. Nothing more may follow."""
        if count:
            eventually(lambda: self.depth(queue) >= count, seconds, f"{count} messages")
        messages = self.drain(queue)
        assert len(messages) == count, messages
        return messages

    def queues(self):
        """The names of all queues with their arguments, from the management API."""
        path = f"queues/{urllib.parse.quote(self.vhost, safe='')}?disable_stats=true"
        return {queue["name"]: queue for queue in self.broker.api("GET", path)}

    def abort(self):
        """Hangs up: ends whatever pika waits for, on any thread."""
        if self._connection:
            with contextlib.suppress(AttributeError, OSError):
                self._connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)  # pylint: disable=protected-access

    def close(self):
        self.abort()  # an orderly close would wait for answers, for ever if there are none
        self.broker.delete_vhost(self.vhost)
