# SPDX-License-Identifier: MIT
"""What fails on the worker's own host: its disk, its clock, its file descriptors. In each fault: a clear errno, and `ls`,
`stat` and `df` at once; after it: all is well again within 10 s, and nothing is lost."""

import concurrent.futures
import contextlib
import errno
import os
import resource
import time

import pytest

from conftest import PATIENT
from disks import Disk
from failpoints import Failpoints
from processes import eventually
from test_drafts import errno_of

ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "broken": errno.EIO}
REASONS = {"full": "the disk is full", "read-only": "the store is read-only",
           "broken": "the store could not be read or written"}
BACK_SECONDS = 10  # how soon all is well again


def look_around(queue):
    """ls, stat and df answer within 0.2 s; a busy machine gets several tries."""
    def once():
        start = time.monotonic()
        for where in ("new", "pending", "claimed", "retry", "dead"):
            os.listdir(queue.path / where)
        os.stat(queue.path / "new")
        os.statvfs(queue.mount.path)
        return time.monotonic() - start

    assert min(once() for _ in range(5)) < 0.2


def reason(queue, name):
    with contextlib.suppress(OSError):
        return queue.xattr("claimed", name, "error")
    return ""  # being settled just now


def open_descriptors(mount):
    return len(os.listdir(f"/proc/{mount.process.pid}/fd"))


# -- the disk ---------------------------------------------------------------

@pytest.fixture
def disk(room):
    made = Disk(room)
    yield made
    made.close()


@pytest.fixture(params=ERRORS)
def illness(request):
    return request.param


def test_sick_disk_under_the_store(disk, illness, mounts):
    """Tenets 1, 4, 5: publishing is refused and its draft kept; what was settled is done when the disk is well."""
    target = mounts.add(f"sqlite:{disk.path}/store.db", PATIENT)
    queue = target.make("jobs")
    queue.publish(*(b"%d" % number for number in range(6)))
    names = queue.wait_names("pending", 6)
    for name in names[:3]:
        os.rename(queue.pending / name, queue.claimed / name)
    (queue.new / ".draft").write_bytes(b"8")

    disk.fall_ill(ERRORS[illness])
    start = time.monotonic()
    assert errno_of((queue.new / "job").write_bytes, b"7") == ERRORS[illness]
    assert errno_of(os.rename, queue.new / ".draft", queue.new / "renamed") == ERRORS[illness]
    assert time.monotonic() - start < 9
    assert sorted(os.listdir(queue.new)) == [".draft", "job"]
    os.unlink(queue.claimed / names[0])
    os.rename(queue.claimed / names[1], queue.retry / names[1])
    for name in names[:2]:
        eventually(lambda name=name: REASONS[illness] in reason(queue, name), 10, "the reason")
    look_around(queue)
    assert REASONS[illness] in target.log()

    disk.recover()
    start = time.monotonic()
    eventually(lambda: queue.names("claimed") == [names[2]], BACK_SECONDS, "what was settled")
    os.rename(queue.new / "job", queue.new / "again")
    os.rename(queue.new / ".draft", queue.new / "renamed")
    assert time.monotonic() - start < BACK_SECONDS
    os.rename(queue.claimed / names[2], queue.pending / names[2])
    assert sorted(queue.consume(7, seconds=20)) == [b"1", b"2", b"3", b"4", b"5", b"7", b"8"]


def test_disk_that_does_not_answer(disk, mounts):
    """Tenet 4: while the store waits for its disk, ls of the mount shows what is known, at once."""
    target = mounts.add(f"sqlite:{disk.path}/store.db", PATIENT)
    queue = target.make("jobs")

    def listed():
        start = time.monotonic()
        assert "jobs" in os.listdir(target.path)
        return time.monotonic() - start

    with concurrent.futures.ThreadPoolExecutor() as pool, disk.stalled():
        writer = pool.submit((queue.new / "job").write_bytes, b"body")
        eventually(lambda: listed() > 0.15, what="a store that waits")
        assert min(listed() for _ in range(3)) < 0.5
    assert writer.result(30) == 4
    assert queue.consume(1) == [b"body"]


def test_killed_while_the_disk_is_sick(disk, illness, mounts, room):
    """kill -9 meanwhile: mounted or not as long as the disk is ill, and then everything is there."""
    target = mounts.add(f"sqlite:{disk.path}/store.db", {**PATIENT, "lease_timeout": "1s"})
    queue = target.make("jobs")
    queue.publish(*(b"%d" % number for number in range(4)))
    name = queue.take()
    disk.fall_ill(ERRORS[illness])
    assert errno_of((queue.new / "job").write_bytes, b"lost with its writer's leave") == ERRORS[illness]
    os.rename(queue.claimed / name, queue.retry / name)
    target.kill()
    target.start(wait=False)
    if illness == "read-only":
        assert target.wait(15) != 0
        assert "store.db" in target.log().splitlines()[-1]
        disk.recover()
        target.start()
    else:
        target.wait_mounted()
        assert errno_of((queue.new / "job").write_bytes, b"again") == ERRORS[illness]
        disk.recover()
    assert sorted(queue.consume(4, seconds=20)) == [b"0", b"1", b"2", b"3"]


