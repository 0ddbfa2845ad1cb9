# SPDX-License-Identifier: MIT
"""Drafts: what is in new/ before, while and after it is published (P1 to P5, P7, P8)."""

import concurrent.futures
import contextlib
import ctypes
import errno
import mmap
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from processes import background, eventually, run, wait_exit

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def errno_of(function, *arguments):
    """The errno a call fails with, 0 when it succeeds."""
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0


@pytest.fixture
def full(mount):
    """A queue that refuses, with one message in it."""
    queue = mount(max_length=1, overflow="reject-publish").make("jobs")
    (queue.new / "first").write_bytes(b"first")
    return queue


def refused(queue, name, body):
    """A draft that the queue refused."""
    assert errno_of((queue.new / name).write_bytes, body) == errno.ENOSPC


# -- P1 ---------------------------------------------------------------------

@pytest.mark.only("rabbitmq")
def test_p1_close_means_confirmed(queue, shared_backend):
    """P1: the close() that completes it returns 0 only when the broker confirmed it."""
    for number in range(1, 20):
        (queue.new / "job").write_bytes(b"x")
        assert shared_backend.depth(queue) == number


def test_p1_draft_being_written_is_not_found(queue):
    """P1: a draft that is being written can't be found by its name: O_EXCL succeeds for a second writer."""
    with open(queue.new / "job", "xb", buffering=0) as first:
        first.write(b"one")
        assert errno_of(os.stat, queue.new / "job") == errno.ENOENT
        with open(queue.new / "job", "xb", buffering=0) as second:
            second.write(b"second")
            assert os.fstat(first.fileno()).st_ino != os.fstat(second.fileno()).st_ino
            assert (os.fstat(first.fileno()).st_size, os.fstat(second.fileno()).st_size) == (3, 6)


def test_p1_xattrs_through_a_descriptor_are_its_own(queue, shared_backend):
    """P1: fstat and xattrs through a descriptor concern its own message."""
    with open(queue.new / "job", "wb", buffering=0) as low, open(queue.new / "job", "wb", buffering=0) as high:
        os.setxattr(low.fileno(), "user.mqfs.priority", b"1")
        os.setxattr(high.fileno(), "user.mqfs.priority", b"8")
        low.write(b"low")
        high.write(b"high")
        assert os.getxattr(low.fileno(), "user.mqfs.priority") == b"1"
    messages = shared_backend.expect(queue, 2)
    assert {message.body: message.priority for message in messages} == {b"low": 1, b"high": 8}


def test_p1_appending_through_two_descriptors(queue, shared_backend):
    """P1: `>>` through a descriptor concerns its own message."""
    with open(queue.new / "log", "ab", buffering=0) as first, open(queue.new / "log", "ab", buffering=0) as second:
        for _ in range(3):
            first.write(b"a")
            second.write(b"bb")
    assert sorted(message.body for message in shared_backend.expect(queue, 2)) == [b"aaa", b"bbbbbb"]


def test_p1_file_can_be_read_back_while_written(queue, shared_backend):
    """P1, P8: a draft is an ordinary file to the one who writes it."""
    with open(queue.new / "job", "w+b", buffering=0) as file:
        file.write(b"hello world")
        file.seek(0)
        assert file.read() == b"hello world"
        file.truncate(5)
        assert os.fstat(file.fileno()).st_size == 5
    assert shared_backend.expect(queue, 1)[0].body == b"hello"


# -- P2 ---------------------------------------------------------------------

def test_p2_dot_file_is_ordinary(queue, shared_backend):
    """P2: a name that starts with `.` is an ordinary file that closing does not publish."""
    path = queue.new / ".draft"
    path.write_bytes(b"one")
    with open(path, "ab") as file:
        file.write(b" two")
    with open(path, "r+b") as file:
        file.write(b"ONE")
    assert path.read_bytes() == b"ONE two"
    assert queue.names("new") == [".draft"]
    os.truncate(path, 3)
    assert path.stat().st_size == 3
    os.rename(path, queue.new / ".other")
    assert queue.names("new") == [".other"]
    os.unlink(queue.new / ".other")
    assert queue.names("new") == []
    shared_backend.expect(queue, 0)


