# SPDX-License-Identifier: MIT
"""Whatever writes a file publishes one message (P1, P4, P5, P7, P8; the table in the notes on FUSE)."""

import contextlib
import errno
import os
import pathlib
import signal
import sys
import tempfile

import pytest

from processes import SHELLS, background, eventually, run, spawn, wait_exit
from writers import CONTENT, WRITERS

REPORTING = [name for name, writer in WRITERS.items() if writer.reports]
STRAIGHT = [name for name, writer in WRITERS.items() if writer.reports and writer.keeps]


@pytest.fixture(scope="module")
def source():
    """The file to be published, on a filesystem that is not the mount's."""
    with tempfile.TemporaryDirectory(prefix="mqfs-source-") as directory:
        path = os.path.join(directory, "source.txt")
        with open(path, "wb") as file:
            file.write(CONTENT)
        yield pathlib.Path(path)


def full_queue(mount):
    """A queue that has one message and takes no more."""
    queue = mount(max_length=1, overflow="reject-publish", max_body="1M").make("jobs")
    (queue.new / "first").write_bytes(b"first")
    return queue


@pytest.mark.parametrize("name", WRITERS)
def test_p8_writer_gives_one_whole_message(queue, shared_backend, source, name):
    """P8: the close() by which the opener lets go of its last descriptor completes the file: whole, once."""
    WRITERS[name].write(source, queue.new / "job.txt")
    messages = shared_backend.expect(queue, 1)
    assert messages[0].body == CONTENT
    assert queue.names("new") == [], "a published file is no longer listed"


@pytest.mark.parametrize("kind", SHELLS)
def test_p8_echo_gives_one_message(queue, shared_backend, kind):
    """P8: `echo x > f` in every shell, though its redirection flushes early and twice."""
    result = queue.mount.sh(f'echo hello > {queue.name}/new/a; echo "and bye" >> {queue.name}/new/a', kind)
    assert (result.status, result.err) == (0, "")
    assert [message.body for message in shared_backend.expect(queue, 2)] == [b"hello\n", b"and bye\n"]


@pytest.mark.parametrize("kind", SHELLS)
def test_p8_many_files_in_a_loop(queue, shared_backend, kind):
    """P8: a loop of redirections publishes each file once, in order."""
    script = f'cd {queue.name}/new; i=0; while [ $i -lt 20 ]; do echo $i > job$i; i=$((i+1)); done'
    assert queue.mount.sh(script, kind).status == 0
    assert [message.body for message in shared_backend.expect(queue, 20)] == [b"%d\n" % i for i in range(20)]


def test_p1_tar_of_many_files(queue, shared_backend, tmp_path):
    """P1: an archive unpacked in new/ publishes each of its files."""
    for number in range(25):
        (tmp_path / f"job{number:02}").write_bytes(b"%d" % number)
    result = queue.mount.sh(f'tar -C "{tmp_path}" -cf - . | tar -C {queue.name}/new -xf -')
    assert result.status == 0, result.err
    assert sorted(int(message.body) for message in shared_backend.expect(queue, 25)) == list(range(25))


def test_p1_sort_in_place(queue, shared_backend, source):
    """P1: `sort -o` writes one message."""
    result = run(["sort", "-o", queue.new / "sorted", source])
    assert result.status == 0, result.err
    expected = b"".join(sorted(CONTENT.splitlines(keepends=True)))
    (message,) = shared_backend.expect(queue, 1)
    assert sorted(message.body.splitlines(keepends=True)) == sorted(expected.splitlines(keepends=True))


KILLED_WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
os.write(file, b"half")
print("ready", flush=True)
import time
time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT, signal.SIGHUP],
                         ids=lambda number: number.name)
def test_p8_killed_writer_completes_nothing(queue, shared_backend, number):
    """P8: a writer killed by a signal in the middle completes nothing; P7: its draft stays and can't be published."""
    script = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)" + KILLED_WRITER
    with background([sys.executable, "-c", script, queue.new / "half"], stdout=-1) as writer:
        assert writer.stdout.readline() == b"ready\n"
        writer.send_signal(number)
        assert wait_exit(writer) == -number
    eventually(lambda: queue.names("new") == ["half"], what="the unfinished draft listed")
    with pytest.raises(OSError) as error:
        os.rename(queue.new / "half", queue.new / "whole")
    assert error.value.errno == errno.EIO
    os.unlink(queue.new / "half")
    shared_backend.expect(queue, 0)


