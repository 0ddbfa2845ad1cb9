# SPDX-License-Identifier: MIT
"""C9: claims outlive their connection, and their outcomes mqfs itself. Real brokers, killed for real."""

import contextlib
import errno
import os
import time

import pika
import pytest

from processes import background, eventually
from test_drafts import errno_of

# Says that it has a claim, waits for its cue, and settles what it has.
WORKER = 'n=$(cat claim) && echo > "$1/$n" && until [ -e "$1/go" ]; do sleep 0.05; done && {}'


class Outside:
    """The queue as pika sees it."""

    def __init__(self, broker):
        parameters = pika.URLParameters(broker.url())
        parameters.heartbeat = 0
        self.connection = pika.BlockingConnection(parameters)
        self.channel = self.connection.channel()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(pika.exceptions.AMQPError):
            self.connection.close()

    def drain(self, queue):
        bodies = []
        while (got := self.channel.basic_get(queue, auto_ack=True))[0]:
            bodies.append(got[2])
        return bodies

    def publish_redelivered(self, queue, *messages):
        """Messages that come as redelivered: (body, properties)."""
        self.channel.confirm_delivery()
        for body, properties in messages:
            self.channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, **properties))
        tags = [self.channel.basic_get(queue)[0].delivery_tag for _ in messages]
        self.channel.basic_nack(tags[-1], multiple=True)


def all_gone(broker, queue):
    """Nothing is left at the broker: ready, or held by anybody."""
    def gone():
        queues = broker.api("GET", f"queues/{broker.vhost}?disable_stats=true&enable_queue_totals=true")
        return [found.get("messages") for found in queues if found["name"] == queue.name] == [0]
    return gone


def away(target):
    """mqfs has noticed that the broker has gone."""
    eventually(lambda: "connected no" in (target.path / ".mqfs/status").read_text(), 20, "a lost connection")


def lost_claims(own_broker, mounts, count, quorum_seconds=0, **options):
    """A mount that has claims whose broker is dead: the mount, its queue and their names by body. A quorum queue that is
    younger than 2 s when the broker is killed is broken afterwards (3.10), which the delay queues shall not be."""
    target = mounts.add(own_broker.url(), {"heartbeat": "2s", **options})
    queue = target.make("jobs")
    for number in range(count):
        queue.publish(b"%d" % number)
    queue.wait_names("pending", count)
    names = {}
    for _ in range(count):
        name = queue.take()
        names[int((queue.claimed / name).read_bytes())] = name
    time.sleep(quorum_seconds)
    own_broker.kill()
    away(target)
    return target, queue, names


@pytest.mark.deadline(120)
@pytest.mark.parametrize("restarted", [False, True], ids=["living", "restarted"])
def test_c9_eight_workers_finish_while_the_broker_is_dead(own_broker, mounts, room, restarted):
    """What they did is not handed out again, also when mqfs is killed before the broker is back."""
    target = mounts.add(own_broker.url(), {"heartbeat": "2s"})
    queue = target.make("jobs")
    cue = room / "cue"
    cue.mkdir()
    for number in range(8):
        queue.publish(b"%d" % number)
    words = ["bash", "--norc", "-c", WORKER.format('rm "claimed/$n"'), "worker", cue]
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(background(words, cwd=queue.path)) for _ in range(8)]
        eventually(lambda: len(os.listdir(cue)) == 8, 20, "eight claims")
        own_broker.kill()
        away(target)
        (cue / "go").touch()
        assert [worker.wait(20) for worker in workers] == [0] * 8
    assert queue.names("claimed") == []
    if restarted:
        target.kill()
    own_broker.start()
    if restarted:
        target.start()
        queue = target.queue("jobs")
    queue.names("pending")  # consuming begins
    eventually(all_gone(own_broker, queue), 30, "an empty queue")
    assert queue.names("pending") == [] and queue.names("claimed") == [] and queue.names("dead") == []
    queue.wait_stats(redelivered=8)
    queue.publish(b"after")
    assert queue.consume(1) == [b"after"]


@pytest.mark.deadline(120)
def test_c9_acks_that_the_broker_never_read(own_broker, mounts):
    """The broker is stopped, then killed: rm has succeeded meanwhile, and what it did is done."""
    target = mounts.add(own_broker.url(), {"heartbeat": "2s"})
    queue = target.make("jobs")
    for number in range(8):
        queue.publish(b"%d" % number)
    queue.wait_names("pending", 8)
    names = [queue.take() for _ in range(8)]
    own_broker.pause()
    for name in names:
        os.unlink(queue.claimed / name)
    own_broker.kill()
    away(target)
    own_broker.start()
    eventually(lambda: queue.names("pending") == [] and queue.stats()["redelivered"] == 8, 40, "eight redeliveries")
    assert queue.names("claimed") == []
    eventually(all_gone(own_broker, queue), 20, "an empty queue")


