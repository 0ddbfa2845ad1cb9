# SPDX-License-Identifier: MIT
"""Signals: blocked readers die at once, harmless signals change nothing (C7, P8, tenet 4)."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from processes import background, eventually, is_blocked, stays, wait_exit
from test_drafts import errno_of
from test_local_faults import no_descriptors


@pytest.mark.parametrize("special", ["claim", "next"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_c7_blocked_reader_dies_at_once(queue, special, number):
    """C7, tenet 4: a reader blocked in claim or next dies at once on Ctrl-C and kill -9; a message that arrives
    meanwhile is not lost with it."""
    with background(["cat", queue.path / special], stdout=subprocess.PIPE) as reader:
        eventually(lambda: is_blocked(reader), what="a blocked reader")
        time.sleep(0.1)  # blocked in open() of something else would look the same
        start = time.monotonic()
        reader.send_signal(number)
        assert wait_exit(reader, 5) == -number
        assert time.monotonic() - start < 3
    queue.publish(b"body")
    assert queue.consume(1) == [b"body"]


@pytest.mark.parametrize("special", ["claim", "next"])
def test_c7_killed_while_messages_arrive(queue, special):
    """C7: a message that arrives while its reader is being killed is not lost."""
    for number in range(15):
        with background(["cat", queue.path / special], stdout=subprocess.PIPE) as reader:
            eventually(lambda reader=reader: is_blocked(reader), what="a blocked reader")
            publisher = threading.Thread(target=queue.publish, args=(b"%d" % number,))
            publisher.start()
            time.sleep(number * 0.0004)
            reader.send_signal((signal.SIGINT, signal.SIGKILL)[number % 2])
            status = wait_exit(reader, 5)
            printed = reader.stdout.read()
            publisher.join()
        left = count_left(queue)
        if special == "next" and status == 0:
            assert (printed, left) == (b"%d" % number, 0)
        elif left == 0:
            # It was acknowledged, so it must have been told whole to the reader before the signal.
            assert special == "next" and printed == b"%d" % number
        else:
            take_all(queue)


def count_left(queue):
    """How many messages the queue has in any state, once it stands still."""
    def count():
        return len(queue.names("pending")) + len(queue.names("claimed")) + len(queue.names("retry"))

    before, since = count(), time.monotonic()
    while time.monotonic() - since < 0.4 and not before:
        before = count()
    return before


def take_all(queue):
    """Empties the window; a killed reader's message is given back within about 2 s."""
    def empty():
        for name in queue.names("pending"):
            if errno_of(os.rename, queue.pending / name, queue.claimed / name) == 0:
                os.unlink(queue.claimed / name)
        for name in queue.names("claimed"):
            errno_of(os.unlink, queue.claimed / name)
        return not queue.names("pending") and not queue.names("claimed")

    eventually(empty, what="an empty window")


# Reads what there is, but not the end of file, and is killed over it by itself.
KILLED_OVER_IT = """
import os, signal, sys
file = os.open(sys.argv[1], os.O_RDONLY)
os.read(file, 100)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.kill(os.getpid(), signal.{})
"""


@pytest.mark.parametrize("special", ["claim", "next"])
def test_c7_what_kills_its_reader_is_buried(mount, special):
    """C7, R6: a reader that is killed over its message counts as an attempt, so that it doesn't come back for ever."""
    queue = mount(max_attempts=2).make("jobs")
    queue.publish(b"poison")
    words = [sys.executable, "-c", KILLED_OVER_IT.format("SIGKILL"), queue.path / special]
    for attempt in (1, 2):
        with background(words) as reader:
            assert wait_exit(reader) == -signal.SIGKILL
        if attempt == 1:
            (name,) = queue.wait_names("pending", 1)
            assert queue.xattr("pending", name, "attempts") == "1"
    (dead,) = queue.wait_names("dead", 1)
    meta = queue.meta("dead", dead)
    assert (meta["attempts"], meta["error"]) == (2, "the reader was killed")
    assert queue.names("claimed") == []


@pytest.mark.parametrize("special", ["claim", "next"])
def test_c7_sigpipe_is_no_attempt(queue, special):
    """C7: a reader whose own reader has gone gives back, uncounted."""
    queue.publish(b"body")
    with background([sys.executable, "-c", KILLED_OVER_IT.format("SIGPIPE"), queue.path / special]) as reader:
        assert wait_exit(reader) == -signal.SIGPIPE
    (name,) = queue.wait_names("pending", 1)
    assert queue.xattr("pending", name, "attempts") == "0"


