# SPDX-License-Identifier: MIT
"""Tools that walk over everything end, and settle nothing (tenets 2 and 4; claim and next are not listed)."""

import os

import pytest

from processes import eventually, run
from test_drafts import errno_of

WALKERS = {
    "grep": "grep -r needle .",
    "grep-dereference": "grep -R needle .",
    "find": "find . -type f",
    "find-exec": "find . -type f -size -1000k -exec wc -c {} +",
    "ls": "ls -laR .",
    "cp": 'cp -r . "$OUT/copy"',
    "cp-a": 'cp -a . "$OUT/copy"',
    "tar": 'tar -cf "$OUT/all.tar" .',
    "du": "du -a --apparent-size .",
    "rsync": 'rsync -a ./ "$OUT/copy/"',
    "busybox-find": "busybox find . -type f",
    "busybox-grep": "busybox grep -r needle .",
    "zip-like": "find . -type f -print0 | xargs -0 cat | wc -c",
    "file-manager": "find . -printf '%p %s %t %M %u\\n'; stat -f .; df .",
}


@pytest.mark.parametrize("walker", WALKERS)
def test_walker_ends_and_settles_nothing(mount, room, walker):
    """grep -r, find, cp -r, tar and du over the whole mount end and settle nothing."""
    target = mount(backoff_base="10min", prefetch=4)
    queue, other = target.make("jobs"), target.make("other")
    for number in range(10):
        queue.publish(b"needle %d" % number)
    queue.fail_to("dead", error="needle")
    queue.fail_to("retry", error="needle")
    queue.take()
    (queue.new / ".draft").write_bytes(b"needle in a draft")
    (queue.new / "empty").touch()
    other.publish(b"needle elsewhere")
    queue.wait_names("dead", 1)
    queue.wait_names("retry", 1)
    out = room / "out"
    out.mkdir()
    target.sh(WALKERS[walker], env={**os.environ, "OUT": str(out)}, timeout=45)
    stats = queue.stats()
    assert stats["acked"] == 0 and other.stats()["acked"] == 0
    assert (len(queue.names("dead")), len(queue.names("retry"))) == (1, 1)
    assert queue.names("new") == [".draft", "empty"]
    # Those that open pending/X take it (C3), which is no settlement: every message is still there.
    bodies = set()

    def all_seen():
        for name in queue.names("pending"):
            errno_of(os.rename, queue.pending / name, queue.claimed / name)
        for name in queue.names("claimed"):
            body = (queue.claimed / name).read_bytes()
            bodies.add(body)
            os.unlink(queue.claimed / name)
        return len(bodies) >= 8

    eventually(all_seen, what="every message")
    assert bodies == {b"needle %d" % number for number in range(2, 10)}
    eventually(lambda: queue.names("pending") == [] and queue.names("claimed") == [], what="an empty window")


@pytest.mark.parametrize("walker", ["find", "ls", "du", "file-manager", "busybox-find"])
def test_looking_takes_nothing(mount, walker, room):
    """Tenet 2: ls, stat, find, df take nothing."""
    target = mount()
    queue = target.make("jobs")
    for number in range(5):
        queue.publish(b"%d" % number)
    result = target.sh(WALKERS[walker], env={**os.environ, "OUT": str(room)})
    assert result.status == 0, result.err
    assert queue.names("claimed") == []
    assert queue.consume(5) == [b"%d" % number for number in range(5)]


def test_about_the_mount(queue):
    """The tree: .mqfs/ is about the mount: its files can be read, and are no queues."""
    about = queue.mount.path / ".mqfs"
    names = os.listdir(about)
    assert "README" in names and "status" in names
    for name in names:
        path = about / name
        if path.is_file():
            assert b"\0" not in path.read_bytes(), name
    assert (about / "README").read_bytes().strip() and (about / "status").read_bytes().strip()
    assert errno_of((about / "README").write_bytes, b"x") != 0
    assert errno_of(os.mkdir, about / "x") != 0
    result = run(["df", "-P", queue.mount.path])
    assert result.status == 0 and "mqfs" in result.out