def test_p2_rename_publishes(queue, shared_backend):
    """P2: mv of it to a name without the dot publishes it and returns the outcome."""
    (queue.new / ".draft").write_bytes(b"body")
    assert run(["mv", queue.new / ".draft", queue.new / "job.txt"]).status == 0
    assert queue.names("new") == []
    (message,) = shared_backend.expect(queue, 1)
    assert (message.body, message.headers["mqfs-filename"]) == (b"body", "job.txt")


def test_p2_rename_returns_the_refusal(full, backend):
    """P2, P7: a refused rename fails with the reason, and the file is still listed."""
    (full.new / ".draft").write_bytes(b"body")
    result = run(["mv", full.new / ".draft", full.new / "job"])
    assert result.status != 0 and "No space left on device" in result.err
    (left,) = full.names("new")
    assert (full.new / left).read_bytes() == b"body"
    assert [message.body for message in backend.expect(full, 1)] == [b"first"]
    os.rename(full.new / left, full.new / "later")
    assert [message.body for message in backend.expect(full, 1)] == [b"body"]


def test_p2_rename_right_after_close_returns_the_refusal(full):
    """P2: also when the kernel has not yet told that the file was closed, which it does in its own time."""
    for number in range(1500):
        (full.new / ".draft").write_bytes(b"body")
        assert errno_of(os.rename, full.new / ".draft", full.new / f"job{number}") == errno.ENOSPC
        os.unlink(full.new / ".draft")
    assert full.names("new") == []


def test_p2_renamed_while_open(queue, shared_backend):
    """P2: renamed while still open for writing, it becomes a draft of the new name, and P8 completes it."""
    with open(queue.new / ".draft", "wb", buffering=0) as file:
        file.write(b"first half, ")
        os.rename(queue.new / ".draft", queue.new / "job")
        shared_backend.expect(queue, 0)
        file.write(b"second half")
    (message,) = shared_backend.expect(queue, 1)
    assert message.body == b"first half, second half"
    assert queue.names("new") == []


def test_p2_rename_into_another_queue(queue, shared_backend):
    """P2: mv of anything listed in a new/ of this mount publishes it in the queue it is moved to."""
    other = queue.mount.make(f"{queue.name}-other")
    (queue.new / ".draft").write_bytes(b"body")
    os.rename(queue.new / ".draft", other.new / "job")
    shared_backend.expect(queue, 0)
    assert [message.body for message in shared_backend.expect(other, 1)] == [b"body"]


def test_p2_rename_to_a_priority(queue, shared_backend):
    """P2, P3: the dot-file may be renamed into new/@N/."""
    (queue.new / ".draft").write_bytes(b"body")
    os.rename(queue.new / ".draft", queue.new / "@6" / "job")
    assert shared_backend.expect(queue, 1)[0].priority == 6


def test_p2_maildir_and_editors(queue, shared_backend):
    """P2: the maildir habit: write a hidden name, fsync, link it into place by rename; nothing is sent before."""
    descriptor = os.open(queue.new / ".tmp.123", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, b"mail")
    os.fsync(descriptor)
    os.close(descriptor)
    shared_backend.expect(queue, 0)
    os.replace(queue.new / ".tmp.123", queue.new / "mail")
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b"mail"]


# -- P3 ---------------------------------------------------------------------

def test_p3_priority_directories(queue, shared_backend):
    """P3: new/@N/ publishes at priority N; it is not listed."""
    for priority in (0, 3, 7, 10):
        (queue.new / f"@{priority}" / "job").write_bytes(b"%d" % priority)
    assert queue.names("new") == []
    messages = shared_backend.expect(queue, 4)
    assert [(message.body, message.priority) for message in messages] == [
        (b"10", 10), (b"7", 7), (b"3", 3), (b"0", 0)]
    for name in ("@", "@256", "@-1", "@x", "@1000"):
        assert errno_of((queue.new / name / "job").write_bytes, b"x") != 0, name


def test_p3_priority_of_the_setting(mount, backend):
    """P3: new/ publishes at the setting's priority, which new/@N/ and an xattr overrule."""
    queue = mount(priority=4).make("jobs")
    (queue.new / "a").write_bytes(b"setting")
    (queue.new / "@2" / "b").write_bytes(b"directory")
    queue.publish(b"xattr", priority=9)
    found = {message.body: message.priority for message in backend.expect(queue, 3)}
    assert found == {b"setting": 4, b"directory": 2, b"xattr": 9}


