# SPDX-License-Identifier: MIT
"""The outbox: what the broker can't take now is kept on the disk, and sent when it is back (P6, P2)."""

import errno
import os
import shutil
import time

import pytest

from backends import Rabbit
from conftest import COUNTER
from mounted import Queue
from processes import SHELLS, eventually, run, shell, stays
from relay import Relay
from test_drafts import errno_of

QUICK_SECONDS = 0.2


@pytest.fixture
def away(broker, watchdog):
    """A broker behind a relay that can be cut."""
    backend = Rabbit(broker, f"out{next(COUNTER)}")
    watchdog.waited_for.append(backend)
    with Relay(broker.port) as relay:
        backend.relay = relay
        backend.url = relay.url(backend.vhost)
        yield backend
    backend.close()


def status(mount):
    return (mount.path / ".mqfs" / "status").read_text()


def cut(away, *mounts):
    away.relay.cut()
    for mount in mounts:
        eventually(lambda mount=mount: "connected no" in status(mount), what="the broker's absence")


def cut_queue(away, mounts, **options):
    made = mounts.add(away.url, options).make("jobs")
    cut(away, made.mount)
    return made


@pytest.fixture
def queue(away, mounts):
    """A queue whose broker is cut off."""
    return cut_queue(away, mounts)


def write(queue, name, body):
    (queue.new / name).write_bytes(body)


def message_id(queue, name):
    return queue.xattr("new", name, "message-id")


def expect_all(away, queue, bodies):
    """The outbox brings these to the broker, in this order, and is empty then; gives the messages."""
    eventually(lambda: queue.stats()["outbox"] == 0, 20, "an empty outbox")
    messages = away.expect(queue, len(bodies))
    assert [message.body for message in messages] == bodies
    return messages


def collect(queue, bodies):
    """Takes all there is once the outbox is empty: these bodies, some perhaps twice; gives their message-ids."""
    eventually(lambda: queue.stats()["outbox"] == 0, 30, "an empty outbox")
    found = {}

    def complete():
        for name in queue.names("pending"):
            ident = queue.xattr("pending", name, "message-id")
            body = (queue.pending / name).read_bytes()
            os.unlink(queue.pending / name)
            assert found.setdefault(ident, body) == body
        return set(found.values()) == bodies

    eventually(complete, 20, "all the bodies")
    assert len(found) == len(bodies)
    return set(found)


# -- P6: away ---------------------------------------------------------------

def test_p6_close_succeeds_and_it_is_sent_later(queue, away):
    """P6: with the broker away close() returns 0, and the message is sent with the same message-id, in order."""
    for number in range(5):
        start = time.monotonic()
        write(queue, f"job{number}", b"%d" % number)
        assert time.monotonic() - start < 4
    names = [f"job{number}" for number in range(5)]
    assert queue.names("new") == names
    ids = [message_id(queue, name) for name in names]
    assert [(queue.new / name).read_bytes() for name in names] == [b"0", b"1", b"2", b"3", b"4"]
    away.relay.mend()
    messages = expect_all(away, queue, [b"0", b"1", b"2", b"3", b"4"])
    assert [message.properties["message_id"] for message in messages] == ids
    assert [message.headers["mqfs-filename"] for message in messages] == names
    assert queue.names("new") == []
    queue.wait_stats(confirmed=5)


def test_p6_what_comes_later_lines_up(queue, away):
    """P6: what is written when the broker is back, while the line is being sent, goes behind it."""
    number = 0
    while number < 100 or queue.stats()["outbox"]:
        write(queue, f"job{number}", b"%d" % number)
        number += 1
        if number == 100:
            away.relay.mend()
    expect_all(away, queue, [b"%d" % sent for sent in range(number)])


def test_p6_looking_meanwhile(queue):
    """Tenet 4: ls, stat and df answer from memory; M5: stats and .mqfs/status tell of the outbox."""
    for number in range(3):
        write(queue, "job", b"12345")
    took = []
    for _ in range(5):
        start = time.monotonic()
        os.listdir(queue.mount.path)
        assert queue.names("new") == ["job", "job~2", "job~3"]
        assert (queue.new / "job~2").stat().st_size == 5
        os.statvfs(queue.mount.path)
        took.append(time.monotonic() - start)
    assert min(took) < QUICK_SECONDS, took  # a busy machine may hold up some
    queue.wait_stats(outbox=3, drafts=0)
    lines = dict(line.split(" ", 1) for line in status(queue.mount).splitlines())
    assert (lines["outbox"], lines["outbox_bytes"]) == ("3", "15")
    assert lines["outbox_oldest"].startswith("20") and os.path.exists(lines["state"])
    assert os.stat(lines["state"]).st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", SHELLS)
