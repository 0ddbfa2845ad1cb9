# SPDX-License-Identifier: MIT
"""What fails on the worker's own host while the broker is away: the disk of the state directory, file descriptors, the
clock. In each fault: a clear errno, and `ls`, `stat` and `df` at once; after it: all is well again within 10 s, and
nothing is lost."""

import errno
import os
import time

import pytest

from conftest import PATIENT
from failpoints import Failpoints
from processes import background, eventually
from test_drafts import errno_of
from test_local_faults import (BACK_SECONDS, DAY, ERRORS, disk, illness,  # noqa: F401 # pylint: disable=unused-import
                               look_around, no_descriptors)
from test_outbox import away, collect, cut, status, write  # noqa: F401 # pylint: disable=unused-import
from traffic import dies_at_once

REASONS = {"full": "the disk is full", "read-only": "it is read-only", "broken": "it could not be read or written"}


def write_synced(path, body):
    with open(path, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def test_sick_disk_under_the_outbox(away, disk, illness, mounts):
    """P6, P7, C9: publishing and settling are refused, drafts and claims stay; afterwards all of it can be done."""
    target = mounts.add(away.url, {**PATIENT, "state_dir": disk.path})
    queue = target.make("jobs")
    queue.publish(b"removed", b"failed", name="job")
    queue.wait_names("pending", 2)
    held = {(queue.claimed / name).read_bytes(): name for name in (queue.take(), queue.take())}
    write_synced(queue.new / ".draft", b"draft")
    cut(away, target)
    write(queue, "before", b"before")

    disk.fall_ill(ERRORS[illness])
    start = time.monotonic()
    assert errno_of(write, queue, "job", b"job") == ERRORS[illness]
    assert errno_of(os.rename, queue.new / ".draft", queue.new / "draft") == ERRORS[illness]
    assert errno_of(os.unlink, queue.claimed / held[b"removed"]) == ERRORS[illness]
    assert errno_of(os.rename, queue.claimed / held[b"failed"], queue.retry / held[b"failed"]) == ERRORS[illness]
    assert time.monotonic() - start < 5
    assert queue.names("new") == [".draft", "before", "job"]
    assert queue.names("claimed") == sorted(held.values())
    assert (queue.new / "job").read_bytes() == b"job"
    look_around(queue)
    assert REASONS[illness] in target.log()

    disk.recover()
    start = time.monotonic()
    os.unlink(queue.claimed / held[b"removed"])
    os.rename(queue.claimed / held[b"failed"], queue.retry / held[b"failed"])
    os.rename(queue.new / "job", queue.new / "again")
    os.rename(queue.new / ".draft", queue.new / "draft")
    assert time.monotonic() - start < BACK_SECONDS
    target.kill()  # what was accepted is on the disk
    away.relay.mend()
    target.start()
    collect(queue, {b"before", b"job", b"draft", b"failed"})
    assert queue.names("new") == []



def look(queue):
    """ls, stat and df answer within 0.2 s; a busy machine gets several tries."""
    def once(function, path):
        start = time.monotonic()
        function(path)
        return time.monotonic() - start

    looks = [(os.listdir, queue.path / where) for where in ("new", "pending", "claimed", "retry", "dead")]
    for function, path in [*looks, (os.stat, queue.new), (os.statvfs, queue.mount.path)]:
        assert min(once(function, path) for _ in range(5)) < 0.2, path


def assert_bearable(queue, name):
    """ls, stat and df answer, and who waits for the disk can be killed."""
    with background(["sh", "-c", f"echo {name} > new/{name}"], cwd=queue.path) as writer:
        time.sleep(0.5)
        assert writer.poll() is None, "the disk does not hang"
        look(queue)
        dies_at_once(writer)
    look(queue)


@pytest.mark.deadline(90)
def test_hanging_disk_under_the_outbox(away, disk, mounts):
    """Tenet 4: it does not fail, and does not end."""
    target = mounts.add(away.url, {**PATIENT, "state_dir": disk.path, "publish_timeout": "1s"})
    queue = target.make("jobs")
    cut(away, target)
    write(queue, "before", b"before")
    with disk.hanging():
        assert_bearable(queue, "meanwhile")
        assert errno_of(write, queue, "late", b"late") == errno.ETIMEDOUT
        look(queue)
    eventually(lambda: errno_of(write, queue, "after", b"after") == 0, BACK_SECONDS, "publishing again")
    away.relay.mend()
    eventually(lambda: queue.stats()["outbox"] == 0, 20, "an empty outbox")
    bodies = {(queue.new / name).read_bytes().strip() for name in queue.names("new")}

    def complete():
        for name in queue.names("pending"):
            bodies.add((queue.pending / name).read_bytes().strip())
            os.unlink(queue.pending / name)
        return bodies >= {b"before", b"late", b"after"}

    eventually(complete, 20, "all the bodies")
    assert bodies <= {b"before", b"meanwhile", b"late", b"after"}


@pytest.mark.deadline(90)
def test_hanging_disk_under_the_store(disk, mounts):
    """Tenet 4: the same on SQLite."""
    target = mounts.add(f"sqlite:{disk.path}/store.db", PATIENT)
    queue = target.make("jobs")
    queue.publish(b"before")
    held = queue.take()
    with disk.hanging():
        os.unlink(queue.claimed / held)  # answers at once (C5)
        assert_bearable(queue, "meanwhile")
    eventually(lambda: errno_of(write, queue, "after", b"after") == 0, BACK_SECONDS, "publishing again")
    bodies = set()

    def drained():
        for name in queue.names("pending"):
            bodies.add((queue.pending / name).read_bytes().strip())
            os.unlink(queue.pending / name)
        return b"after" in bodies

    eventually(drained, 20, "the rest")
    assert bodies <= {b"meanwhile", b"after"}


def test_no_file_descriptors_for_the_outbox(away, mounts):
    """The outbox needs none; the broker's return is noticed when there are some again."""
    target = mounts.add(away.url, PATIENT)
    queue = target.make("jobs")
    cut(away, target)
    write(queue, "before", b"before")
    with no_descriptors(target):
        results = {b"close": errno_of(write, queue, "close", b"close")}
        (queue.new / ".draft").write_bytes(b"rename")
        results[b"rename"] = errno_of(os.rename, queue.new / ".draft", queue.new / "rename")
        assert set(results.values()) <= {0, errno.EMFILE, errno.EIO}, results
        look_around(queue)
        away.relay.mend()
        time.sleep(0.5)
        assert "connected no" in status(target)
        look_around(queue)
    write(queue, "after", b"after")
    start = time.monotonic()
    collect(queue, {b"before", b"after"} | {body for body, result in results.items() if result == 0})
    assert time.monotonic() - start < BACK_SECONDS


@pytest.mark.deadline(90)
def test_clock_jumps_while_it_waits(away, mounts, room):
    """P3, P6: whatever is done to the clock, what waits in the outbox is sent, and a delay lasts no longer."""
    clock = Failpoints(room / "clock")
    target = mounts.add(away.url, PATIENT, failpoints=clock.path)
    queue = target.make("jobs")
    for step in (DAY, -DAY):
        clock.set_clock(0)
        cut(away, target)
        queue.publish(b"delayed", name="delayed", delay=1000)
        queue.publish(b"plain", name="plain")
        clock.set_clock(step)
        away.relay.mend()
        start = time.monotonic()
        collect(queue, {b"delayed", b"plain"})
        assert time.monotonic() - start < BACK_SECONDS, step