def test_c7_a_killed_child_is_not_the_reader(queue):
    """C7: the reader holds the descriptor, and so does a child of it, which is killed: the claim stays."""
    queue.publish(b"body")
    script = 'exec 3<claim && read -r name <&3 && echo "$name" && sh -c "kill -9 \\$\\$"; exec 3<&-; echo closed; read x'
    with background(["sh", "-c", script], cwd=queue.path, stdin=-1, stdout=-1) as reader:
        name = reader.stdout.readline().decode().strip()
        assert reader.stdout.readline() == b"closed\n"
        stays(lambda: queue.names("claimed") == [name], 2.5, "the claim")
    os.unlink(queue.claimed / name)


def test_c7_a_killed_waiter_leaves_the_others(queue):
    """C7: of three waiters the middle one is killed: the others go on waiting and are served."""
    with background(["cat", queue.path / "next"], stdout=-1) as first, \
            background(["cat", queue.path / "next"], stdout=-1) as second, \
            background(["cat", queue.path / "next"], stdout=-1) as third:
        for reader in (first, second, third):
            eventually(lambda reader=reader: is_blocked(reader), what="a blocked reader")
        second.kill()
        wait_exit(second)
        assert first.poll() is None and third.poll() is None
        queue.publish(b"a", b"b")
        assert sorted([first.stdout.read(), third.stdout.read()]) == [b"a", b"b"]


def test_c7_stopped_reader(queue):
    """C7: Ctrl-Z and fg: a stopped reader loses nothing."""
    with background(["cat", queue.path / "next"], stdout=-1) as reader:
        eventually(lambda: is_blocked(reader), what="a blocked reader")
        reader.send_signal(signal.SIGSTOP)
        queue.publish(b"body")
        reader.send_signal(signal.SIGCONT)
        out = reader.stdout.read()
        wait_exit(reader)
    # A signal may end the read (EINTR); then the message is still there.
    if out != b"body":
        assert queue.consume(1) == [b"body"]


RESTLESS = """
import os, signal, sys
hits = []
def hit(*_):
    hits.append(1)
    if len(hits) == 300:
        signal.setitimer(signal.ITIMER_REAL, 0)
        print("quiet", flush=True)
signal.signal(signal.SIGALRM, hit)
file = os.open(sys.argv[1], os.O_RDONLY)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
os.write(1, os.read(file, 100))
"""


@pytest.mark.parametrize("special", ["claim", "next"])
def test_c7_interrupted_and_asked_again(queue, special):
    """C7: a read that a signal has ended is over: the next one waits, and is not refused."""
    with background([sys.executable, "-c", RESTLESS, queue.path / special], stdout=-1) as reader:
        assert reader.stdout.readline() == b"quiet\n"
        queue.publish(b"body")
        assert reader.stdout.read()
        assert wait_exit(reader) == 0


NOISY = """
import os, signal, sys
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
signal.siginterrupt(signal.SIGALRM, {interrupts})
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
{setup}
print("ready", flush=True)
try:
    {act}
except OSError as error:
    print("error", error.errno)
else:
    print("done")
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(hits))
"""
CLOSE = ('file = os.open(sys.argv[1] + "/job", os.O_WRONLY | os.O_CREAT, 0o600); os.write(file, b"body")',
         "os.close(file)")
RENAME = ('file = os.open(sys.argv[1] + "/.draft", os.O_WRONLY | os.O_CREAT, 0o600); os.write(file, b"body"); os.close(file)',
          'os.rename(sys.argv[1] + "/.draft", sys.argv[1] + "/job")')


def await_wait(process, seconds):
    """Until it waits in the call after its first line, and for so long."""
    assert process.stdout.readline() == b"ready\n"
    eventually(lambda: is_blocked(process), what="a call that waits")
    stays(lambda: process.poll() is None, seconds, "the call that waits")


@pytest.mark.deadline(90)
@pytest.mark.parametrize("interrupts", [False, True], ids=["restart", "interrupt"])
def test_p8_harmless_signal_during_a_slow_close(own_broker, mounts, interrupts):
    """P8: interrupting a waiting close() with a signal that does not kill changes nothing."""
    queue = mounts.add(own_broker.url(), {"publish-timeout": "20s"}).make("jobs")
    script = NOISY.format(interrupts=interrupts, setup=CLOSE[0], act=CLOSE[1])
    own_broker.pause()
    try:
        with background([sys.executable, "-c", script, queue.new], stdout=-1) as writer:
            await_wait(writer, 1.2)
            own_broker.resume()
            assert wait_exit(writer, 30) == 0
            outcome, hits = writer.stdout.read().decode().splitlines()
    finally:
        own_broker.resume()
    assert outcome == "done" and int(hits) >= 1
    assert queue.consume(1) == [b"body"]
    assert (queue.names("pending"), queue.names("new")) == ([], [])