PROPERTIES = {
    "content-type": "application/x-test",
    "content-encoding": "gzip",
    "correlation-id": "c-1",
    "reply-to": "answers",
    "type": "order",
    "app-id": "shop",
    "message-id": "m-1",
    "expiration": "3600000",
}


def test_p3_properties_and_headers(queue, shared_backend):
    """P3: properties and headers are xattrs on the draft."""
    draft = queue.new / ".draft"
    draft.write_bytes(b"body")
    for name, value in PROPERTIES.items():
        os.setxattr(draft, f"user.mqfs.{name}", value.encode())
        assert os.getxattr(draft, f"user.mqfs.{name}") == value.encode()
    os.setxattr(draft, "user.mqfs.priority", b"8")
    os.setxattr(draft, "user.mqfs.header.tenant", "Zoë".encode())
    os.setxattr(draft, "user.mqfs.header.gone", b"x")
    os.removexattr(draft, "user.mqfs.header.gone")
    assert {f"user.mqfs.{name}" for name in PROPERTIES} <= set(os.listxattr(draft))
    os.rename(draft, queue.new / "job")
    (message,) = shared_backend.expect(queue, 1)
    assert message.properties == {name.replace("-", "_"): value for name, value in PROPERTIES.items()}
    assert message.priority == 8
    assert message.headers["tenant"] == "Zoë" and "gone" not in message.headers


def test_p3_setfattr_and_getfattr(queue, shared_backend):
    """P3: the same with the tools that everybody has; P4: an empty draft hands its xattrs to the next open."""
    if not shutil.which("setfattr"):
        pytest.skip("the package attr is not installed")
    script = f"""
        cd {queue.name}/new &&
        touch job && setfattr -n user.mqfs.priority -v 9 job && setfattr -n user.mqfs.header.colour -v blue job &&
        getfattr --only-values -n user.mqfs.priority job && cat > job"""
    result = queue.mount.sh(script, stdin=b"body")
    assert (result.status, result.out) == (0, "9"), result.err
    (message,) = shared_backend.expect(queue, 1)
    assert (message.body, message.priority, message.headers["colour"]) == (b"body", 9, "blue")


@pytest.mark.parametrize("name, content_type", [
    ("task.json", "application/json"), ("note.txt", "text/plain"), ("photo.png", "image/png"),
    ("page.html", "text/html"), ("data.xyzzy", "application/octet-stream"), ("noextension", "application/octet-stream")])
def test_p3_content_type_is_guessed(queue, shared_backend, name, content_type):
    """P3: content-type is guessed from the extension."""
    (queue.new / name).write_bytes(b"x")
    found = shared_backend.expect(queue, 1)[0].properties["content_type"]
    assert found.split(";")[0] == content_type


def test_p3_what_every_message_has(queue, shared_backend):
    """P3: a UUIDv7 as message-id, the file name in mqfs-filename, persistent delivery, a timestamp."""
    before = int(time.time())
    (queue.new / "one.txt").write_bytes(b"1")
    (queue.new / "two.txt").write_bytes(b"2")
    first, second = shared_backend.expect(queue, 2)
    for message, name in ((first, "one.txt"), (second, "two.txt")):
        assert UUID7.fullmatch(message.properties["message_id"])
        assert message.headers["mqfs-filename"] == name
        assert message.delivery_mode == 2
        if shared_backend.name == "rabbitmq":
            assert before - 1 <= message.timestamp <= time.time() + 1
    assert first.properties["message_id"] < second.properties["message_id"]


BAD_XATTRS = [
    ("priority", b"256"), ("priority", b"-1"), ("priority", b"high"), ("priority", b""), ("priority", b"1.5"),
    ("priority", b"5\0"), ("priority", b"99999999999999999999"), ("expiration", b"soon"), ("expiration", b"-1"),
    ("content-type", b"x" * 256), ("content-type", b"\xff\xfe"), ("message-id", b"a\nb"), ("message-id", b"x" * 256),
    ("correlation-id", b"\xc3"), ("header.x-death", b"x"), ("header.mqfs-attempts", b"7"), ("header.name", b"\xff"),
    ("header." + "n" * 129, b"x"), ("delay", b"never"), ("delay", b"-5"),
]