def test_p6_shells_that_swallow_the_error_of_close(queue, away, kind):
    """P6: where a redirection throws close()'s error away, the outbox is what keeps the message."""
    result = shell("echo one > new/a; { echo two; echo three; } > new/b; echo four >> new/c", cwd=queue.path, kind=kind)
    assert (result.status, result.err) == (0, "")
    assert queue.names("new") == ["a", "b", "c"]
    away.relay.mend()
    expect_all(away, queue, [b"one\n", b"two\nthree\n", b"four\n"])
    assert queue.names("new") == []


def test_p6_tools_end_without_an_error(queue, away, tmp_path):
    """P5, P6: tools that touch the name after close() find it."""
    (tmp_path / "source").write_bytes(b"body")
    for words in (["cp", "-p"], ["install", "-m", "640"], ["mv"]):
        assert run([*words, tmp_path / "source", queue.new / words[0]]).status == 0, words
    shutil.copyfile("/dev/null", queue.new / ".empty")
    assert queue.names("new") == [".empty", "cp", "install", "mv"]
    away.relay.mend()
    expect_all(away, queue, [b"body"] * 3)
    assert queue.names("new") == [".empty"]


def test_p2_rename_hands_over(queue, away):
    """P2: a rename publishes into the outbox, with its properties and priority."""
    queue.publish(b"low", name="low", type="kind")
    (queue.new / ".draft").write_bytes(b"high")
    os.rename(queue.new / ".draft", queue.new / "@9" / "high")
    assert (queue.names("new"), os.listdir(queue.new / "@9")) == (["low"], ["high"])
    away.relay.mend()
    eventually(lambda: queue.stats()["outbox"] == 0, 20, "an empty outbox")
    high, low = away.expect(queue, 2)
    assert (high.body, high.priority, low.body, low.priority) == (b"high", 9, b"low", 0)
    assert low.properties["type"] == "kind"


def test_p3_delay_begins_when_it_is_accepted(queue, away):
    """P3, P6: .delay counts from when it was accepted."""
    queue.publish(b"due", name="due", delay=300)
    queue.publish(b"later", name="later", delay=3600000)
    time.sleep(0.4)
    away.relay.mend()
    expect_all(away, queue, [b"due"])
    # Not by stats, whose totals are old while the broker is slow to count.
    eventually(lambda: away.depth("mqfs.delay.jobs.4096") == 1, what="the one that waits for its time")


# -- P6: silent, blocked, killed --------------------------------------------

@pytest.mark.deadline(90)
def test_p6_silent_broker(own_broker, mounts):
    """P6: silent for publish-timeout, and the outbox has it; the next lines up at once; nothing is lost, and what comes
    twice has the same message-id. P2: a rename waits rename-timeout."""
    queue = mounts.add(own_broker.url(), {"publish-timeout": "20s", "heartbeat": "2s"}).make("jobs")
    own_broker.pause()
    try:
        start = time.monotonic()
        (queue.new / ".draft").write_bytes(b"rename")
        os.rename(queue.new / ".draft", queue.new / "rename")
        assert 0.9 < time.monotonic() - start < 10  # with the disk's own time
        start = time.monotonic()
        write(queue, "close", b"close")
        assert time.monotonic() - start < 10
        ids = {message_id(queue, name) for name in ("rename", "close")}
        time.sleep(2.5)  # the outbox tries, in vain
        assert queue.names("new") == ["close", "rename"]
    finally:
        own_broker.resume()
    assert collect(queue, {b"rename", b"close"}) == ids


@pytest.mark.deadline(90)
def test_p6_blocked_broker(own_broker, mounts):
    """P6: blocked by a memory alarm: close() returns 0 within publish-timeout; when it ends all are sent."""
    queue = mounts.add(own_broker.url(), {"publish-timeout": "1s"}).make("jobs")
    write(queue, "before", b"before")
    own_broker.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        bodies = []

        def write_one():
            start = time.monotonic()
            bodies.append(b"%d" % len(bodies))
            write(queue, f"during{len(bodies)}", bodies[-1])
            assert time.monotonic() - start < 5
            return queue.stats()["outbox"]

        waiting = eventually(write_one, what="one that waits")  # the alarm sets in when it likes
        write_one()
        queue.wait_stats(outbox=waiting + 1)
    finally:
        own_broker.ctl("set_vm_memory_high_watermark", "0.4")
    assert len(collect(queue, {b"before", *bodies})) == len(bodies) + 1