# -- the clock --------------------------------------------------------------

DAY = 86400


@pytest.mark.deadline(90)
def test_clock_jumps(backend, mounts, room):
    """C2, C8, R1: whatever is done to the clock, names grow, claims last, and what failed is tried again."""
    clock = Failpoints(room / "clock")
    target = mounts.add(backend.url, {**PATIENT, "backoff_base": "1s", "claim_timeout": "20s", "lease_timeout": "2s"},
                        failpoints=clock.path)
    queue = target.make("jobs")
    queue.publish(b"held")
    held = queue.take()
    seen = [held]
    for step in (-DAY, 365 * DAY, 0, -10 * DAY):
        clock.set_clock(step)
        queue.publish(b"%d" % step)
        seen += queue.wait_names("pending", 1)
        taken = queue.take()
        assert queue.names("claimed") == sorted([held, taken])
        os.utime(queue.claimed / held)
        os.rename(queue.claimed / taken, queue.retry / taken)
        queue.wait_names("pending", 1, seconds=20)  # it waited about a second, by any clock
        assert queue.consume(1) == [b"%d" % step]
    assert seen == sorted(seen)
    # Nor does a lease end by it, when nothing else has touched the message.
    assert queue.xattr("claimed", held, "redelivered") in ("0", "no")
    os.unlink(queue.claimed / held)
    eventually(lambda: not any(queue.stats()[key] for key in ("ready", "pending", "claimed", "retry", "dead")), 10, "the end")


# -- file descriptors -------------------------------------------------------

@contextlib.contextmanager
def no_descriptors(mount):
    """Not one file can the daemon open in here."""
    before = resource.prlimit(mount.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(mount.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(mount.process.pid, resource.RLIMIT_NOFILE, before)


def test_no_file_descriptors(mount):
    """What needs none goes on; the rest fails with a clear errno, and is well again afterwards."""
    target = mount()
    queue = target.make("jobs")
    queue.publish(b"0", b"1", b"2")
    names = queue.wait_names("pending", 3)
    used = open_descriptors(target)
    results = {}
    with no_descriptors(target):
        start = time.monotonic()
        os.rename(queue.pending / names[0], queue.claimed / names[0])
        os.unlink(queue.claimed / names[0])
        results["close"] = errno_of((queue.new / "job").write_bytes, b"3")
        (queue.new / ".draft").write_bytes(b"4")
        results["rename"] = errno_of(os.rename, queue.new / ".draft", queue.new / "job")
        results["take"] = errno_of(os.rename, queue.pending / names[1], queue.claimed / names[1])
        look_around(queue)
        assert time.monotonic() - start < 10
    assert set(results.values()) <= {0, errno.EMFILE, errno.EBUSY, errno.EIO}, results
    wanted = {b"1", b"2"} | {body for body, key in ((b"3", "close"), (b"4", "rename")) if results[key] == 0}
    if results["take"] == 0:
        os.rename(queue.claimed / names[1], queue.pending / names[1])
    queue.publish(b"5")
    assert set(queue.consume(len(wanted) + 1, seconds=BACK_SECONDS)) == wanted | {b"5"}
    assert open_descriptors(target) <= used + 16  # what it keeps open of its callers in /proc


@pytest.mark.deadline(90)
def test_no_file_descriptors_to_reconnect(own_broker, mounts):
    """The connections are lost when there are no descriptors for new ones: away until there are."""
    target = mounts.add(own_broker.url(), {**PATIENT, "outbox": "no"})
    queue = target.make("jobs")
    queue.publish(b"0", b"1")
    queue.wait_names("pending", 2)
    held = queue.take()
    with no_descriptors(target):
        own_broker.close_connections()
        refusal = eventually(lambda: errno_of(queue.publish, b"refused"), 20, "the loss")
        assert refusal in (errno.EHOSTDOWN, errno.ETIMEDOUT)
        # Whose descriptors can't be seen hears nothing from close() (P8): the draft says it.
        (queue.new / "unheard").write_bytes(b"kept")
        eventually(lambda: "unheard" in queue.names("new"), 10, "the kept draft")
        look_around(queue)
        os.unlink(queue.claimed / held)  # kept for the redelivery (C9)
    eventually(lambda: errno_of(queue.publish, b"2") == 0, BACK_SECONDS, "publishing again")
    os.rename(queue.new / "unheard", queue.new / "heard")
    bodies = set()

    def drained():
        for name in queue.names("pending"):
            bodies.add((queue.pending / name).read_bytes())
            os.unlink(queue.pending / name)
        return bodies >= {b"1", b"2", b"kept"} and not queue.stats()["ready"]

    eventually(drained, 20, "the rest")
    assert bodies <= {b"1", b"2", b"kept", b"refused"}  # a refusal by ETIMEDOUT is no promise
