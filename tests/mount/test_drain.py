# SPDX-License-Identifier: MIT
"""The end of a mount waits for what its workers hold (M1)."""

import errno
import os
import signal
import subprocess
import time

import pytest

from processes import background, eventually, is_blocked, wait_exit


def in_fuse_request(pid):
    """Does it sleep in read(2)? (`cat` does nothing else that lasts.)"""
    with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
        return file.read().split()[0] == "0"


@pytest.fixture(name="held")
def fixture_held(mount):
    """A mount with three claims and three more messages, about to end; and its queue."""
    target = mount(drain_timeout="8s", prefetch="6")
    queue = target.make("jobs")
    for number in range(6):
        queue.publish(b"%d" % number)
    queue.wait_names("pending", 6)
    names = [queue.take() for _ in range(3)]
    target.process.send_signal(signal.SIGTERM)
    eventually(lambda: queue.names("pending") == [], what="what nobody took goes back")
    return target, queue, names


def test_m1_drain_lets_claims_finish(held, mount):
    """M1: SIGTERM takes nothing new and lets held claims finish, then unmounts: nothing is handed out twice."""
    target, queue, names = held
    time.sleep(0.5)
    assert target.process.poll() is None, "it waits for the claims"
    assert (queue.claimed / names[0]).read_bytes() == b"0"
    os.unlink(queue.claimed / names[0])
    os.rename(queue.claimed / names[1], queue.dead / names[1])
    os.rename(queue.claimed / names[2], queue.pending / names[2])
    assert target.wait() == 0
    again = mount().queue("jobs")
    assert sorted(again.consume(4)) == [b"2", b"3", b"4", b"5"]
    assert len(again.names("dead")) == 1


def test_m1_drain_takes_nothing(held):
    """M1: meanwhile nothing can be taken, and who waits in claim or next is told."""
    target, queue, names = held
    for name in ("claim", "next"):
        result = subprocess.run(["cat", queue.path / name], check=False, timeout=5, capture_output=True, text=True)
        assert result.returncode != 0 and result.stdout == ""
        assert os.strerror(errno.ESHUTDOWN) in result.stderr
    assert queue.names("pending") == []
    queue.publish(b"published while it ends")
    for name in names:
        os.unlink(queue.claimed / name)
    assert target.wait() == 0


def test_m1_drain_ends_those_who_wait(mount):
    """M1: a reader that waits in `claim` when the signal comes is told, and the end need not wait for it."""
    target = mount(drain_timeout="8s")
    queue = target.make("jobs")
    with background(["cat", queue.path / "claim"], stdout=-1) as waiting:
        eventually(lambda: in_fuse_request(waiting.pid), what="the reader waits")
        started = time.monotonic()
        assert target.terminate() == 0
        assert time.monotonic() - started < 5
        assert wait_exit(waiting) != 0
        assert waiting.stdout.read() == b""


def test_m1_drain_has_an_end(mount):
    """M1: after drain-timeout what is still held goes back, uncounted."""
    target = mount(drain_timeout="1s")
    queue = target.make("jobs")
    queue.publish(b"slow")
    queue.take()
    started = time.monotonic()
    assert target.terminate() == 0
    assert 0.9 < time.monotonic() - started < 6
    again = mount().queue("jobs")
    (name,) = again.wait_names("pending", 1)
    assert again.xattr("pending", name, "attempts") == "0"


def test_m1_second_signal_ends_at_once(held, mount):
    """M1: who asks twice does not want to wait."""
    target, _, _ = held
    started = time.monotonic()
    assert target.terminate() == 0
    assert time.monotonic() - started < 5
    assert len(mount().queue("jobs").wait_names("pending", 6)) == 6


@pytest.mark.deadline(60)
@pytest.mark.parametrize("where", ["dead", "retry", "pending", "stats"])
def test_m1_the_end_answers_who_still_waits(own_broker, mounts, monkeypatch, where):
    """M1: a request that waits for a silent broker when the mount ends is answered, and the mount ends well."""
    monkeypatch.setenv("MALLOC_PERTURB_", "165")  # what is used after it was freed has no meaning any more
    target = mounts.add(own_broker.url())
    queue = target.make("jobs")
    own_broker.pause()
    try:
        words = ["cat", queue.path / where] if where == "stats" else ["ls", queue.path / where]
        with background(words, stdout=-1, stderr=-1) as waiting:
            eventually(lambda: is_blocked(waiting), what="the look waits")
            target.process.send_signal(signal.SIGTERM)
            assert target.terminate() == 0
            wait_exit(waiting)
    finally:
        own_broker.resume()
