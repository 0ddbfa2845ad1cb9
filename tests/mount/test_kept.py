# SPDX-License-Identifier: MIT
"""Drafts that were not accepted outlive mqfs: what is in new/ is there after a restart, on both backends (P7)."""

import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
import time

import pytest

from processes import background, eventually, run
from test_drafts import errno_of, refused

PROPERTIES = {"user.mqfs.priority": b"7", "user.mqfs.type": b"order", "user.mqfs.header.tenant": b"Zo\xc3\xab",
              "user.mqfs.message-id": b"the-id", "user.mqfs.delay": b"100"}
ENDS = ["kill", "terminate"]


@pytest.fixture
def full(mount):
    """A queue that refuses, with one message in it."""
    queue = mount(max_length=1, overflow="reject-publish", lease_timeout="1s").make("jobs")
    (queue.new / "first").write_bytes(b"first")
    return queue


def remount(queue, end):
    """The mount ends, by kill -9 or an orderly SIGTERM, and is there again."""
    getattr(queue.mount, end)()
    queue.mount.start()
    queue.mount.queue(queue.name)


def properties(path):
    return {key: os.getxattr(path, key) for key in os.listxattr(path)}


def sync(path):
    """fsync(2), so that nothing depends on how quick the disk is."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


def on_disk(queue, name, body):
    """The properties of such a draft in the state file, as text; empty when there is none."""
    status = dict(line.split(" ", 1) for line in (queue.mount.path / ".mqfs/status").read_text().splitlines())
    with contextlib.closing(sqlite3.connect(status["state"], timeout=10)) as state:
        rows = state.execute("SELECT head FROM entry JOIN content USING (id) WHERE base = ? AND body = ?",
                             (name, body.encode())).fetchall()
    return "".join(head.decode(errors="replace") or "none" for (head,) in rows)


@pytest.mark.parametrize("end", ENDS)
def test_p7_refused_draft(full, backend, end):
    """P7: a refused draft is listed again after a restart, with its reason, can be read, and be sent again by mv."""
    refused(full, "job", b"body")
    before = properties(full.new / "job")
    assert b"No space left" in before["user.mqfs.error"]
    remount(full, end)
    assert full.names("new") == ["job"]
    assert properties(full.new / "job") == before
    assert (full.new / "job").read_bytes() == b"body"
    assert (full.new / "job").stat().st_size == 4
    assert [message.body for message in backend.expect(full, 1)] == [b"first"]
    os.rename(full.new / "job", full.new / "again")
    (message,) = backend.expect(full, 1)
    assert (message.body, message.properties["message_id"].encode()) == (b"body", before["user.mqfs.message-id"])
    assert full.names("new") == []
    remount(full, "terminate")  # killed just then, mqfs might list it once more
    assert full.names("new") == []


@pytest.mark.parametrize("end", ENDS)
def test_p7_ordinary_files(mount, backend, end):
    """P7, P2: dot-files and empty drafts are there again, with content, xattrs, mode and times."""
    queue = mount(lease_timeout="1s").make("jobs")
    draft, empty = queue.new / ".draft", queue.new / "empty"
    draft.write_bytes(b"body")
    empty.touch()
    for path in (draft, empty):
        for key, value in PROPERTIES.items():
            os.setxattr(path, key, value)
    os.chmod(draft, 0o640)
    os.utime(draft, (1000, 2000))
    for path in (draft, empty):
        sync(path)
    remount(queue, end)
    assert queue.names("new") == [".draft", "empty"]
    assert (draft.stat().st_mode & 0o777, draft.stat().st_mtime) == (0o640, 2000)
    for path in (draft, empty):
        assert PROPERTIES.items() <= properties(path).items()
    with open(draft, "ab") as file:
        file.write(b" and more")
    assert draft.read_bytes() == b"body and more"
    os.truncate(draft, 6)
    empty.write_bytes(b"taken over")
    os.rename(draft, queue.new / "job")
    assert queue.names("new") == []
    eventually(lambda: backend.depth(queue) == 2, 10, "two messages whose delay is over")
    found = {message.body: message for message in backend.expect(queue, 2)}
    assert set(found) == {b"body a", b"taken over"}
    for message in found.values():
        assert (message.priority, message.properties["type"], message.headers["tenant"]) == (7, "order", "Zoë")
    remount(queue, "terminate")
    assert queue.names("new") == []


def test_p7_closed_is_enough(mount):
    """P7: without fsync what was closed is on the disk soon after."""
    queue = mount(lease_timeout="1s").make("jobs")
    (queue.new / ".draft").write_bytes(b"one")
    (queue.new / ".draft").write_bytes(b"body")
    os.setxattr(queue.new / ".draft", "user.mqfs.type", b"kind")
    # RELEASE comes after close() has returned: only the disk shows when it was kept.
    eventually(lambda: "kind" in on_disk(queue, ".draft", "body"), what="the draft on the disk")
    remount(queue, "kill")
    assert (queue.new / ".draft").read_bytes() == b"body"
    assert queue.xattr("new", ".draft", "type") == "kind"


def test_p7_removed_and_renamed_stay_so(full, backend):
    """P7: what was removed, renamed or published does not come back."""
    for name in ("a", "b", "c"):
        refused(full, name, name.encode())
    (full.new / ".d").write_bytes(b"d")
    (full.new / ".e").write_bytes(b"e")
    os.unlink(full.new / "a")
    os.rename(full.new / "b", full.new / ".b")
    os.unlink(full.new / ".e")
    assert [message.body for message in backend.expect(full, 1)] == [b"first"]
    os.rename(full.new / ".d", full.new / "d")
    time.sleep(3)  # a removed draft may be put back for 2 s
    remount(full, "kill")
    assert full.names("new") == [".b", "c"]
    assert (full.new / ".b").read_bytes() == b"b"
    assert errno_of(os.getxattr, full.new / ".b", "user.mqfs.error") == errno.ENODATA
    assert [message.body for message in backend.expect(full, 1)] == [b"d"]


def test_p7_twins(full):
    """P7: each keeps a name of its own over a restart."""
    for body in (b"one", b"two", b"three"):
        refused(full, "job", body)
    before = {name: (full.new / name).read_bytes() for name in full.names("new")}
    assert sorted(before) == ["job", "job~2", "job~3"]
    remount(full, "kill")
    assert {name: (full.new / name).read_bytes() for name in full.names("new")} == before
    refused(full, "job", b"four")
    assert full.names("new") == ["job", "job~2", "job~3", "job~4"]


def test_p7_tools_that_unlink_first(full, tmp_path):
    """P7: nothing written onto a kept draft replaces it, also by tools that unlink the name before."""
    for tool in ("mv", "install", "cp"):
        refused(full, tool, b"kept")
        (tmp_path / tool).write_bytes(b"new")
        assert run([tool, tmp_path / tool, full.new / tool]).status != 0
    time.sleep(2.2)  # what was removed would really go now
    for tool in ("mv", "install", "cp"):
        assert {(full.new / name).read_bytes() for name in (tool, f"{tool}~2")} == {b"kept", b"new"}


def test_p7_removed_and_written_again(full):
    """P7: who removes a refused draft and writes it again, as one who tries again does, leaves one."""
    for _ in range(3):
        refused(full, "job", b"body")
        os.unlink(full.new / "job")
    refused(full, "job", b"body")
    assert full.names("new") == ["job"]


@pytest.mark.parametrize("end", ENDS)
def test_p7_spoiled_draft(mount, backend, end):
    """P7: a spoiled draft stays spoiled: EIO; renamed to a dot-name it is an ordinary file."""
    queue = mount(max_body=4096, lease_timeout="1s").make("jobs")
    with contextlib.suppress(OSError), open(queue.new / "job", "wb", buffering=0) as file:
        file.write(b"x" * 4000)
        file.write(b"x" * 4000)
    remount(queue, end)
    assert queue.names("new") == ["job"]
    assert b"File too large" in os.getxattr(queue.new / "job", "user.mqfs.error")
    assert errno_of(os.rename, queue.new / "job", queue.new / "other") == errno.EIO
    os.rename(queue.new / "job", queue.new / ".draft")
    os.truncate(queue.new / ".draft", 3)
    os.rename(queue.new / ".draft", queue.new / "repaired")
    assert [message.body for message in backend.expect(queue, 1)] == [b"xxx"]


def test_p7_killed_writer(mount, backend):
    """P7, P8: what a killed writer left is listed again, and can't be published."""
    queue = mount(lease_timeout="1s").make("jobs")
    script = "exec 3>new/job; echo half >&3; echo; exec sleep 30"
    with background(["sh", "-c", script], cwd=queue.path, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        writer.kill()
    queue.wait_names("new", 1)
    eventually(lambda: errno_of(os.rename, queue.new / "job", queue.new / "other") == errno.EIO)
    eventually(lambda: on_disk(queue, "job", "half\n"), what="the draft on the disk")  # no close() waits for that
    remount(queue, "kill")
    assert queue.names("new") == ["job"]
    assert errno_of(os.rename, queue.new / "job", queue.new / "other") == errno.EIO
    assert (queue.new / "job").read_bytes() == b"half\n"
    backend.expect(queue, 0)


def test_p7_half_written_when_the_mount_ends(mount, backend):
    """P7: SIGTERM while files are being written: a half-written message is kept as such, a dot-file as it is."""
    queue = mount(lease_timeout="1s").make("jobs")
    script = """
import os, sys, time
for name in ("job", ".draft"):
    os.write(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), b"half")
os.open("nothing", os.O_WRONLY | os.O_CREAT, 0o600)
print(flush=True)
time.sleep(30)
"""
    with background([sys.executable, "-c", script], cwd=queue.new, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        queue.mount.terminate()
    queue.mount.start()
    assert queue.names("new") == [".draft", "job"]
    assert b"ended while it was being written" in os.getxattr(queue.new / "job", "user.mqfs.error")
    assert errno_of(os.rename, queue.new / "job", queue.new / "other") == errno.EIO
    assert [(queue.new / name).read_bytes() for name in (".draft", "job")] == [b"half", b"half"]
    os.rename(queue.new / ".draft", queue.new / "whole")
    assert [message.body for message in backend.expect(queue, 1)] == [b"half"]


def test_p7_xattr_of_a_kept_draft(full, backend):
    """P7: a kept draft's properties can be changed, also after a restart, and are those of what is sent."""
    refused(full, "job", b"body")
    remount(full, "kill")
    os.setxattr(full.new / "job", "user.mqfs.priority", b"9")
    os.setxattr(full.new / "job", "user.mqfs.header.colour", b"blue")
    sync(full.new / "job")
    remount(full, "kill")
    assert full.xattr("new", "job", "priority") == "9"
    backend.expect(full, 1)
    os.rename(full.new / "job", full.new / "again")
    (message,) = backend.expect(full, 1)
    assert (message.body, message.priority, message.headers["colour"]) == (b"body", 9, "blue")


def test_p7_two_mounts(mount, backend, room):
    """P7: the mounts of a host that share a state directory see each other's, and either may deal with them."""
    one = mount(state_dir=room / "state", max_length=1, overflow="reject-publish").make("jobs")
    two = mount(state_dir=room / "state").queue("jobs")
    (one.new / "first").write_bytes(b"first")
    refused(one, "job", b"body")
    (one.new / ".draft").write_bytes(b"draft")
    two.wait_names("new", 2)
    assert (two.new / "job").read_bytes() == b"body"
    os.rename(two.new / ".draft", two.new / ".other")
    eventually(lambda: one.names("new") == [".other", "job"], what="the same listing")
    (one.new / ".other").write_bytes(b"changed")
    eventually(lambda: (two.new / ".other").stat().st_size == 7, what="the same size")
    assert (two.new / ".other").read_bytes() == b"changed"
    os.unlink(two.new / ".other")
    backend.expect(one, 1)
    os.rename(two.new / "job", two.new / "again")
    eventually(lambda: one.names("new") == [], what="the same listing")
    assert [message.body for message in backend.expect(one, 1)] == [b"body"]


@pytest.mark.parametrize("name", ["sent", ".moved"])
def test_p7_changed_by_another_mount_while_it_is_read(mount, backend, room, name):
    """P7, P2: who reads a dot-file keeps no mount from what another one has written into it since."""
    one = mount(state_dir=room / "state").make("jobs")
    two = mount(state_dir=room / "state").queue("jobs")
    (one.new / ".draft").write_bytes(b"old")
    two.wait_names("new", 1)
    with open(one.new / ".draft", "rb") as reader:
        assert reader.read(1) == b"o"
        (two.new / ".draft").write_bytes(b"newer")
        eventually(lambda: (one.new / ".draft").stat().st_size == 5, what="the same size")
        os.chmod(one.new / ".draft", 0o640)
        os.rename(one.new / ".draft", one.new / name)
        if name.startswith("."):
            assert (one.new / name).read_bytes() == b"newer"
            sync(one.new / name)
    if name.startswith("."):
        remount(one, "terminate")
        os.rename(one.new / name, one.new / "sent")
    assert [message.body for message in backend.expect(one, 1)] == [b"newer"]


def test_q3_kept_is_content(full, backend):
    """Q3: a kept draft is content, also after a restart."""
    refused(full, "job", b"body")
    remount(full, "kill")
    backend.expect(full, 1)
    assert errno_of(os.rmdir, full.path) == errno.ENOTEMPTY
    os.unlink(full.new / "job")
    eventually(lambda: errno_of(os.rmdir, full.path) == 0, 10, "rmdir")