@pytest.mark.parametrize("name, value", BAD_XATTRS)
def test_p3_bad_values_are_refused(queue, shared_backend, name, value):
    """P3: a value that is none gets EINVAL, and the draft stays as it was."""
    draft = queue.new / ".draft"
    draft.write_bytes(b"body")
    os.setxattr(draft, "user.mqfs.priority", b"3")
    before = {key: os.getxattr(draft, key) for key in os.listxattr(draft)}
    assert errno_of(os.setxattr, draft, f"user.mqfs.{name}", value) == errno.EINVAL
    assert {key: os.getxattr(draft, key) for key in os.listxattr(draft)} == before
    os.rename(draft, queue.new / "job")
    assert shared_backend.expect(queue, 1)[0].priority == 3


@pytest.mark.parametrize("name", ["user.mqfs.user-id", "user.mqfs.timestamp", "user.mqfs.nonsense", "user.other",
                                  "trusted.mqfs.priority"])
def test_p3_other_xattrs_do_no_harm(queue, shared_backend, name):
    """P3: names that are no property are refused, and the message is published all the same."""
    draft = queue.new / ".draft"
    draft.write_bytes(b"body")
    assert errno_of(os.setxattr, draft, name, b"1") != 0
    os.rename(draft, queue.new / "job")
    assert shared_backend.expect(queue, 1)[0].body == b"body"


def test_p3_headers_too_large(queue, shared_backend):
    """P3: headers that a broker would refuse are refused at the draft, and what fits is published."""
    draft = queue.new / ".draft"
    draft.write_bytes(b"body")
    assert errno_of(os.setxattr, draft, "user.mqfs.header.big", b"x" * 60000) in (errno.EINVAL, errno.E2BIG)
    refusals = [errno_of(os.setxattr, draft, f"user.mqfs.header.h{number}", b"y" * 4000) for number in range(40)]
    assert 0 in refusals and refusals[-1] == errno.E2BIG
    os.rename(draft, queue.new / "job")
    (message,) = shared_backend.expect(queue, 1)
    assert message.headers["h0"] == "y" * 4000


def test_p3_delay(mount):
    """P3: .delay: not before, rounded up."""
    queue = mount().make("jobs")
    start = time.monotonic()
    queue.publish(b"later", name="later", delay=4000)
    queue.publish(b"now", name="now")
    assert queue.consume(1) == [b"now"]
    assert time.monotonic() - start < 4
    assert queue.consume(1) == [b"later"]
    assert 4 <= time.monotonic() - start < 14


# -- P4 ---------------------------------------------------------------------

@pytest.mark.parametrize("script", ["touch new/job", ": > new/job", "cp /dev/null new/job", "true >> new/job",
                                    "dd if=/dev/null of=new/job status=none", "install /dev/null new/job"])
def test_p4_empty_file_is_a_draft(queue, shared_backend, script):
    """P4: an empty file is not published by close(): it stays listed; a rename publishes even an empty one."""
    result = run(["sh", "-c", script], cwd=queue.path)
    assert result.status == 0, result.err
    assert queue.names("new") == ["job"]
    assert (queue.new / "job").stat().st_size == 0
    shared_backend.expect(queue, 0)
    os.rename(queue.new / "job", queue.new / "empty")
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b""]
    assert queue.names("new") == []


def test_p4_empty_draft_is_taken_over(queue, shared_backend):
    """P4, P7: only an empty draft is taken over by the next open of its name."""
    (queue.new / "job").touch()
    os.setxattr(queue.new / "job", "user.mqfs.type", b"kept")
    (queue.new / "job").write_bytes(b"body")
    assert queue.names("new") == []
    (message,) = shared_backend.expect(queue, 1)
    assert (message.body, message.properties["type"]) == (b"body", "kept")