def test_p6_mqfs_killed(queue, away):
    """P6: kill -9 of mqfs: after the remount it is still there, and sent with its id."""
    for number in range(3):
        write(queue, f"job{number}", b"%d" % number)
    ids = [message_id(queue, f"job{number}") for number in range(3)]
    queue.mount.kill()
    away.relay.mend()
    queue.mount.start()
    messages = expect_all(away, queue, [b"0", b"1", b"2"])
    assert [message.properties["message_id"] for message in messages] == ids
    assert queue.names("new") == []


def test_q2_queue_is_listed_after_a_restart(away, mounts):
    """Q2: a queue with something in the outbox is listed without asking the broker."""
    mount = mounts.add(away.url)
    queue = mount.make("jobs")
    (queue.new / ".kept").write_bytes(b"x")
    mount.terminate()
    mount.start()
    assert "jobs" in os.listdir(mount.path)
    assert queue.names("new") == [".kept"]


# -- P6: taken back ---------------------------------------------------------

def test_p6_rm_takes_back(queue, away):
    """P6: rm takes it back; ENOENT once it was sent, though the name still answers (P5)."""
    for name in ("a", "b", "c"):
        write(queue, name, name.encode())
    os.unlink(queue.new / "b")
    assert queue.names("new") == ["a", "c"]
    assert errno_of(os.unlink, queue.new / "b") == errno.ENOENT
    assert errno_of(os.stat, queue.new / "b") == errno.ENOENT
    away.relay.mend()
    eventually(lambda: queue.names("new") == [], 20, "c sent")
    assert (queue.new / "c").stat().st_size == 1
    assert errno_of(os.unlink, queue.new / "c") == errno.ENOENT
    expect_all(away, queue, [b"a", b"c"])
    stays(lambda: queue.names("new") == [], 2.5, "an empty new/")


@pytest.mark.deadline(90)
def test_p6_rm_in_flight(own_broker, mounts):
    """P6: EBUSY while it is in flight, for rm and mv; afterwards it is sent."""
    queue = mounts.add(own_broker.url(), {"publish-timeout": "20s", "rename-timeout": "200ms"}).make("jobs")
    own_broker.pause()
    try:
        (queue.new / ".draft").write_bytes(b"body")
        os.rename(queue.new / ".draft", queue.new / "job")
        # That it is in flight nothing shows: what can be put back has not begun.
        def in_flight():
            if errno_of(os.rename, queue.new / "job", queue.new / ".back") == errno.EBUSY:
                return True
            os.rename(queue.new / ".back", queue.new / "job")
            return False

        eventually(in_flight, 10, "the flight")
        assert errno_of(os.unlink, queue.new / "job") == errno.EBUSY
        assert errno_of(os.rename, queue.new / "job", queue.new / ".back") == errno.EBUSY
        assert errno_of(os.rename, queue.new / "job", queue.new / "job2") == errno.EBUSY
        assert queue.names("new") == ["job"]
    finally:
        own_broker.resume()
    eventually(lambda: queue.stats()["outbox"] == 0, 30, "an empty outbox")
    assert queue.consume(1) == [b"body"]


def test_p6_mv_in_the_line(away, mounts):
    """P6, P7: mv of what waits: another name, another queue, a priority; a dot-name takes it back."""
    other = mounts.add(away.url).make("other")
    queue = other.mount.make("jobs")
    cut(away, other.mount)
    for name in ("a", "b", "c", "d"):
        write(queue, name, name.encode())
    ident = message_id(queue, "a")
    os.rename(queue.new / "a", queue.new / "renamed")
    os.rename(queue.new / "b", other.new / "moved")
    os.rename(queue.new / "c", queue.new / "@7" / "urgent")
    os.rename(queue.new / "d", queue.new / ".draft")
    assert (queue.names("new"), other.names("new")) == ([".draft", "renamed"], ["moved"])
    queue.wait_stats(outbox=2)
    other.wait_stats(outbox=1)
    with open(queue.new / ".draft", "ab") as file:
        file.write(b"!")
    away.relay.mend()
    eventually(lambda: queue.stats()["outbox"] + other.stats()["outbox"] == 0, 20, "an empty outbox")
    messages = {message.body: message for message in away.expect(queue, 2)}
    assert messages[b"c"].priority == 7
    assert messages[b"a"].headers["mqfs-filename"] == "renamed"
    assert messages[b"a"].properties["message_id"] == ident
    assert [message.body for message in away.expect(other, 1)] == [b"b"]
    os.rename(queue.new / ".draft", queue.new / "job")
    assert [message.body for message in away.expect(queue, 1)] == [b"d!"]


