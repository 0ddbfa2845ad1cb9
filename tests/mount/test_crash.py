# SPDX-License-Identifier: MIT
"""kill -9 in the middle of everything, then remount: nothing is lost (tenet 1, R2, M1)."""

import contextlib
import errno
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from processes import background, eventually, wait_exit
from test_drafts import errno_of

PUBLISHER = """
import os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(int(sys.argv[2]), 1000000, 4):
    try:
        with open("new/job", "wb", buffering=0) as file:
            file.write(b"%d" % number)
    except OSError:
        break
    os.write(log, b"%d\\n" % number)  # only what close() accepted
"""

# Works off what it finds; some fail, some are buried, some given back.
CONSUMER = """
import os, sys, time
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    try:
        names = os.listdir("pending")
    except OSError:
        break
    for name in names:
        try:
            body = open(f"pending/{name}", "rb").read()
            number = int(body)
            if number % 10 == 3:
                os.rename(f"claimed/{name}", f"retry/{name}")
            elif number % 10 == 5:
                os.rename(f"claimed/{name}", f"dead/{name}")
            elif number % 10 == 7:
                continue  # kept
            else:
                os.unlink(f"pending/{name}")
                os.write(log, b"%d\\n" % number)
        except (OSError, ValueError):
            continue
"""


def numbers(path):
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def collect(queue, expected, seconds):
    """All that is still anywhere in the queue, emptied until what was expected has been seen."""
    found = []

    def complete():
        for name in queue.names("dead"):
            found.append(int((queue.dead / name / "body").read_bytes()))
            os.rmdir(queue.dead / name)
        for name in queue.names("retry"):
            errno_of(os.rename, queue.retry / name, queue.pending / name)
        for name in queue.names("pending"):
            with contextlib.suppress(OSError):
                os.rename(queue.pending / name, queue.claimed / name)
                found.append(int((queue.claimed / name).read_bytes()))
                os.unlink(queue.claimed / name)
        return expected <= set(found)

    eventually(complete, seconds, "every accepted message, found again")
    return found


@pytest.mark.deadline(150)
def test_crash_in_the_middle(mount, room):
    """kill -9 of mqfs in the middle of publishing, consuming, failing and burying, then remount: nothing lost."""
    target = mount(backoff_base="1s", max_attempts=3, lease_timeout="3s")
    queue = target.make("jobs")
    published, handled = room / "published", room / "handled"
    for round_number in range(3):
        before = len(numbers(published))
        with contextlib.ExitStack() as stack:
            for number in range(2):
                start = 100000 * (round_number + 1) + number
                stack.enter_context(background([sys.executable, "-c", PUBLISHER, published, str(start)], cwd=queue.path))
            stack.enter_context(background([sys.executable, "-c", CONSUMER, handled], cwd=queue.path))
            eventually(lambda before=before: len(numbers(published)) > before + 150, 20, "150 more published")
            target.kill()
        target.start()
        target.queue("jobs")  # waits until it answers
    accepted, done = set(numbers(published)), set(numbers(handled))
    assert len(accepted) > 450 and done
    found = collect(queue, accepted - done, 60)
    # At least once: what was in flight may come twice, what was accepted must come.
    assert accepted <= set(found) | done
    assert target.log().count("Sanitizer") == 0


@pytest.mark.deadline(90)
def test_crash_with_claims(mount):
    """What was taken when mqfs was killed is delivered again, to the next mount."""
    target = mount(lease_timeout="2s")
    queue = target.make("jobs")
    for number in range(6):
        queue.publish(b"%d" % number)
    for _ in range(3):
        queue.take()
    target.kill()
    target.start()
    names = queue.wait_names("pending", 6, seconds=20)
    assert len(names) == 6
    assert sorted(queue.consume(6)) == [b"%d" % number for number in range(6)]


@pytest.mark.deadline(90)
def test_crash_of_one_mount_of_two(mount):
    """The other mount gets what the dead one had."""
    first, second = mount(lease_timeout="2s"), mount(lease_timeout="2s")
    queue = first.make("jobs")
    for number in range(6):
        queue.publish(b"%d" % number)
    queue.wait_names("pending", 6)
    queue.take()
    assert second.queue("jobs").names("pending") == []
    first.kill()
    assert sorted(second.queue("jobs").consume(6, seconds=30)) == [b"%d" % number for number in range(6)]