@pytest.mark.deadline(120)
def test_c9_every_outcome_survives_a_restart(own_broker, mounts):
    """rm, mv retry/ and mv dead/ of lost claims, then kill -9 of mqfs: each is applied, once, with its reason."""
    target, queue, names = lost_claims(own_broker, mounts, 4, quorum_seconds=2, backoff_base="1s")
    os.unlink(queue.claimed / names[0])
    (queue.claimed / f"{names[1]}.error").write_text("exit 75\n")
    os.rename(queue.claimed / names[1], queue.retry / names[1])
    (queue.claimed / f"{names[2]}.error").write_text("no such person\n")
    os.rename(queue.claimed / names[2], queue.dead / names[2])
    assert queue.names("claimed") == [names[3]]  # nobody decided about this one
    target.kill()
    own_broker.start()
    target.start()
    queue = target.queue("jobs")
    found = {}

    def both():
        for name in queue.names("pending"):
            os.rename(queue.pending / name, queue.claimed / name)
            meta = queue.meta("peek", name)
            found[(queue.claimed / name).read_bytes()] = (meta["attempts"], meta["error"])
        return len(found) == 2

    eventually(both, 30, "the retried and the undecided")
    assert found[b"1"] == (2, "exit 75")
    assert found[b"3"][1] is None
    dead = queue.wait_names("dead", 1)[0]
    meta = queue.meta("dead", dead)
    assert (queue.dead / dead / "body").read_bytes() == b"2"
    assert (meta["error"], meta["attempts"], meta["dead_reason"]) == ("no such person", 1, "rejected")
    # Used up: a replay has the same message-id, and is handed out, redelivered or not.
    os.rename(queue.dead / dead, queue.new / dead)
    queue.take()
    target.kill()
    target.start()
    queue = target.queue("jobs")
    queue.names("pending")
    eventually(lambda: b"2" in queue.bodies("peek"), 20, "the replay, redelivered")


@pytest.mark.deadline(120)
def test_c9_nothing_but_the_copy_is_matched(own_broker, mounts):
    """An outcome is there, and messages come with that message-id, redelivered, but they are other copies."""
    target = mounts.add(own_broker.url(), {"heartbeat": "2s"})
    queue = target.make("jobs")
    queue.publish(b"original", message_id="m-1")
    name = queue.take()
    own_broker.kill()
    away(target)
    os.unlink(queue.claimed / name)
    target.kill()
    own_broker.start()
    with Outside(own_broker) as outside:
        original = eventually(lambda: outside.channel.basic_get("jobs", auto_ack=True), 10, "the original")
        assert original[2] == b"original" and original[1].headers["mqfs-copy"]
        retry = {**original[1].headers, "mqfs-copy": "01234567-89ab-7def-8123-456789abcdef", "mqfs-attempts": 1}
        outside.publish_redelivered("jobs", (b"a retry", {"message_id": "m-1", "headers": retry}),
                                    (b"a stranger's", {"message_id": "m-1"}),
                                    (b"another", {"message_id": "m-2", "headers": original[1].headers}))
    target.start()
    queue = target.queue("jobs")
    assert sorted(queue.consume(3)) == [b"a retry", b"a stranger's", b"another"]
    eventually(all_gone(own_broker, queue), 20, "acknowledgements that kill -9 can't overtake")
    target.kill()
    with Outside(own_broker) as outside:  # and the very copy is
        outside.publish_redelivered("jobs", (original[2], {"message_id": "m-1", "headers": original[1].headers}))
    target.start()
    queue = target.queue("jobs")
    queue.names("pending")
    eventually(all_gone(own_broker, queue), 20, "the copy, settled unseen")


@pytest.mark.deadline(120)
def test_c9_without_message_id(own_broker, mounts):
    """Two equal bodies without ids: settling either fails with ESTALE, and both are delivered again."""
    target = mounts.add(own_broker.url(), {"heartbeat": "2s"})
    queue = target.make("jobs")
    with Outside(own_broker) as outside:
        outside.channel.confirm_delivery()
        for _ in range(2):
            outside.channel.basic_publish("", "jobs", b"equal", pika.BasicProperties(delivery_mode=2))
    names = [queue.take(), queue.take()]
    own_broker.kill()
    away(target)
    assert errno_of(os.unlink, queue.claimed / names[0]) == errno.ESTALE
    assert errno_of(os.rename, queue.claimed / names[1], queue.dead / names[1]) == errno.ESTALE
    own_broker.start()
    assert queue.consume(2, seconds=30) == [b"equal", b"equal"]
    eventually(all_gone(own_broker, queue), 20, "an empty queue")


@pytest.mark.deadline(120)
def test_c9_outcomes_age_out(own_broker, mounts):
    """After settled-ttl an outcome is forgotten: the message is handed out again."""
    target, queue, names = lost_claims(own_broker, mounts, 1, settled_ttl="1s")
    os.unlink(queue.claimed / names[0])
    target.kill()
    own_broker.start()
    time.sleep(1)  # the outcome's age is what is tested
    target.start()
    assert target.queue("jobs").consume(1, seconds=20) == [b"0"]


@pytest.mark.deadline(120)
def test_c9_forward_of_a_lost_claim(own_broker, mounts):
    """mv of a lost claim into another queue: published there, and the original is acknowledged when it comes again."""
    target, queue, names = lost_claims(own_broker, mounts, 1, consumer_timeout="1h")
    assert errno_of(os.rename, queue.claimed / names[0], target.path / "jobs/new/x") in (errno.EHOSTDOWN,
                                                                                         errno.ETIMEDOUT)
    assert queue.names("claimed") == [names[0]]
    own_broker.start()
    eventually(lambda: errno_of(os.mkdir, target.path / "other") in (0, errno.EEXIST), 30, "another queue")
    other = target.queue("other")
    eventually(lambda: errno_of(os.rename, queue.claimed / names[0], other.new / "x") == 0, 20, "the forward")
    assert other.consume(1) == [b"0"]
    eventually(all_gone(own_broker, queue), 20, "the original, acknowledged")
    assert queue.names("pending") == [] and queue.names("claimed") == []