def test_p7_nothing_written_onto_it_replaces_it(queue, away, tmp_path):
    """P7: nothing written onto an outbox entry replaces it, also by tools that unlink the name before."""
    tools = {"mv": "mv {}/mv {}", "install": "install {}/install {}", "cp": "cp {}/cp {}",
             "tar": "tar -C {} -cf - tar | tar -C {} -xf -", "busybox-mv": "busybox mv {}/busybox-mv {}"}
    for name, script in tools.items():
        for number in range(3):
            (tmp_path / name).write_text(f"{name} {number}")
            result = run(["sh", "-c", script.format(tmp_path, queue.new)])
            assert (result.status, result.err) == (0, ""), name
    expected = sorted(f"{name}{twin}" for name in tools for twin in ("", "~2", "~3"))
    assert queue.names("new") == expected
    time.sleep(2.2)  # what was removed would really go now
    assert queue.names("new") == expected
    away.relay.mend()
    eventually(lambda: queue.stats()["outbox"] == 0, 20, "an empty outbox")
    bodies = {message.body.decode() for message in away.expect(queue, len(expected))}
    assert bodies == {f"{name} {number}" for name in tools for number in range(3)}


def test_p7_rename_onto_it(queue, away):
    """P7: nothing renamed onto it replaces it."""
    for body in (b"one", b"two"):
        (queue.new / ".draft").write_bytes(body)
        os.replace(queue.new / ".draft", queue.new / "job")
    assert queue.names("new") == ["job", "job~2"]
    away.relay.mend()
    expect_all(away, queue, [b"one", b"two"])


def test_p2_replaces_an_ordinary_file(queue, away):
    """P2: what waits, renamed onto a dot-file, replaces it as in a local directory, also after a restart."""
    (queue.new / ".draft").write_bytes(b"old")
    write(queue, "job", b"new")
    os.replace(queue.new / "job", queue.new / ".draft")
    assert (queue.names("new"), (queue.new / ".draft").read_bytes()) == ([".draft"], b"new")
    queue.mount.terminate()
    away.relay.mend()
    queue.mount.start()
    queue.mount.queue("jobs")
    assert (queue.names("new"), (queue.new / ".draft").read_bytes()) == ([".draft"], b"new")


# -- P6: refused later ------------------------------------------------------

def test_p6_refused_later_blocks_nobody(away, mounts):
    """P6: what the broker then refuses leaves the line, and stays listed with its reason; the one behind it is sent."""
    mount = mounts.add(away.url)
    queue = mount.make("jobs")
    away.declare("full", {"x-max-length": 1, "x-overflow": "reject-publish", "x-max-priority": 10})
    full = mount.queue("full")
    write(full, "first", b"first")
    cut(away, mount)
    for target in (full, queue):
        write(target, "a", b"a")
        write(target, "b", b"b")
    offset = mount.log_path.stat().st_size
    away.relay.mend()
    expect_all(away, queue, [b"a", b"b"])
    eventually(lambda: full.stats()["outbox"] == 0, 20, "an empty outbox")
    assert full.names("new") == ["a", "b"]
    assert "No space left" in full.xattr("new", "a", "error")
    assert "full/new/a" in mount.log(offset)
    full.wait_stats(drafts=2)
    assert [message.body for message in away.expect(full, 1)] == [b"first"]
    os.rename(full.new / "a", full.new / "again")
    assert [message.body for message in away.expect(full, 1)] == [b"a"]
    assert full.names("new") == ["b"]


