# SPDX-License-Identifier: MIT
"""Other pid namespaces and other users: who calls without being seen (P8, C4), and who mounts without being root (M2)."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys

import pytest

from mounted import daemon_path
from processes import background, eventually, run, wait_exit
from test_drafts import errno_of

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
              pytest.mark.skipif(run(["unshare", "-m", "-pf", "true"]).status != 0, reason="no namespaces here")]


@pytest.fixture
def unseen(backend, mounts):
    """A queue of a mount whose daemon has a pid namespace of its own: it sees nobody who calls it."""
    mount = mounts.add(backend.url, {"max-length": "1", "overflow": "reject-publish", "rename-timeout": "10s"},
                       prefix=["unshare", "--pid", "--fork", "--kill-child"])
    yield mount.make("jobs")
    daemon = int(run(["pgrep", "-P", str(mount.process.pid)]).out)
    os.kill(daemon, signal.SIGTERM)  # unshare passes nothing on
    assert mount.wait() == 0


HANDED_ON = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
os.write(file, b"one")
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    os.read(reader, 1)
    os.write(file, b" and two")
    os._exit(0)
os.close(file)
print("closed", flush=True)
sys.stdin.read()
os.close(writer)
os.wait()
"""


def test_p8_unseen_writer(unseen):
    """P8: a file is complete when the last holder lets go, and the close() of the one who opened it says nothing."""
    with background([sys.executable, "-c", HANDED_ON, unseen.new / "job"], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"closed\n"
        assert unseen.stats()["published"] == 0
        writer.stdin.close()
        assert wait_exit(writer) == 0
    assert (unseen.path / "next").read_bytes() == b"one and two"
    unseen.wait_stats(published=1, acked=1)


def test_p8_unseen_writer_is_refused(unseen):
    """P8, P7: no close() carries the error; the file is listed with its reason."""
    assert run(["cp", "/proc/self/status", unseen.new / "first"]).status == 0
    unseen.wait_stats(confirmed=1)
    assert run(["cp", "/proc/self/status", unseen.new / "second"]).status == 0
    unseen.wait_names("new", 1)
    eventually(lambda: errno_of(os.getxattr, unseen.new / "second", "user.mqfs.error") == 0, what="the reason")
    assert "No space left" in unseen.xattr("new", "second", "error")


def test_c4_unseen_taker(unseen):
    """C4: callers that mqfs can't see get EBUSY through pending/X, and use claimed/X."""
    unseen.publish(b"body")
    (name,) = unseen.wait_names("pending", 1)
    with open(unseen.pending / name, "rb") as file:
        assert file.read() == b"body"
        for where in (unseen.retry, unseen.dead, unseen.claimed):
            assert errno_of(os.rename, unseen.pending / name, where / name) == errno.EBUSY
        assert errno_of(os.unlink, unseen.pending / name) == errno.EBUSY
    assert unseen.names("claimed") == [name]
    os.unlink(unseen.claimed / name)
    unseen.wait_stats(acked=1)


def test_p8_c4_namespace_within(jobs, room):
    """P8, C4: who lives in a namespace within mqfs's own, as a container's processes do, is seen like anybody."""
    script = """
(echo one; echo two) > new/job || exit
until set -- pending/*; [ -e "$1" ]; do sleep 0.05; done
cat "$1" && rm "$1"
"""
    result = run(["unshare", "-pf", "--mount-proc", "sh", "-c", script], cwd=jobs.path)
    assert (result.status, result.out, result.err) == (0, "one\ntwo\n", "")
    jobs.wait_stats(acked=1, pending=0, claimed=0)


USER = """
"$ROOM/mqfs" mount -f -o drain-timeout=0 "sqlite:$ROOM/state/store.db" "$ROOM/mnt" &
until grep -q "$ROOM/mnt" /proc/self/mountinfo && mkdir "$ROOM/mnt/jobs"; do kill -0 $! && sleep 0.05 || exit; done
cd "$ROOM/mnt/jobs" || exit
echo body > new/job || exit
until set -- pending/*; [ -e "$1" ]; do sleep 0.05; done
cat "$1" && rm "$1" && stat -c "%U %a" new
cd / && kill $! && wait $!
"""


def test_m2_daemon_of_an_ordinary_user(room):
    """M2: somebody who isn't root mounts, publishes and consumes."""
    room.chmod(0o755)
    shutil.copy2(daemon_path(), room / "mqfs")  # where it was built others may not go
    for name in ("state", "mnt"):
        (room / name).mkdir()
        shutil.chown(room / name, "nobody")
    # In a mount namespace of its own /dev/fuse is what it is on a host.
    try:
        os.mknod(room / "fuse", stat.S_IFCHR, os.makedev(10, 229))
    except PermissionError:
        pytest.skip("no devices can be made here")
    (room / "fuse").chmod(0o666)
    as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "-c", USER]
    script = 'mount --bind "$ROOM/fuse" /dev/fuse && exec "$@"'
    environment = {**os.environ, "ROOM": str(room), "HOME": str(room / "state"), "XDG_STATE_HOME": str(room / "state")}
    result = run(["unshare", "-m", "sh", "-c", script, "sh", *as_user], env=environment, timeout=40)
    assert (result.status, result.out) == (0, "body\nnobody 700\n"), result