@pytest.mark.deadline(60)
@pytest.mark.only("sqlite")
def test_stopped_mount_cannot_settle_what_it_lost(mount):
    """SQLite: a mount that was SIGSTOPped past its lease can't settle what another has taken since."""
    first, second = mount(lease_timeout="1500ms"), mount(lease_timeout="1500ms")
    queue = first.make("jobs")
    queue.publish(b"body")
    name = queue.take()
    os.kill(first.process.pid, 19)
    other = second.queue("jobs")
    taken = other.take(seconds=20)
    os.kill(first.process.pid, 18)
    # rm may answer at once; but it must not reach the other's claim.
    errno_of(os.unlink, queue.claimed / name)
    time.sleep(1)  # the lost settlement would need a moment to do its harm: nothing to poll for
    assert other.names("claimed") == [taken]
    os.rename(other.claimed / taken, other.pending / taken)
    assert other.consume(1, seconds=20) == [b"body"]


@contextlib.contextmanager
def locked(path):
    """Another process writes into the store meanwhile."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.deadline(60)
@pytest.mark.only("sqlite")
def test_locked_store_ends_no_lease(mount, backend):
    """SQLite: while another process holds the store for longer than a lease nobody can renew; nobody loses by that."""
    mounts = mount(lease_timeout="1s"), mount(lease_timeout="1s")
    queues = mounts[0].make("jobs"), mounts[1].queue("jobs")
    names = []
    for queue in queues:
        queue.publish(b"body")
        names.append(queue.take())
    with locked(backend.path):
        for queue, name in zip(queues, names):
            os.unlink(queue.claimed / name)  # mqfs has taken it over
        time.sleep(2.5)  # more than two leases
    for queue in queues:
        queue.wait_stats(acked=1, seconds=20)
        assert (queue.names("pending"), queue.names("claimed")) == ([], [])
        assert queue.stats()["redelivered"] == 0


@pytest.mark.deadline(60)
@pytest.mark.only("sqlite")
def test_locked_store_holds_up_no_look(mount, backend):
    """Tenet 4: meanwhile `ls`, `stat` and `df` answer, and what the store holds can be read."""
    target = mount()
    queue = target.make("jobs")
    with locked(backend.path), background(["sh", "-c", "echo x > jobs/new/x"], cwd=target.path):
        assert os.listdir(target.path) == [".mqfs", "jobs"]
        queue.wait_stats(published=1)  # it waits in close()
        for look in (lambda: os.listdir(target.path), lambda: os.statvfs(target.path), lambda: os.stat(queue.pending),
                     queue.stats):
            took = []
            for _ in range(10):
                start = time.monotonic()
                look()
                took.append(time.monotonic() - start)
            assert min(took) < 0.3, took  # a busy machine may hold up some
    assert queue.consume(1) == [b"x\n"]


@pytest.mark.deadline(120)
def test_broker_restart(own_broker, mounts):
    """The broker is killed and comes back: the mount goes on by itself, and nothing is lost."""
    target = mounts.add(own_broker.url(), {"heartbeat": "2s"})
    queue = target.make("jobs")
    for number in range(20):
        (queue.new / "job").write_bytes(b"%d" % number)
    held = queue.take()
    own_broker.kill()
    start = time.monotonic()
    refusal = errno_of((queue.new / "away").write_bytes, b"away")
    assert time.monotonic() - start < 15
    own_broker.start()
    if refusal:
        assert queue.names("new") == ["away"]
        eventually(lambda: errno_of(os.rename, queue.new / "away", queue.new / "back") == 0, 40, "publishing again")
    found = set()

    def complete():
        for name in queue.names("pending"):
            with contextlib.suppress(OSError):
                os.rename(queue.pending / name, queue.claimed / name)
        for name in queue.names("claimed"):
            if name != held:
                with contextlib.suppress(OSError):
                    found.add((queue.claimed / name).read_bytes())
                    os.unlink(queue.claimed / name)
        return found >= {b"%d" % number for number in range(1, 20)} | {b"away"}

    eventually(complete, 60, "all messages")
    eventually(lambda: queue.stats()["consumers"] >= 1, what="a consumer")


@contextlib.contextmanager
def aborted(path):
    """What is left to do when a daemon can't even be killed: else this run would wait for ever, too."""
    number = os.minor(os.stat(path).st_dev)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            pathlib.Path(f"/sys/fs/fuse/connections/{number}/abort").write_text("1", encoding="ascii")
        subprocess.run(["umount", "-f", path], stderr=subprocess.DEVNULL, check=False)