def test_p6_queue_deleted_meanwhile(queue, away):
    """P6: the queue was deleted while the message waited: kept, with the reason, and it can be sent elsewhere."""
    write(queue, "job", b"body")
    away.delete("jobs")
    away.declare("other", {"x-max-priority": 10})
    away.relay.mend()
    eventually(lambda: queue.stats()["outbox"] == 0, 20, "an empty outbox")
    assert "No such file" in queue.xattr("new", "job", "error")
    queue.wait_stats(returned=1)
    assert (queue.new / "job").read_bytes() == b"body"
    other = queue.mount.queue("other")
    os.rename(queue.new / "job", other.new / "job")
    assert [message.body for message in away.expect(other, 1)] == [b"body"]
    assert queue.names("new") == []


# -- P6: bounds and settings ------------------------------------------------

def test_p6_bounded(away, mounts):
    """P6: beyond outbox-max: ENOSPC, and the draft is still listed; when there is room again it can be sent."""
    queue = cut_queue(away, mounts, outbox_max="64K")
    for name in ("a", "b"):
        write(queue, name, b"x" * 25000)
    assert errno_of(write, queue, "c", b"y" * 25000) == errno.ENOSPC
    assert queue.names("new") == ["a", "b", "c"]
    assert (queue.new / "c").read_bytes() == b"y" * 25000
    assert "No space left" in queue.xattr("new", "c", "error")
    away.relay.mend()
    eventually(lambda: queue.stats()["outbox"] == 0, 20, "an empty outbox")
    os.rename(queue.new / "c", queue.new / "again")
    assert len(away.expect(queue, 3)) == 3
    assert queue.names("new") == []


def test_p6_without_the_outbox(away, mounts):
    """P6: with outbox=no: EHOSTDOWN when the broker is away, and the draft stays."""
    queue = cut_queue(away, mounts, outbox="no")
    assert errno_of(write, queue, "job", b"body") == errno.EHOSTDOWN
    (queue.new / ".draft").write_bytes(b"draft")
    assert errno_of(os.rename, queue.new / ".draft", queue.new / "job2") == errno.EHOSTDOWN
    assert queue.names("new") == [".draft", "job"]
    assert "Host is down" in queue.xattr("new", "job", "error")
    away.relay.mend()
    eventually(lambda: errno_of(os.rename, queue.new / "job", queue.new / "again") == 0, 20, "the broker's return")
    assert [message.body for message in away.expect(queue, 1)] == [b"body"]


@pytest.mark.deadline(90)
def test_p6_without_the_outbox_and_silent(own_broker, mounts):
    """P6: with outbox=no: ETIMEDOUT when the outcome is unknown."""
    queue = mounts.add(own_broker.url(), {"outbox": "no", "publish-timeout": "500ms", "rename-timeout": "500ms"}).make("jobs")
    (queue.new / ".draft").write_bytes(b"draft")
    own_broker.pause()
    try:
        assert errno_of(write, queue, "job", b"body") == errno.ETIMEDOUT
        assert errno_of(os.rename, queue.new / ".draft", queue.new / "job2") == errno.ETIMEDOUT
        assert queue.names("new") == [".draft", "job"]
    finally:
        own_broker.resume()


def test_q3_outbox_is_content(queue, away):
    """Q3: what waits in the outbox, and what is kept, is content."""
    write(queue, "job", b"body")
    assert errno_of(os.rmdir, queue.path) == errno.ENOTEMPTY
    os.rename(queue.new / "job", queue.new / ".kept")
    away.relay.mend()
    assert errno_of(os.rmdir, queue.path) == errno.ENOTEMPTY
    os.unlink(queue.new / ".kept")
    eventually(lambda: errno_of(os.rmdir, queue.path) == 0, 20, "rmdir")


# -- P6: one file for the mounts of a host ----------------------------------

def two_mounts(away, mounts, room):
    """Two mounts of one host that share a state directory, cut off; their queues."""
    first = mounts.add(away.url, {"state-dir": room / "state"})
    second = mounts.add(away.url, {"state-dir": room / "state"})
    queues = [first.make("jobs"), second.queue("jobs")]
    cut(away, first, second)
    return queues


def test_p6_two_mounts(away, mounts, room):
    """P6: both list what waits, either may take it back or rename it, and each message is sent once."""
    one, two = two_mounts(away, mounts, room)
    for number in range(4):
        write((one, two)[number % 2], f"job{number}", b"%d" % number)
    for queue in (one, two):
        queue.wait_names("new", 4)
    os.unlink(two.new / "job0")
    os.rename(one.new / "job1", one.new / "renamed")
    eventually(lambda: one.names("new") == two.names("new") == ["job2", "job3", "renamed"], what="the same listing")
    away.relay.mend()
    eventually(lambda: one.stats()["outbox"] == two.stats()["outbox"] == 0, 20, "an empty outbox")
    assert sorted(message.body for message in away.expect(one, 3)) == [b"1", b"2", b"3"]
    assert (one.names("new"), two.names("new")) == ([], [])