@pytest.mark.parametrize("kind", SHELLS)
def test_p8_killed_shell_command_completes_nothing(queue, shared_backend, kind):
    """P8: the command of a redirection that is killed in the middle publishes nothing, and the shell goes on."""
    script = f'cd {queue.name}/new; sh -c "echo half; kill -9 \\$\\$" > killed; echo whole > whole'
    queue.mount.sh(script, kind)
    assert [message.body for message in shared_backend.expect(queue, 1)] == [b"whole\n"]


def test_p8_killed_cp_completes_nothing(queue, shared_backend, tmp_path):
    """P8: cp killed in the middle (here: reading from a pipe that stalls) publishes nothing."""
    os.mkfifo(tmp_path / "pipe")
    with background(["cp", "--copy-contents", tmp_path / "pipe", queue.new / "copy"]) as copier:
        with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
            pipe.write(b"half of it")
            eventually(lambda: int(queue.stats()["drafts"]) == 1, what="the draft")
            copier.kill()
            wait_exit(copier)
    shared_backend.expect(queue, 0)


def test_p1_eight_processes_one_name(queue, shared_backend):
    """P1: every open for writing is a message of its own, also when several processes use one name at a time."""
    script = """
import os, sys
target, number = sys.argv[1:]
file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
os.write(file, number.encode() * 100)
print("open", flush=True)
sys.stdin.read()
os.write(file, number.encode() * 20000)
assert os.fstat(file).st_size == 20100
os.close(file)
"""
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(background([sys.executable, "-c", script, queue.new / "same", str(number)],
                                                  stdin=-1, stdout=-1)) for number in range(8)]
        for writer in writers:
            assert writer.stdout.readline() == b"open\n"
        for writer in writers:
            writer.stdin.close()
        assert [wait_exit(writer) for writer in writers] == [0] * 8
    bodies = [message.body for message in shared_backend.expect(queue, 8)]
    assert sorted(bodies) == [b"%d" % number * 20100 for number in range(8)]


@pytest.mark.parametrize("kind", SHELLS)
def test_p1_eight_shells_one_name(queue, shared_backend, kind):
    """P1: the same with shells that race, several times each."""
    script = f'for i in 1 2 3 4 5; do echo "$$ $i" > {queue.name}/new/same; done'
    shells = [spawn([*SHELLS[kind], script], cwd=queue.mount.path) for _ in range(8)]
    assert [wait_exit(shell) for shell in shells] == [0] * 8
    expected = sorted(b"%d %d\n" % (shell.pid, i) for shell in shells for i in range(1, 6))
    assert sorted(message.body for message in shared_backend.expect(queue, 40)) == expected


# -- refused ----------------------------------------------------------------

@pytest.fixture(scope="module")
def big_source():
    with tempfile.TemporaryDirectory(prefix="mqfs-source-") as directory:
        path = pathlib.Path(directory, "source.txt")
        path.write_bytes(b"0123456789abcde\n" * 65536 + b"end")  # 1 MiB and three bytes
        yield path


@pytest.mark.parametrize("name", REPORTING)
def test_p4_past_max_body_gives_none(queue, shared_backend, big_source, name):
    """P4: a body beyond max-body gets EFBIG at the write, and nothing is published."""
    with pytest.raises(OSError):
        WRITERS[name].write(big_source, queue.new / "big")
    shared_backend.expect(queue, 0)


@pytest.mark.parametrize("kind", SHELLS)
def test_p4_shells_past_max_body(queue, shared_backend, kind):
    """P4: nor by a shell, whatever becomes of its builtin's error: what it wrote is listed, and can't be sent."""
    script = f'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do echo "$BLOCK"; done >{queue.name}/new/big; :'
    queue.mount.sh(script, kind, env={**os.environ, "BLOCK": "x" * 65536})
    shared_backend.expect(queue, 0)
    assert queue.names("new") == ["big"]
    assert "too large" in queue.xattr("new", "big", "error")
    with pytest.raises(OSError) as error:
        os.rename(queue.new / "big", queue.new / "again")
    assert error.value.errno == errno.EIO


