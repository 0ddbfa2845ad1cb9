# SPDX-License-Identifier: MIT
"""R6: what kills its reader's host each time ends in dead/, and what merely waited beside it does not."""

import contextlib
import os
import sqlite3
import time

import pytest

from processes import eventually

DIED = "taken {} times and never settled (the reader, mqfs or the host died)"


def takes(target):
    """What is on the disk: how often each message was taken and not settled, in order."""
    (path,) = (target.home / "state/mqfs").glob("*.state")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as connection:
        return sorted(row[0] for row in connection.execute("SELECT takes FROM take"))


def taken_from(queue, body):
    """Takes the message with that body, without opening the others; gives its name."""
    def find():
        for name in queue.names("peek"):
            if (queue.path / "peek" / name / "body").read_bytes() == body:
                return name
        return None

    queue.names("pending")
    name = eventually(find, 20, "the message")
    os.rename(queue.pending / name, queue.claimed / name)
    return name


def end_with_claim(target, queue, body, count):
    """kill -9 of mqfs in the middle of handling body, once the take is on the disk; the queue of the next mount."""
    taken_from(queue, body)
    eventually(lambda: takes(target) == [count], 5, f"take {count} on the disk")
    target.kill()
    target.start()
    return target.queue("jobs")


@pytest.mark.deadline(120)
def test_r6_a_killer_of_mqfs_is_buried(mount):
    """It is taken max-attempts times, and mqfs dies each time. What waited in pending/ all along has no attempts."""
    target = mount(max_attempts=3, lease_timeout="1s")
    queue = target.make("jobs")
    queue.publish(b"poison", b"harmless")
    queue.wait_names("pending", 2)
    for count in (1, 2, 3):
        queue = end_with_claim(target, queue, b"poison", count)
        if count < 3:
            queue.wait_names("pending", 2, seconds=20)
            assert sorted(queue.meta("peek", name)["attempts"] for name in queue.names("peek")) == [0, count]
            assert sorted(queue.xattr("pending", name, "attempts") for name in queue.names("pending")) == ["0", str(count)]
    (harmless,) = queue.wait_names("pending", 1, seconds=20)
    (dead,) = queue.wait_names("dead", 1)
    meta = queue.meta("dead", dead)
    assert (queue.dead / dead / "body").read_bytes() == b"poison"
    assert (meta["attempts"], meta["dead_reason"], meta["error"]) == (3, "max-attempts", DIED.format(3))
    assert queue.xattr("pending", harmless, "redelivered") == "1"
    assert queue.consume(1) == [b"harmless"]
    eventually(lambda: takes(target) == [], 5, "nothing left on the disk")


@pytest.mark.deadline(120)
@pytest.mark.only("rabbitmq")  # in the embedded store every message has an id
def test_r6_without_message_id(mount, backend):
    """Known by its body: equal ones that are taken together are one, and none is dead too early."""
    target = mount(max_attempts=2)
    queue = target.make("jobs")
    backend.publish("jobs", b"equal", b"equal", b"equal")
    for _ in range(3):
        queue.take()
    eventually(lambda: takes(target) == [3], 5, "three takes in one row")
    target.kill()
    target.start()
    queue = target.queue("jobs")
    queue.wait_names("pending", 3, seconds=20)
    queue.take()
    eventually(lambda: takes(target) == [1, 3], 5, "a second session's row")
    target.kill()
    target.start()
    queue = target.queue("jobs")
    queue.names("pending")
    queue.wait_names("dead", 3, seconds=20)


@pytest.mark.deadline(90)
def test_r6_given_back_is_not_counted(mount):
    """mv claimed/X pending/, and an orderly end with a claim, leave nothing."""
    target = mount(max_attempts=1, lease_timeout="1s", drain_timeout="0s")
    queue = target.make("jobs")
    queue.publish(b"body")
    name = queue.take()
    eventually(lambda: takes(target) == [1], 5, "the take on the disk")
    os.rename(queue.claimed / name, queue.pending / name)
    eventually(lambda: takes(target) == [], 5, "the take forgotten")
    queue.take()
    eventually(lambda: takes(target) == [1], 5, "the next take on the disk")
    assert target.terminate() == 0
    assert takes(target) == []
    target.start()
    queue = target.queue("jobs")
    (name,) = queue.wait_names("pending", 1, seconds=20)
    assert queue.meta("peek", name)["attempts"] == 0


@pytest.mark.deadline(90)
@pytest.mark.parametrize("special", ["claim", "next"])
def test_r6_an_end_with_an_open_claim_is_not_counted(mount, special):
    """Nor does an orderly end while a reader has claim or next open: nothing of it is left on the disk."""
    target = mount(lease_timeout="1s", drain_timeout="0s")
    queue = target.make("jobs")
    queue.publish(b"body")
    file = os.open(queue.path / special, os.O_RDONLY)
    try:
        assert os.read(file, 100)
        eventually(lambda: takes(target) == [1], 5, "the take on the disk")
        assert target.terminate() == 0
        assert takes(target) == []
    finally:
        with contextlib.suppress(OSError):  # nobody is there to be told
            os.close(file)
    target.start()
    queue = target.queue("jobs")
    (name,) = queue.wait_names("pending", 1, seconds=20)
    assert queue.meta("peek", name)["attempts"] == 0


@pytest.mark.deadline(90)
def test_r6_counts_with_the_failed_ones(mount):
    """Failed attempts of the headers, unsettled takes, and the next failure add up; none is counted twice."""
    target = mount(max_attempts=4, lease_timeout="1s", backoff_base="100ms")
    queue = target.make("jobs")
    queue.publish(b"body")
    queue.fail_to("retry", error="first")
    queue = end_with_claim(target, queue, b"body", 1)
    (name,) = queue.wait_names("pending", 1, seconds=20)
    assert queue.meta("peek", name)["attempts"] == 2
    queue.fail_to("retry", error="third")
    eventually(lambda: takes(target) == [], 5, "takes that went into the copy's header")
    (name,) = queue.wait_names("pending", 1, seconds=20)
    assert queue.meta("peek", name)["attempts"] == 3
    queue.fail_to("retry", error="fourth")
    (dead,) = queue.wait_names("dead", 1, seconds=20)
    assert queue.meta("dead", dead)["attempts"] == 4


@pytest.mark.deadline(90)
def test_r6_quick_work_never_touches_the_disk(mount):
    """What is taken and settled at once is never recorded."""
    target = mount()
    queue = target.make("jobs")
    (path,) = (target.home / "state/mqfs").glob("*.state-wal")

    def quick_enough():
        queue.publish(*[b"%d" % number for number in range(10)])
        queue.wait_names("pending", 10)
        before, start = (path.stat().st_mtime_ns, path.stat().st_size), time.monotonic()
        assert len(queue.consume(10)) == 10
        quick = time.monotonic() - start < 0.5  # or a take may have lasted as long
        assert not quick or (path.stat().st_mtime_ns, path.stat().st_size) == before
        return quick

    eventually(quick_enough, 30, "a machine that takes and settles ten messages in half a second")