def test_p6_the_other_mount_sends(away, mounts, room):
    """P6: the mount that accepted it is killed; the other one sends it."""
    one, two = two_mounts(away, mounts, room)
    write(one, "job", b"body")
    one.mount.kill()
    away.relay.mend()
    eventually(lambda: two.stats()["outbox"] == 0 and away.depth(two) == 1, 30, "the message")
    assert [message.body for message in away.expect(two, 1)] == [b"body"]


def test_p6_belongs_to_the_broker(away, mounts, room):
    """P6: the outbox belongs to a broker and vhost, whatever the credentials; others' left-overs are told."""
    mount = mounts.add(away.url, {"state-dir": room / "state"})
    queue = mount.make("jobs")
    cut(away, mount)
    write(queue, "job", b"body")
    mount.kill()
    away.relay.mend()

    away.broker.add_vhost("elsewhere")
    elsewhere = mounts.add(away.relay.url("elsewhere"), {"state-dir": room / "state"})
    lines = [line.split() for line in status(elsewhere).splitlines() if line.startswith("left_over")]
    assert len(lines) == 1 and lines[0][1] == "1" and lines[0][2].endswith(f"/{away.vhost}")
    assert "does not send" in elsewhere.log() and f"/{away.vhost}" in elsewhere.log()
    away.broker.delete_vhost("elsewhere")

    away.broker.add_user("another", "secret")
    away.broker.set_permissions(away.vhost, "another")
    other = mounts.add(away.relay.url(away.vhost, "another", "secret"), {"state-dir": room / "state"})
    assert "secret" not in status(other) and "left_over" not in status(other)
    found = Queue(other, "jobs")
    eventually(lambda: found.stats()["outbox"] == 0, 20, "an empty outbox")
    assert [message.body for message in away.expect(found, 1)] == [b"body"]


# -- the local disk ---------------------------------------------------------

def refused_mount(mounts, url, directory):
    """What a mount says that can't open its state file."""
    mount = mounts.add(url, {"state-dir": directory}, wait=False)
    assert mount.wait(20) == 1
    mount.killed = True  # its status was looked at here
    return mount.log()


def test_p6_state_file_cannot_be_opened(away, mounts, room):
    """P6: a mount without its state file would lose what it accepts: it is refused, and says why."""
    (room / "file").write_bytes(b"")
    assert str(room / "file") in refused_mount(mounts, away.url, room / "file")
    mount = mounts.add(away.url, {"state-dir": room / "state"})
    path = [line.split(" ", 1)[1] for line in status(mount).splitlines() if line.startswith("state ")][0]
    mount.terminate()
    with open(path, "wb") as file:
        file.write(b"not a database" * 1000)
    assert path in refused_mount(mounts, away.url, room / "state")
    with open(path, "rb") as file:
        assert file.read(14) == b"not a database"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_p6_full_disk(away, mounts, room):
    """P6: a full disk under the state directory: ENOSPC; the draft stays, and is sent when the broker is back."""
    disk = room / "disk"
    disk.mkdir()
    assert run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]).status == 0
    try:
        queue = cut_queue(away, mounts, state_dir=disk)
        sent = 0
        while (refusal := errno_of(write, queue, "job", b"x" * 200000)) == 0 and sent < 20:
            sent += 1
        assert refusal == errno.ENOSPC and 0 < sent < 20
        assert len(queue.names("new")) == sent + 1
        away.relay.mend()
        eventually(lambda: queue.stats()["outbox"] == 0, 20, "an empty outbox")
        (left,) = queue.names("new")
        os.rename(queue.new / left, queue.new / "again")
        assert len(away.expect(queue, sent + 1)) == sent + 1
        queue.mount.close()
    finally:
        run(["umount", "-l", disk])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tmpfs")
def test_p6_read_only_disk(away, mounts, room):
    """P6: a mount on a read-only disk is refused, and says why."""
    disk = room / "disk"
    disk.mkdir()
    assert run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk]).status == 0
    try:
        assert "Read-only file system" in refused_mount(mounts, away.url, disk / "state")
    finally:
        run(["umount", "-l", disk])
