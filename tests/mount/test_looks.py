# SPDX-License-Identifier: MIT
"""What another host looks at is as safe as what nobody does (Q3, R5)."""

import errno
import os

import pytest

from processes import eventually, stays
from test_drafts import errno_of
from test_failing import bury

pytestmark = pytest.mark.only("rabbitmq")
WORDS = [b"one", b"two", b"three"]


def look_from_elsewhere(mount, where):
    """Three messages that have failed, and another mount that holds them all."""
    queue = mount(backoff_base="5min").make("jobs")
    for word in WORDS:
        queue.publish(word)
        queue.fail_to(where)
    other = mount().queue("jobs")
    other.wait_names(where, len(WORDS))
    return queue, other


@pytest.mark.parametrize("where", ["dead", "retry"])
def test_q3_rmdir_while_another_host_looks(mount, where):
    """Q3: what another host looks at is not ready, and content all the same: EBUSY, and nothing is lost."""
    queue, other = look_from_elsewhere(mount, where)
    # All is held; a look holds it for 5 s.
    eventually(lambda: len(other.names(where)) == 3 and queue.stats()[where] == 0, what="a look that holds all")
    assert errno_of(os.rmdir, queue.path) == errno.EBUSY
    assert sorted(other.bodies(where)) == sorted(WORDS)
    assert other.mount.terminate() == 0
    queue.wait_stats(**{where: 3})
    assert errno_of(os.rmdir, queue.path) == errno.ENOTEMPTY
    queue.wait_names(where, 3)


def test_q3_dead_stays_while_another_host_looks(mount, backend):
    """Q3: should the queue go in spite of that, the messages stay."""
    _, other = look_from_elsewhere(mount, "dead")
    channel = backend.channel()
    channel.queue_delete("jobs")
    answer = channel.queue_declare("jobs.dead", passive=True).method
    assert (answer.message_count, answer.consumer_count) == (0, 1)
    with pytest.raises(Exception, match="in use"):
        channel.queue_delete("jobs.dead", if_unused=True, if_empty=True)
    assert other.mount.terminate() == 0
    assert sorted(message.body for message in backend.expect("jobs.dead", 3)) == sorted(WORDS)


def test_q3_rmdir_follows_discard(mount, backend):
    """Q3: a look whose every message was discarded is in nobody's way."""
    queue = mount().make("jobs")
    for _ in range(3):
        (name,) = bury(queue, b"one")
        os.rmdir(queue.dead / name)
    queue.consume(0)
    assert errno_of(os.rmdir, queue.path) == 0
    eventually(lambda: not backend.queues(), what="no queue left")


def test_r5_what_comes_during_a_look_is_put_back(mount, backend):
    """R5: a look takes along what is buried meanwhile, lists it, and puts it back with the rest."""
    queue = mount().make("jobs")
    bury(queue, b"one")
    bury(queue, b"two")
    assert sorted(queue.bodies("dead")) == [b"one", b"two"]
    backend.publish("jobs.dead", b"three")
    names = queue.wait_names("dead", 3)
    stays(lambda: sorted(queue.names("dead")) == sorted(names), 1)
    eventually(lambda: backend.passive("jobs.dead").consumer_count == 0, 20, "the look's end")
    assert sorted(message.body for message in backend.expect("jobs.dead", 3)) == sorted([b"one", b"two", b"three"])


def test_q3_quorum_dead_queue_while_another_host_looks(mount, backend):
    """Q3: as above where somebody else made Q.dead as a quorum queue, which is never deleted."""
    backend.declare("jobs.dead", {"x-queue-type": "quorum"})
    queue, other = look_from_elsewhere(mount, "dead")
    assert backend.passive("jobs.dead").consumer_count == len(WORDS), "what was got, and no consumer beside"
    assert errno_of(os.rmdir, queue.path) == errno.EBUSY
    for name in other.names("dead"):
        os.rmdir(other.dead / name)
    eventually(lambda: errno_of(os.rmdir, queue.path) == 0, what="rmdir")
    assert backend.passive("jobs.dead").message_count == 0