@pytest.mark.deadline(90)
@pytest.mark.parametrize("blind", [False, True], ids=["seeing", "blind"])
def test_p8_harmless_signal_during_a_slow_rename(own_broker, mounts, blind):
    """P8: the same for a waiting rename(), also when mqfs can't open anything that tells of its caller."""
    queue = mounts.add(own_broker.url(), {"publish-timeout": "20s", "rename-timeout": "15s"}).make("jobs")
    script = NOISY.format(interrupts=False, setup=RENAME[0], act=RENAME[1])
    own_broker.pause()
    try:
        with background([sys.executable, "-c", script, queue.new], stdout=-1) as writer, \
                no_descriptors(queue.mount) if blind else contextlib.nullcontext():
            await_wait(writer, 1.2)
            own_broker.resume()
            assert wait_exit(writer, 30) == 0
            outcome = writer.stdout.read().decode().splitlines()[0]
    finally:
        own_broker.resume()
    assert outcome == "done"
    assert queue.consume(1) == [b"body"]


@pytest.mark.deadline(90)
def test_p8_waiting_close_can_be_killed(own_broker, mounts):
    """Tenet 4: a close() that waits ends when its caller is killed, and the message is not lost."""
    mount = mounts.add(own_broker.url(), {"publish-timeout": "20s"})
    queue = mount.make("jobs")
    script = "\n".join(("import os, sys", CLOSE[0], 'print("ready", flush=True)', CLOSE[1]))
    own_broker.pause()
    try:
        with background([sys.executable, "-c", script, queue.new], stdout=-1) as writer:
            await_wait(writer, 0.3)
            start = time.monotonic()
            writer.kill()
            assert wait_exit(writer, 5) == -signal.SIGKILL
            assert time.monotonic() - start < 5
    finally:
        own_broker.resume()
    # Its outcome was unknown when it was killed: it arrives, or it is still listed.
    eventually(lambda: queue.names("pending") or queue.names("new"), 30, "the message")


@pytest.mark.deadline(90)
def test_p2_rename_waits_at_most_rename_timeout(own_broker, mounts):
    """P2: a rename waits at most rename-timeout (1 s), since it locks directories; nothing is lost; tenet 4: others
    are answered from memory meanwhile."""
    mount = mounts.add(own_broker.url())
    queue = mount.make("jobs")
    (queue.new / ".draft").write_bytes(b"body")
    own_broker.pause()
    try:
        start = time.monotonic()
        errno_of(os.rename, queue.new / ".draft", queue.new / "job")
        assert time.monotonic() - start < 8  # with the disk's own time
        start = time.monotonic()
        os.listdir(mount.path)
        os.statvfs(mount.path)
        queue.stats()
        queue.new.stat()
        assert time.monotonic() - start < 4
    finally:
        own_broker.resume()
    # ETIMEDOUT: unknown. It may arrive, and it may be listed to be sent again; it may not be neither.
    eventually(lambda: queue.names("pending") or queue.names("new"), 30, "the message")


@pytest.mark.deadline(90)
def test_p1_blocked_broker(own_broker, mounts):
    """Tenet 4: with the broker blocked (memory alarm) close() ends within publish-timeout; afterwards all goes on."""
    mount = mounts.add(own_broker.url(), {"publish-timeout": "2s", "outbox": "no"})
    queue = mount.make("jobs")
    (queue.new / "before").write_bytes(b"before")
    own_broker.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    refusals = []

    def is_refused():
        start = time.monotonic()
        refusals.append(errno_of((queue.new / f"job{len(refusals)}").write_bytes, b"during"))
        assert time.monotonic() - start < 4
        return refusals[-1]

    eventually(is_refused, 20, "a refusal")  # the alarm sets in when it likes
    is_refused()
    own_broker.ctl("set_vm_memory_high_watermark", "0.4")
    listed = queue.names("new")
    eventually(lambda: errno_of((queue.new / "after").write_bytes, b"after") == 0, 30, "publishing after the alarm")
    assert len(listed) == sum(1 for refusal in refusals if refusal)