def test_p4_errno_past_max_body(queue, shared_backend):
    """P4: a write that failed spoils the draft: its close() fails too, and nothing is published."""
    descriptor = os.open(queue.new / "big", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, b"x" * 1000)
    with pytest.raises(OSError) as error:
        os.pwrite(descriptor, b"x", 1 << 20)
    assert error.value.errno == errno.EFBIG
    with pytest.raises(OSError):
        os.close(descriptor)
    shared_backend.expect(queue, 0)
    assert queue.names("new") == ["big"]


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 1 << 20])
def test_p4_bodies_up_to_max_body(queue, shared_backend, size):
    """P4: up to max-body (1 MiB) a body of any bytes travels whole."""
    body = bytes(number * 7 % 256 for number in range(min(size, 5000)))
    body = (body * (size // len(body) + 1))[:size]
    (queue.new / "binary").write_bytes(body)
    assert shared_backend.expect(queue, 1)[0].body == body


def test_p7_refusal_is_reported_by_every_tool_that_can(mount, backend, source):
    """P7: the close() that completed a refused draft fails (overflow ENOSPC), and the draft stays listed."""
    queue = full_queue(mount)
    wrong = []
    for name in REPORTING:
        target = queue.new / f"to-{name}"
        try:
            WRITERS[name].write(source, target)
            wrong.append(f"{name} did not report the refusal")
        except (OSError, AssertionError):
            pass
        if name in STRAIGHT and target.name not in queue.names("new"):
            wrong.append(f"{name}: the refused draft is not listed")
    assert not wrong, "\n".join(wrong)
    assert [message.body for message in backend.expect(queue, 1)] == [b"first"]


def test_p7_shells_that_swallow_the_error_of_close(mount, backend):
    """P7: where a redirection throws close()'s error away, the refused file is listed with its reason all the same."""
    queue = full_queue(mount)
    for kind in SHELLS:
        result = queue.mount.sh(f"echo {kind} > jobs/new/{kind}", kind)
        assert (result.status, result.err) == (0, "")
        assert "No space left" in queue.xattr("new", kind, "error")
    assert queue.names("new") == sorted(SHELLS)
    assert [message.body for message in backend.expect(queue, 1)] == [b"first"]
    for kind in SHELLS:
        os.rename(queue.new / kind, queue.new / "again")
        assert [message.body for message in backend.expect(queue, 1)] == [kind.encode() + b"\n"]


def test_p7_refused_says_enospc(mount, backend):
    """P7: overflow is ENOSPC; the draft has the reason in user.mqfs.error and can be sent again by mv."""
    queue = full_queue(mount)
    result = queue.mount.sh("/bin/echo second > jobs/new/second")
    assert result.status != 0 and "No space left on device" in result.err
    assert queue.names("new") == ["second"]
    assert queue.xattr("new", "second", "error")
    assert (queue.new / "second").read_bytes() == b"second\n"
    with pytest.raises(OSError) as error:
        os.rename(queue.new / "second", queue.new / "again")
    assert error.value.errno == errno.ENOSPC
    assert [message.body for message in backend.expect(queue, 1)] == [b"first"]
    left = queue.names("new")
    assert len(left) == 1
    os.rename(queue.new / left[0], queue.new / "third")
    assert [message.body for message in backend.expect(queue, 1)] == [b"second\n"]
    assert queue.names("new") == []


@pytest.mark.only("rabbitmq")
def test_p7_refused_by_a_strangers_queue(mount, backend, source):
    """P7: a queue declared by somebody else with x-max-length and reject-publish refuses: ENOSPC."""
    backend.declare("jobs", {"x-max-length": 1, "x-overflow": "reject-publish"})
    backend.publish("jobs", b"first")
    queue = mount().queue("jobs")
    result = run(["cp", source, queue.new / "second"])
    assert result.status != 0 and "No space left on device" in result.err
    assert queue.names("new") == ["second"]
    assert [message.body for message in backend.expect(queue, 1)] == [b"first"]


@pytest.mark.only("rabbitmq")
def test_p7_unroutable_says_enoent(mount, backend, source):
    """P7: the queue was deleted under the mount: ENOENT, and the draft stays until it can be sent."""
    queue = mount().make("jobs")
    backend.delete("jobs")
    result = run(["cp", source, queue.new / "lost"])
    assert result.status != 0 and "No such file or directory" in result.err
    assert queue.names("new") == ["lost"]
    backend.declare("jobs", {"x-max-priority": 10})
    os.rename(queue.new / "lost", queue.new / "found")
    assert [message.body for message in backend.expect(queue, 1)] == [CONTENT]
