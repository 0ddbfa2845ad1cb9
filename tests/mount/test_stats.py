# SPDX-License-Identifier: MIT
"""`stats`: what happened to a queue through this mount, and what is in it (M5)."""

import os
import time

import pytest

from processes import eventually, run
from test_drafts import errno_of

KEYS = {"ready", "consumers", "pending", "claimed", "retry", "dead", "outbox", "drafts", "published", "confirmed",
        "returned", "nacked", "delivered", "redelivered", "acked", "retried", "dead_lettered", "expired_claims",
        "prefetch", "prefetch_full", "oldest_pending_age"}


def test_m5_keys(queue):
    """M5: `key value` lines with these keys."""
    lines = (queue.path / "stats").read_text().splitlines()
    assert all(len(line.split(" ")) == 2 for line in lines)
    stats = queue.stats()
    assert KEYS <= set(stats)
    assert all(value == 0 for key, value in stats.items() if key not in ("prefetch", "consumers"))
    assert stats["prefetch"] == 16


def test_m5_counts(mount):
    """M5: the values follow what happens."""
    queue = mount(prefetch=4, backoff_base="10min").make("jobs")
    for number in range(10):
        (queue.new / "job").write_bytes(b"%d" % number)
    queue.wait_stats(ready=10, published=10, confirmed=10, delivered=0, pending=0)
    (queue.new / "draft").touch()
    queue.wait_names("pending", 4)
    names = [queue.take(), queue.take(), queue.take()]
    os.unlink(queue.claimed / names[0])
    os.rename(queue.claimed / names[1], queue.retry / names[1])
    os.rename(queue.claimed / names[2], queue.dead / names[2])
    queue.take()
    queue.wait_names("pending", 3)
    stats = queue.wait_stats(dead=1, retry=1, ready=3, acked=1, claimed=1, pending=3, drafts=1, retried=1,
                             dead_lettered=1, delivered=7)
    assert stats["prefetch_full"] >= 1 and stats["consumers"] >= 1


def test_m5_oldest_pending_age(queue):
    """M5: oldest_pending_age grows while something lies there, and is 0 when nothing does."""
    queue.publish(b"x")
    queue.wait_names("pending", 1)
    start = time.monotonic()
    eventually(lambda: queue.stats()["oldest_pending_age"] >= 1, 5, "an age of a second")
    assert queue.stats()["oldest_pending_age"] <= time.monotonic() - start + 3
    queue.consume(1)
    queue.wait_stats(oldest_pending_age=0)


def test_m5_refusals(mount):
    """M5: what the queue refused is counted as nacked."""
    queue = mount(max_length=1, overflow="reject-publish").make("jobs")
    for _ in range(3):
        errno_of((queue.new / "job").write_bytes, b"x")
    queue.wait_stats(published=3, confirmed=1, nacked=2, drafts=2)


@pytest.mark.only("rabbitmq")
def test_m5_returned(mount, backend):
    """M5: what found no queue is counted as returned."""
    queue = mount().make("jobs")
    backend.delete("jobs")
    errno_of((queue.new / "job").write_bytes, b"x")
    queue.wait_stats(returned=1)


def test_m5_redelivered(queue):
    """M5: what came again is counted as redelivered."""
    queue.publish(b"x")
    for _ in range(3):
        name = queue.take()
        os.rename(queue.claimed / name, queue.pending / name)
    queue.consume(1)
    eventually(lambda: queue.stats()["redelivered"] >= 3, what="three redeliveries")


def test_m5_readable_by_tools(queue):
    """M5: `cat`, `awk` and `ls -l` work on it, whatever its size is said to be."""
    result = run(["awk", "$1 == \"prefetch\" { print $2 }", queue.path / "stats"])
    assert result.out == "16\n"
    assert run(["cat", queue.path / "stats"]).out == (queue.path / "stats").read_text()
    with open(queue.path / "stats", "rb", buffering=0) as file:
        assert file.read(5) + file.read() == (queue.path / "stats").read_bytes()