def test_p7_empty_draft_is_taken_over_before_its_release(queue, shared_backend):
    """P7: the next open takes an empty draft over with its xattrs as soon as it is closed, though RELEASE comes late."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    file = os.open(queue.new / "job", os.O_RDWR | os.O_CREAT, 0o600)
    # A mapping keeps the kernel's open file; Python's would keep a descriptor, too.
    mapped = libc.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ, mmap.MAP_PRIVATE, file, ctypes.c_long(0))
    assert mapped != ctypes.c_void_p(-1).value
    os.close(file)
    os.setxattr(queue.new / "job", "user.mqfs.type", b"order")
    (queue.new / "job").write_bytes(b"body")
    (message,) = shared_backend.expect(queue, 1)
    assert (message.body, message.properties["type"]) == (b"body", "order")
    libc.munmap(ctypes.c_void_p(mapped), ctypes.c_size_t(4096))
    assert queue.names("new") == []


def test_p7_rename_replaces_an_empty_draft(queue, shared_backend):
    """P7: a rename onto an empty draft replaces it."""
    (queue.new / "job").touch()
    (queue.new / ".draft").write_bytes(b"body")
    os.replace(queue.new / ".draft", queue.new / "job")
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b"body"]
    assert queue.names("new") == []


def test_p4_touch_again_and_remove(queue, shared_backend):
    """P4: touching an empty draft again changes nothing, and it can be removed."""
    for _ in range(3):
        assert run(["touch", queue.new / "job"]).status == 0
    assert queue.names("new") == ["job"]
    os.unlink(queue.new / "job")
    assert queue.names("new") == []
    shared_backend.expect(queue, 0)


# -- P5 ---------------------------------------------------------------------

def test_p5_ghost(queue, shared_backend):
    """P5: published, it is no longer listed, but for about 2 s its name answers stat, chmod, chown and utimens."""
    path = queue.new / "job"
    path.write_bytes(b"body")
    started = time.monotonic()
    assert queue.names("new") == []
    assert path.stat().st_size == 4
    os.chmod(path, 0o640)
    os.chown(path, os.getuid(), os.getgid())
    os.utime(path, (1, 2))
    eventually(lambda: errno_of(os.stat, path) == errno.ENOENT, 6, "the ghost's end")
    assert time.monotonic() - started > 1
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b"body"]


def test_p5_removing_a_ghost_touches_no_message(queue, shared_backend):
    """P5: removing that name ends it; then unlink followed by O_EXCL works, as mv does it."""
    path = queue.new / "job"
    path.write_bytes(b"one")
    os.unlink(path)
    assert errno_of(os.stat, path) == errno.ENOENT
    with open(path, "xb") as file:
        file.write(b"two")
    assert [message.body for message in shared_backend.expect(queue, 2)] == [b"one", b"two"]


def test_p5_renaming_a_ghost_touches_no_message(queue, shared_backend):
    """P5: renaming a ghost moves it, and publishes nothing again."""
    path = queue.new / "job"
    path.write_bytes(b"one")
    os.rename(path, queue.new / "renamed")
    assert errno_of(os.stat, path) == errno.ENOENT
    assert (queue.new / "renamed").stat().st_size == 3
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b"one"]


def test_p5_same_name_again_is_a_new_message(queue, shared_backend):
    """P5: writing the same name makes a new message."""
    for number in range(5):
        (queue.new / "job").write_bytes(b"%d" % number)
        with open(queue.new / "job", "ab") as file:
            file.write(b"+%d" % number)
    expected = [text for number in range(5) for text in (b"%d" % number, b"+%d" % number)]
    messages = shared_backend.expect(queue, 10)
    assert [message.body for message in messages] == expected
    assert len({message.properties["message_id"] for message in messages}) == 10


def test_p5_same_name_by_many_threads(queue, shared_backend):
    """P1, P5: many threads that write one name at a time find it a ghost, and each makes a message."""
    names = [b"%d" % number for number in range(256)]
    with concurrent.futures.ThreadPoolExecutor(96) as pool:
        assert set(pool.map(lambda body: errno_of((queue.new / "job").write_bytes, body), names)) == {0}
    assert {message.body for message in shared_backend.expect(queue, len(names), 20)} == set(names)


def test_p5_mv_over_a_ghost(queue, shared_backend, tmp_path):
    """P5: mv across filesystems onto the name of a ghost makes a new message."""
    for number in range(3):
        (tmp_path / "source").write_bytes(b"%d" % number)
        result = run(["mv", tmp_path / "source", queue.new / "job"])
        assert (result.status, result.err) == (0, "")
    assert [message.body for message in shared_backend.expect(queue, 3)] == [b"0", b"1", b"2"]


def test_p5_dot_file_renamed_over_a_ghost(queue, shared_backend):
    """P5, P2: the same by rename."""
    for number in range(3):
        (queue.new / ".draft").write_bytes(b"%d" % number)
        os.replace(queue.new / ".draft", queue.new / "job")
    assert [message.body for message in shared_backend.expect(queue, 3)] == [b"0", b"1", b"2"]


# -- P7 ---------------------------------------------------------------------

def test_p7_kept_draft(full, backend):
    """P7: a refused draft stays listed, has the reason, can be read, and can be removed."""
    refused(full, "job", b"body")
    assert full.names("new") == ["job"]
    assert (full.new / "job").read_bytes() == b"body"
    assert full.xattr("new", "job", "error")
    os.unlink(full.new / "job")
    assert full.names("new") == []
    assert [message.body for message in backend.expect(full, 1)] == [b"first"]


def test_p7_nothing_replaces_a_kept_draft(full, backend):
    """P7: nothing written or renamed onto a kept draft replaces it: each keeps a name of its own (x~2, …)."""
    refused(full, "job", b"one")
    refused(full, "job", b"two")
    (full.new / ".draft").write_bytes(b"three")
    assert errno_of(os.rename, full.new / ".draft", full.new / "job") == errno.ENOSPC
    left = full.names("new")
    assert "job" in left and "job~2" in left and len(left) == 3
    assert sorted((full.new / name).read_bytes() for name in left) == [b"one", b"three", b"two"]
    assert [message.body for message in backend.expect(full, 1)] == [b"first"]
    for number, name in enumerate(left):
        body = (full.new / name).read_bytes()
        os.rename(full.new / name, full.new / f"sent{number}")
        assert [message.body for message in backend.expect(full, 1)] == [body]
    assert full.names("new") == []


def test_p7_writing_a_kept_name_when_there_is_room(full, backend):
    """P7: a new message under a kept draft's name is published, and the kept one stays."""
    refused(full, "job", b"kept")
    backend.expect(full, 1)
    (full.new / "job").write_bytes(b"new one")
    assert [message.body for message in backend.expect(full, 1)] == [b"new one"]
    assert full.names("new") == ["job"]
    assert (full.new / "job").read_bytes() == b"kept"