@pytest.mark.deadline(60)
@pytest.mark.parametrize("number, name", [(signal.SIGKILL, ".held"), (signal.SIGTERM, ".held"),
                                          (signal.SIGKILL, "kept")])
def test_end_while_a_rename_holds_the_directory(own_broker, mounts, number, name):
    """Tenet 4: the kernel locks new/ for a rename that waits, and forgets a published name under the same lock: mqfs
    can be ended in the middle of that, and so can the caller; also when the content came from the disk first."""
    target = mounts.add(own_broker.url(), {"outbox": "no", "rename_timeout": "20s", "drain_timeout": "0",
                                           "max_length": 1, "overflow": "reject-publish"})
    queue = target.make("jobs")
    (queue.new / "published").write_bytes(b"x")
    errno_of((queue.new / name).write_bytes, b"x")  # there is no room for a second message
    own_broker.pause()
    try:
        with background(["mv", queue.new / name, queue.new / "held"], stderr=subprocess.DEVNULL) as mover, \
                aborted(target.path):
            time.sleep(3)  # the published name is forgotten after 2 s; nothing tells when
            target.killed = number == signal.SIGKILL
            target.process.send_signal(number)
            target.wait(15)
            assert wait_exit(mover, 5) != 0
    finally:
        own_broker.resume()


@pytest.mark.deadline(120)
def test_broker_closes_connections(own_broker, mounts):
    """Connections closed by the broker's operator: reconnected, consuming goes on, nothing lost."""
    queue = mounts.add(own_broker.url()).make("jobs")
    for number in range(10):
        (queue.new / "job").write_bytes(b"%d" % number)
    queue.wait_names("pending", 10)
    own_broker.close_connections()
    eventually(lambda: errno_of((queue.new / "job").write_bytes, b"10") == 0, 30, "publishing again")
    found = set()

    def complete():
        for name in queue.names("pending"):
            with contextlib.suppress(OSError):
                body = (queue.pending / name).read_bytes()
                os.unlink(queue.pending / name)
                found.add(body)
        return found >= {b"%d" % number for number in range(11)}

    eventually(complete, 40, "all messages")


@pytest.mark.only("rabbitmq")
def test_queue_vanishes(mount, backend):
    """A queue that vanishes under the mount: operations fail with an errno, the mount lives, and so does the queue
    when it is made anew."""
    queue = mount().make("jobs")
    for number in range(5):
        queue.publish(b"%d" % number)
    queue.wait_names("pending", 5)
    held = queue.take()
    backend.delete("jobs")
    assert errno_of((queue.new / "job").write_bytes, b"x") == errno.ENOENT
    os.unlink(queue.new / "job")
    for where in ("pending", "claimed", "retry", "dead", "new"):
        errno_of(os.listdir, queue.path / where)
    errno_of(os.unlink, queue.claimed / held)
    backend.declare("jobs", {"x-max-priority": 10})
    backend.publish("jobs", b"anew")
    eventually(lambda: b"anew" in drain_all(queue), 30, "consuming from the new queue")


def drain_all(queue):
    """The bodies of all that is pending or claimed, acknowledged."""
    bodies = []
    for where in ("pending", "claimed"):
        with contextlib.suppress(OSError):
            for name in queue.names(where):
                if where == "pending":
                    os.rename(queue.pending / name, queue.claimed / name)
                bodies.append((queue.claimed / name).read_bytes())
                os.unlink(queue.claimed / name)
    return bodies


@pytest.mark.soak
@pytest.mark.deadline(600)
def test_crash_again_and_again(mount, room):
    """The first test of this file for ten minutes' worth of rounds."""
    target = mount(backoff_base="1s", max_attempts=3, lease_timeout="2s")
    queue = target.make("jobs")
    published, handled = room / "published", room / "handled"
    for round_number in range(40):
        with contextlib.ExitStack() as stack:
            for number in range(4):
                words = [sys.executable, "-c", PUBLISHER, published, str(100000 * (round_number + 1) + number)]
                stack.enter_context(background(words, cwd=queue.path, stderr=subprocess.DEVNULL))
            stack.enter_context(background([sys.executable, "-c", CONSUMER, handled], cwd=queue.path))
            time.sleep(0.5 + round_number % 7 / 10)
            target.kill()
        target.start()
        target.queue("jobs")
    accepted, done = set(numbers(published)), set(numbers(handled))
    assert accepted <= set(collect(queue, accepted - done, 200)) | done
