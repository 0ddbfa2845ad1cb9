# SPDX-License-Identifier: MIT
"""A name that starts with `.` is an ordinary file (P2): random operations agree with the local filesystem's."""

import contextlib
import errno
import os
import pathlib
import random
import subprocess
import sys

import pytest

from processes import background
from test_drafts import errno_of

PROGRAM = pathlib.Path(__file__).with_name("file_ops.py")
PROCESSES = 4
COUNT = 3000
SEED = int(os.environ.get("MQFS_TEST_SEED", random.SystemRandom().randrange(1000000)))


def run_all(directory, model, seed, count):
    """Several at once in one directory, each with names of its own."""
    words = [sys.executable, "-B", PROGRAM, directory, model, str(seed), str(count)]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(background([*words, f".{number}"], stdout=subprocess.PIPE,
                                                  stderr=subprocess.STDOUT)) for number in range(PROCESSES)]
        outputs = [process.communicate(timeout=100)[0].decode(errors="replace") for process in started]
        assert [process.returncode for process in started] == [0] * PROCESSES, "\n".join(outputs)


@pytest.mark.deadline(120)
def test_p2_random_operations_agree_with_a_local_file(queue, room, shared_backend):
    """P2: whatever is done with dot-files gives what it gives in a local directory; mv then publishes the content."""
    model = room / "model"
    model.mkdir()
    run_all(queue.new, model, SEED, COUNT)
    left = sorted(os.listdir(model))
    assert left, f"seed {SEED}: nothing to publish"
    for name in left:
        os.rename(queue.new / name, queue.new / name[1:])
    bodies = [message.body for message in shared_backend.expect(queue, len(left), seconds=20)]
    assert sorted(bodies) == sorted((model / name).read_bytes() for name in left), f"seed {SEED}"
    assert queue.names("new") == []


def test_p4_the_bound_of_a_dot_file(queue):
    """P4: up to max-body all is as ever; what goes beyond gets EFBIG and leaves the content as it was."""
    path = queue.new / ".big"
    bound = 1 << 20
    with open(path, "w+b", buffering=0) as file:
        assert os.pwrite(file.fileno(), b"end", bound - 3) == 3
        assert errno_of(os.ftruncate, file.fileno(), bound + 1) == errno.EFBIG
        assert errno_of(os.truncate, path, bound + 1) == errno.EFBIG
        os.ftruncate(file.fileno(), bound)
        assert os.fstat(file.fileno()).st_size == bound
        assert errno_of(os.pwrite, file.fileno(), b"beyond", bound - 3) == errno.EFBIG
        assert os.fstat(file.fileno()).st_size == bound
        assert os.pread(file.fileno(), 10, bound - 3) == b"end"
        assert errno_of(os.posix_fallocate, file.fileno(), 0, bound + 1) == errno.EFBIG
    os.unlink(path)


def test_p2_a_removed_file_that_is_open(queue, shared_backend):
    """P2: who has a removed or replaced file open reads and writes on, as with any; nothing of it is sent."""
    with open(queue.new / ".one", "w+b", buffering=0) as one, open(queue.new / ".two", "w+b", buffering=0) as two:
        one.write(b"one")
        os.unlink(queue.new / ".one")
        os.rename(queue.new / ".two", queue.new / ".one")
        two.write(b"two")
        (queue.new / ".three").write_bytes(b"three")
        os.rename(queue.new / ".three", queue.new / ".one")
        for file, content in ((one, b"one"), (two, b"two")):
            file.write(b" more")
            file.truncate(len(content) + 3)
            file.seek(0)
            assert file.read() == content + b" mo"
            assert os.fstat(file.fileno()).st_nlink == 0
    assert queue.names("new") == [".one"]
    os.rename(queue.new / ".one", queue.new / "one")
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b"three"]


def test_p3_setxattr_that_must_create_or_replace(queue):
    """P3: XATTR_CREATE and XATTR_REPLACE are obeyed."""
    path = queue.new / ".draft"
    path.write_bytes(b"x")
    name = "user.mqfs.header.one"
    assert errno_of(os.setxattr, path, name, b"1", os.XATTR_REPLACE) == errno.ENODATA
    os.setxattr(path, name, b"1", os.XATTR_CREATE)
    assert errno_of(os.setxattr, path, name, b"2", os.XATTR_CREATE) == errno.EEXIST
    os.setxattr(path, name, b"3", os.XATTR_REPLACE)
    assert os.getxattr(path, name) == b"3"
    os.unlink(path)