def test_p7_kept_name_after_an_open_that_creates_nothing(full):
    """P7: an open for writing without O_CREAT is refused, and the name is soon there again for who tried it."""
    refused(full, "job", b"kept")
    assert errno_of(os.open, full.new / "job", os.O_WRONLY) in (errno.ENOENT, errno.ESTALE)
    errno_of(os.stat, full.new / "job")  # cp, for one, would create it now, and must be let
    assert (full.new / "job").stat().st_size == 4


def test_p7_kept_draft_keeps_its_properties(full, backend):
    """P7, P3: what is sent again is the message that was meant, its priority and xattrs with it."""
    draft = full.new / ".draft"
    draft.write_bytes(b"body")
    os.setxattr(draft, "user.mqfs.priority", b"7")
    os.setxattr(draft, "user.mqfs.message-id", b"once")
    assert errno_of(os.rename, draft, full.new / "job") == errno.ENOSPC
    backend.expect(full, 1)
    (left,) = full.names("new")
    os.rename(full.new / left, full.new / "again")
    (message,) = backend.expect(full, 1)
    assert (message.priority, message.properties["message_id"]) == (7, "once")


def spoil(mount):
    queue = mount(max_body=4096).make("jobs")
    with contextlib.suppress(OSError), open(queue.new / "job", "wb", buffering=0) as file:
        file.write(b"x" * 4000)
        file.write(b"x" * 4000)
    return queue


def test_p7_spoiled_draft_cannot_be_published(mount, backend):
    """P7: a spoiled draft can't be published (EIO); renamed to a dot-name it is an ordinary file."""
    queue = spoil(mount)
    assert queue.names("new") == ["job"]
    assert errno_of(os.rename, queue.new / "job", queue.new / "other") == errno.EIO
    assert queue.names("new") == ["job"]
    backend.expect(queue, 0)
    os.rename(queue.new / "job", queue.new / ".draft")
    os.truncate(queue.new / ".draft", 3)
    os.rename(queue.new / ".draft", queue.new / "repaired")
    assert [message.body for message in backend.expect(queue, 1)] == [b"xxx"]


def test_p7_spoiled_dot_file_is_emptied(mount, backend):
    """P7, P2: a dot-file that took too much can't be published until it is emptied and written anew."""
    queue = mount(max_body="1K").make("jobs")
    draft = queue.new / ".draft"
    assert errno_of(draft.write_bytes, b"x" * 5000) == errno.EFBIG
    assert errno_of(os.rename, draft, queue.new / "job") == errno.EIO
    draft.write_bytes(b"fits")
    os.rename(draft, queue.new / "job")
    assert [message.body for message in backend.expect(queue, 1)] == [b"fits"]


# -- P8 ---------------------------------------------------------------------

def test_p8_writing_on_after_it_was_published(queue, shared_backend):
    """P8: the opener let go of its last descriptor: published; writing on through another's: EBADF."""
    script = """
import os, socket, sys
ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(file, b"whole")
    socket.send_fds(theirs, [b"x"], [file])
    theirs.recv(1)
    os.close(file)
    os._exit(0)
_, (file,), _, _ = socket.recv_fds(ours, 1, 1)
ours.send(b"!")
os.waitpid(child, 0)
try:
    os.write(file, b" and more")
except OSError as error:
    print(error.errno)
"""
    result = run([sys.executable, "-c", script, queue.new / "job"])
    assert result.out.split() == [str(errno.EBADF)], result.err
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b"whole"]


def test_p8_early_dup2(queue, shared_backend):
    """P8: dup2 onto a descriptor of the file, and the early flush of shells, complete nothing too soon."""
    with open(queue.new / "job", "wb", buffering=0) as file:
        spare = os.dup(file.fileno())
        os.dup2(file.fileno(), spare)  # displaces one descriptor of the file with another
        file.write(b"one ")
        os.dup2(file.fileno(), spare)
        shared_backend.expect(queue, 0)
        os.write(spare, b"two ")
        os.close(spare)
        shared_backend.expect(queue, 0)
        file.write(b"three")
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b"one two three"]


def test_p8_descriptor_handed_to_a_service(queue, shared_backend):
    """P8: a descriptor handed on through a socket: complete when the last holder lets go."""
    script = """
import array, os, socket, sys
ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
    os.write(fds[0], b"from the other")
    os.close(fds[0])
    os._exit(0)
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
socket.send_fds(ours, [b"x"], [file])
os.close(file)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = run([sys.executable, "-c", script, queue.new / "job"])
    assert result.status == 0, result.err
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b"from the other"]


def test_p8_nothing_written_nothing_published(queue, shared_backend):
    """P8, P4: opened and closed without a write, by every kind of descriptor."""
    with open(queue.new / "job", "wb") as file:
        os.close(os.dup(file.fileno()))
    with open(queue.new / "other", "wb") as file:
        subprocess.run(["true"], stdout=file, check=True)
    eventually(lambda: queue.names("new") == ["job", "other"], what="two empty drafts")
    shared_backend.expect(queue, 0)


def test_p8_failed_close_is_not_retried(full, backend):
    """P8: a failed close() is not retried behind the caller's back."""
    refused(full, "job", b"body")
    assert [message.body for message in backend.expect(full, 1)] == [b"first"]
    time.sleep(0.5)  # nothing to poll for: nothing may come
    backend.expect(full, 0)
    assert full.names("new") == ["job"]


def test_p8_slow_writer(queue, shared_backend):
    """P8: a writer may take its time; nothing is sent before its end."""
    script = "{ echo a; sleep 0.3; echo b; sleep 0.3; echo >&2; read l; echo c; } > new/job"
    with background(["sh", "-c", script], cwd=queue.path, stdin=-1, stderr=-1) as writer:
        writer.stderr.read(1)
        shared_backend.expect(queue, 0)
        writer.stdin.write(b"go on\n")
        writer.stdin.close()
        assert wait_exit(writer) == 0
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b"a\nb\nc\n"]
