# SPDX-License-Identifier: MIT
"""Taking, reading and settling what is pending (C1 to C8, C10)."""

import calendar
import contextlib
import errno
import fcntl
import json
import os
import re
import select
import signal
import stat
import sys
import threading
import time

import pika
import pytest

from processes import SHELLS, background, eventually, is_blocked, run, stays, wait_exit
from test_drafts import errno_of

NAME = re.compile(r"\d+\.\d{6}-job")


def publish_numbers(queue, count):
    for number in range(count):
        (queue.new / "job").write_bytes(b"%d" % number)


def seconds_of(text):
    """A time of meta.json in whole seconds since the epoch."""
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))


def listed(queue):
    """(pending, claimed), counted together so that a message on its way is seen in one of them."""
    return len(queue.names("pending")), len(queue.names("claimed"))


# -- C1 ---------------------------------------------------------------------

def test_c1_first_look_is_not_empty(mount):
    """C1: consuming starts with the first look at pending/ and waits briefly so that the first ls is not empty."""
    writer, reader = mount(), mount()
    publish_numbers(writer.make("jobs"), 3)
    assert len(reader.queue("jobs").names("pending")) >= 1


def test_c1_first_look_at_an_empty_queue(queue):
    """C1: the look at an empty queue waits only briefly."""
    start = time.monotonic()
    assert queue.names("pending") == []
    assert time.monotonic() - start < 5


def test_c1_prefetch_bounds_the_window(mount, backend):
    """C1: pending and claimed together hold at most `prefetch` messages."""
    queue = mount(prefetch=4).make("jobs")
    publish_numbers(queue, 10)
    queue.wait_names("pending", 4)
    taken = [queue.take(), queue.take()]
    stays(lambda: sum(listed(queue)) <= 4, 0.5, "the window's bound")
    assert listed(queue) == (2, 2)
    if backend.name == "rabbitmq":
        assert backend.depth(queue) == 6
    for name in taken:
        os.unlink(queue.claimed / name)
    queue.wait_names("pending", 4)
    assert sorted(queue.consume(8)) == sorted(b"%d" % number for number in range(2, 10))


def test_c1_prefetch_at_run_time(mount):
    """C1, M7: prefetch may be changed while consuming."""
    queue = mount(prefetch=2).make("jobs")
    publish_numbers(queue, 12)
    queue.wait_names("pending", 2)
    (queue.path / "config" / "prefetch").write_text("8")
    queue.wait_names("pending", 8)
    (queue.path / "config" / "prefetch").write_text("3")
    assert sorted(queue.consume(12)) == sorted(b"%d" % number for number in range(12))


def test_c1_default_prefetch(queue):
    """C1: prefetch is 16."""
    publish_numbers(queue, 20)
    assert len(queue.wait_names("pending", 16)) == 16
    queue.consume(20)


def test_c1_nobody_reads_nothing_taken(mount):
    """C1: a mount on which nobody reads takes nothing from the others."""
    idle, busy = mount(), mount()
    queue = idle.make("jobs")
    publish_numbers(queue, 5)
    for where in (".", "new", "dead", "retry", "claimed", "peek"):
        os.listdir(queue.path / where)
    queue.stats()
    queue.pending.stat()
    os.statvfs(idle.path)
    assert busy.queue("jobs").consume(5) == [b"%d" % number for number in range(5)]


def test_c1_idle_release(mount):
    """C1: consuming stops when nothing was touched for idle-release: what nobody took goes back, uncounted."""
    lazy, other = mount(idle_release="1s"), mount()
    queue = lazy.make("jobs")
    publish_numbers(queue, 5)
    queue.wait_names("pending", 5)
    names = other.queue("jobs").wait_names("pending", 5)
    assert {other.queue("jobs").xattr("pending", name, "attempts") for name in names} <= {"0", "1"}
    queue = other.queue("jobs")
    name = queue.take()
    assert queue.meta("peek", name)["attempts"] == 1
    assert len({(queue.claimed / name).read_bytes()} | {(queue.pending / n).read_bytes() for n in queue.names("pending")}) == 5


def test_c1_held_claim_keeps_consuming(mount):
    """C1: it does not stop while a claim is held; the claim stays."""
    queue = mount(idle_release="1s").make("jobs")
    publish_numbers(queue, 2)
    queue.wait_names("pending", 2)
    name = queue.take()
    time.sleep(2.5)  # more than idle-release without a look: looking would begin it anew
    assert queue.names("claimed") == [name]
    os.unlink(queue.claimed / name)


def test_c1_pending_timeout(mount):
    """C1: what lies untaken for pending-timeout goes back too, for others to take."""
    hoarder, other = mount(pending_timeout="1s"), mount()
    queue = hoarder.make("jobs")
    publish_numbers(queue, 3)
    queue.wait_names("pending", 3)
    held = queue.take()  # so that consuming goes on
    assert sorted(other.queue("jobs").consume(2)) == [b"1", b"2"]
    assert queue.names("claimed") == [held]


def test_c1_order_is_priority_then_age(mount):
    """C2: names sort in the order of delivery, which is priority, then age."""
    writer, reader = mount(), mount()
    queue = writer.make("jobs")
    for priority in (1, 9, 5, 9, 0):
        (queue.new / f"@{priority}" / "job").write_bytes(b"%d" % priority)
    queue = reader.queue("jobs")
    names = queue.wait_names("pending", 5)
    assert [int(queue.xattr("pending", name, "priority")) for name in names] == [9, 9, 5, 1, 0]


# -- C2 ---------------------------------------------------------------------

def test_c2_names_and_stat(queue):
    """C2: `<seconds>.<micros>-<file name>`; `ls -l` shows the body's size and when it was published."""
    before = time.time()
    (queue.new / "report.txt").write_bytes(b"12345")
    (queue.new / "other").write_bytes(b"")
    (queue.new / "other").rename(queue.new / "empty")
    names = queue.wait_names("pending", 2)
    assert re.fullmatch(r"\d+\.\d{6}-report\.txt", names[0]) and names[1].endswith("-empty")
    status = (queue.pending / names[0]).stat()
    assert stat.S_ISREG(status.st_mode) and status.st_size == 5
    assert before - 1 <= status.st_mtime <= time.time() + 1
    assert (queue.pending / names[1]).stat().st_size == 0
    assert not queue.names("claimed"), "stat takes nothing"


def test_c2_names_are_unique_for_ever(queue):
    """C2: unique for ever: a message that comes again has another name, and names never step back."""
    queue.publish(b"body")
    seen = []
    for _ in range(5):
        seen.append(queue.take())
        os.rename(queue.claimed / seen[-1], queue.pending / seen[-1])
    assert len(set(seen)) == 5 and seen == sorted(seen)


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "tab\there", "new\nline", "-rf", "~", "#", "back\\slash", "%2F",
                                  "\x01\x7f", "two words", "日本.txt", "job~2", "q'\"$(x)"], ids=range(14))
def test_c2_hostile_file_names(queue, name):
    """C2: at most 200 bytes; control characters are written %XX; the loop copes with every name."""
    (queue.new / name).write_bytes(b"body")
    (pending,) = queue.wait_names("pending", 1)
    assert len(os.fsencode(pending)) <= 200
    assert not re.search(r"[\x00-\x1f\x7f/]", pending)
    script = 'for f in pending/*; do cat <"$f" && rm "$f" || mv "$f" retry/; done'
    result = run(["dash", "-c", script], cwd=queue.path)
    assert (result.status, result.out, result.err) == (0, "body", "")
    assert listed(queue) == (0, 0)


def test_c2_metadata(queue):
    """C2: metadata is in xattrs and, for `cat`, in peek/NAME/meta.json; looking at it takes nothing."""
    draft = queue.new / ".draft"
    draft.write_bytes(b"body")
    for key, value in (("priority", b"6"), ("type", b"order"), ("header.tenant", b"acme"), ("message-id", b"m-1")):
        os.setxattr(draft, f"user.mqfs.{key}", value)
    os.rename(draft, queue.new / "job.json")
    (name,) = queue.wait_names("pending", 1)
    found = {key: queue.xattr("pending", name, key) for key in (
        "priority", "type", "header.tenant", "message-id", "content-type", "attempts", "queue", "redelivered")}
    assert found["priority"] == "6" and found["type"] == "order" and found["header.tenant"] == "acme"
    assert found["message-id"] == "m-1" and found["content-type"] == "application/json"
    assert found["attempts"] == "0" and found["queue"] == queue.name
    assert queue.names("peek") == [name]
    assert set(queue.names(f"peek/{name}")) == {"body", "meta.json"}
    assert (queue.path / "peek" / name / "body").read_bytes() == b"body"
    meta = queue.meta("peek", name)
    assert (meta["id"], meta["state"], meta["priority"], meta["attempts"]) == ("m-1", "pending", 6, 0)
    assert meta["headers"]["tenant"] == "acme" and meta["properties"]["type"] == "order"
    assert listed(queue) == (1, 0), "looking took it"
    assert queue.consume(1) == [b"body"]


# -- C3 ---------------------------------------------------------------------

def test_c3_open_takes(queue):
    """C3: opening pending/X takes it; closing settles nothing; then it is listed in claimed/, to read as often
    as one likes."""
    publish_numbers(queue, 2)
    first, second = queue.wait_names("pending", 2)
    with open(queue.pending / first, "rb") as file:
        assert queue.names("claimed") == [first] and queue.names("pending") == [second]
        assert file.read() == b"0"
    assert queue.names("claimed") == [first]
    for _ in range(3):
        assert (queue.claimed / first).read_bytes() == b"0"
    assert queue.meta("peek", first)["state"] == "claimed"
    os.unlink(queue.claimed / first)
    assert listed(queue) == (1, 0)


def test_c3_one_opener(queue):
    """C3: of all openers one succeeds for a delivery; a later one gets EBUSY."""
    publish_numbers(queue, 1)
    (name,) = queue.wait_names("pending", 1)
    with open(queue.pending / name, "rb"):
        assert errno_of(open, queue.pending / name, "rb") == errno.EBUSY
        assert "busy" in run(["cat", queue.pending / name]).err
    assert errno_of(open, queue.pending / name, "rb") == errno.EBUSY
    os.unlink(queue.claimed / name)


def test_c3_sixteen_openers(queue):
    """C3: of sixteen threads that open one name at once, one succeeds."""
    for _ in range(10):
        publish_numbers(queue, 1)
        (name,) = queue.wait_names("pending", 1)
        barrier = threading.Barrier(16)
        outcomes = []

        def race(path=queue.pending / name, barrier=barrier, outcomes=outcomes):
            barrier.wait()
            outcomes.append(errno_of(lambda: open(path, "rb").close()))  # pylint: disable=consider-using-with

        threads = [threading.Thread(target=race) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count(0) == 1 and set(outcomes) <= {0, errno.EBUSY, errno.ENOENT}, outcomes
        os.unlink(queue.claimed / name)


def test_c3_opening_for_writing(queue):
    """C3: a message can't be written to (touch may open it), and trying takes nothing and changes nothing."""
    publish_numbers(queue, 1)
    (name,) = queue.wait_names("pending", 1)
    for flags in (os.O_TRUNC, os.O_APPEND, 0):
        def write(flags=flags):
            descriptor = os.open(queue.pending / name, os.O_WRONLY | flags)
            try:
                os.write(descriptor, b"x")
            finally:
                os.close(descriptor)

        assert errno_of(write) in (errno.EPERM, errno.EACCES, errno.EROFS, errno.EBADF)
    assert run(["touch", queue.pending / name]).status == 0
    assert errno_of(os.truncate, queue.pending / name, 0) != 0
    assert queue.names("pending") == [name]
    assert queue.consume(1) == [b"0"]


def test_c3_mv_takes(queue):
    """C3: `mv pending/X claimed/` takes it too; the loser gets ENOENT or EBUSY, whatever tool or flags it uses."""
    publish_numbers(queue, 1)
    (name,) = queue.wait_names("pending", 1)
    assert run(["mv", queue.pending / name, queue.claimed]).status == 0
    assert listed(queue) == (0, 1)
    for words in (["mv"], ["mv", "-n"], ["mv", "-f"], ["busybox", "mv"], ["mv", "-T"]):
        target = queue.claimed / name if "-T" in words else queue.claimed
        run([*words, queue.pending / name, target])
        assert (queue.claimed / name).read_bytes() == b"0", words
    assert errno_of(os.rename, queue.pending / name, queue.claimed / name) in (errno.ENOENT, errno.EBUSY)
    os.unlink(queue.claimed / name)


HOLD = """
import os, sys, time
file = os.open(sys.argv[1], os.O_RDONLY)
os.read(file, 1)
print("open", flush=True)
time.sleep(100)
"""


def hold(stack, queue, name):
    """A process that has taken that message and holds it open."""
    reader = stack.enter_context(background([sys.executable, "-c", HOLD, queue.pending / name], stdout=-1))
    assert reader.stdout.readline() == b"open\n"
    return reader


def test_c3_killed_reader_gives_back(queue):
    """C3: when the taker is killed with the file open and its family settles nothing within 2 s, it is given
    back, and that counts as one attempt."""
    numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)
    publish_numbers(queue, len(numbers))
    names = queue.wait_names("pending", len(numbers))
    with contextlib.ExitStack() as stack:
        readers = [hold(stack, queue, name) for name in names]
        assert queue.names("claimed") == names
        killed_at = time.monotonic()
        for reader, number in zip(readers, numbers):
            reader.send_signal(number)
            assert wait_exit(reader) == -number
    eventually(lambda: queue.names("pending"), 20, "one given back")
    assert time.monotonic() - killed_at > 1, "its family had no time to settle"
    again = queue.wait_names("pending", len(numbers), seconds=20)
    assert not set(again) & set(names)
    assert {queue.xattr("pending", name, "attempts") for name in again} == {"1"}
    assert sorted(queue.consume(len(numbers))) == [b"0", b"1", b"2"]


def test_c3_reader_that_ends_keeps(queue):
    """C3: closing settles nothing, exiting neither; and SIGPIPE is no crash: `cat X | head -c 1` keeps the claim."""
    publish_numbers(queue, 2)
    (queue.new / "job").write_bytes(b"x" * 1000000)
    names = queue.wait_names("pending", 3)
    for name, last in zip(names, ("os.close(f)", "sys.exit(3)")):
        script = "import os, sys; f = os.open(sys.argv[1], os.O_RDONLY); " + last
        run([sys.executable, "-c", script, queue.pending / name])
    result = queue.mount.sh(f'cat "{queue.name}/pending/{names[2]}" | head -c 1; echo ${{PIPESTATUS[0]}}')
    assert result.out == "x141\n", "cat did not die of SIGPIPE"
    stays(lambda: queue.names("claimed") == names, 3, "the claims")
    for name in names:
        os.unlink(queue.claimed / name)


def test_c3_killed_handler_in_the_loop(mount):
    """C3, C4: a handler that is killed: its family (the loop's shell) moves it to retry/: one attempt, not two."""
    target = mount(backoff_base="60s")
    queues = {kind: target.make(kind) for kind in SHELLS}
    for kind, queue in queues.items():
        publish_numbers(queue, 1)
        queue.wait_names("pending", 1)
        script = 'for f in pending/*; do sh -c "read x; kill -9 \\$\\$" <"$f" && rm "$f" || mv "$f" retry/; done'
        target.sh(f"cd {kind}; {script}", kind)
    for queue in queues.values():
        (name,) = queue.wait_names("retry", 1)
        assert queue.meta("retry", name)["attempts"] == 1
    stays(lambda: {listed(queue) for queue in queues.values()} == {(0, 0)}, 2.5, "nothing given back besides")


def test_c3_take_on_move(mount):
    """C3: with take-on = move opening does not take: for hosts whose scanners read everything."""
    queue = mount(take_on="move").make("jobs")
    publish_numbers(queue, 1)
    (name,) = queue.wait_names("pending", 1)
    for _ in range(2):
        assert (queue.pending / name).read_bytes() == b"0"
    assert queue.names("pending") == [name]
    assert errno_of(os.unlink, queue.pending / name) == errno.EPERM
    os.rename(queue.pending / name, queue.claimed / name)
    assert listed(queue) == (0, 1)
    os.unlink(queue.claimed / name)
    assert listed(queue) == (0, 0)


# -- C4 ---------------------------------------------------------------------

def test_c4_rm_of_what_nobody_took(queue):
    """C4: `rm` of one that nobody took fails with EPERM."""
    publish_numbers(queue, 2)
    names = queue.wait_names("pending", 2)
    assert errno_of(os.unlink, queue.pending / names[0]) == errno.EPERM
    assert run(["rm", "-f", queue.pending / names[1]]).status != 0
    assert run(["rm", "-rf", queue.pending]).status != 0
    assert queue.names("pending") == names


def test_c4_rm_acknowledges(queue, shared_backend):
    """C4: `rm` of a taken message acknowledges it: it is gone, for good."""
    publish_numbers(queue, 1)
    name = queue.take()
    os.unlink(queue.claimed / name)
    assert errno_of(os.stat, queue.claimed / name) == errno.ENOENT
    eventually(lambda: queue.stats()["acked"] == 1, what="the acknowledgement")
    shared_backend.expect(queue, 0)


@pytest.mark.parametrize("kind", SHELLS)
def test_c4_loop(mount, kind):
    """C4: for f in pending/*; do h <"$f" && rm "$f" || mv "$f" retry/; done"""
    queue = mount(backoff_base="60s").make("jobs")
    publish_numbers(queue, 12)
    queue.wait_names("pending", 12)
    script = 'for f in pending/*; do grep -v 7 <"$f" >>"$OUT" && rm "$f" || mv "$f" retry/; done'
    out = queue.mount.home / "out"
    result = queue.mount.sh(f"cd jobs; {script}", kind, env={**os.environ, "OUT": str(out)})
    assert (result.status, result.err) == (0, "")
    assert out.read_text().split() == [str(number) for number in range(12) if number != 7]
    (name,) = queue.wait_names("retry", 1)
    assert (queue.retry / name / "body").read_bytes() == b"7"
    assert listed(queue) == (0, 0)


@pytest.mark.parametrize("wrapped", ["timeout 5 rm \"$f\"", "(rm \"$f\"; :)", "{ rm \"$f\"; } | cat", "sh -c 'rm \"$0\"' \"$f\"",
                                     "find pending -name \"${f#pending/}\" ; env rm \"$f\"", "echo \"$f\" | xargs rm"])
@pytest.mark.parametrize("kind", SHELLS)
def test_c4_family_settles(queue, kind, wrapped):
    """C4: descendants of the nearest living ancestor of the taker may settle through pending/X."""
    publish_numbers(queue, 2)
    queue.wait_names("pending", 2)
    result = queue.mount.sh(f'cd {queue.name}; for f in pending/*; do cat <"$f" >/dev/null; {wrapped}; done', kind)
    assert result.status == 0, result.err
    assert listed(queue) == (0, 0)


def test_c4_strangers_use_claimed(queue):
    """C4: others get EBUSY through pending/X and use claimed/X, through which anyone may."""
    publish_numbers(queue, 1)
    (name,) = queue.wait_names("pending", 1)
    with background([sys.executable, "-c", HOLD, queue.pending / name], stdout=-1) as reader:
        assert reader.stdout.readline() == b"open\n"
        stranger = "import os, sys\ntry: {}\nexcept OSError as e: print(e.errno)"
        for call in ("os.unlink(sys.argv[1])", "os.rename(sys.argv[1], sys.argv[1].replace('pending', 'retry'))",
                     "os.rename(sys.argv[1], sys.argv[1].replace('pending', 'dead'))",
                     "os.rename(sys.argv[1], sys.argv[1].replace('pending', 'claimed'))"):
            result = run([sys.executable, "-c", stranger.format(call), queue.pending / name])
            assert result.out.strip() == str(errno.EBUSY), call
        assert queue.names("claimed") == [name]
        assert run(["mv", queue.claimed / name, queue.pending]).status == 0
        name = queue.take()
        assert run(["rm", queue.claimed / name]).status == 0
        assert listed(queue) == (0, 0)


def test_c4_taker_and_ancestors_settle(queue):
    """C4: the taker itself, and its ancestors, may settle through pending/X."""
    publish_numbers(queue, 2)
    first, second = queue.wait_names("pending", 2)
    with open(queue.pending / first, "rb"):
        os.unlink(queue.pending / first)
    with background([sys.executable, "-c", HOLD, queue.pending / second], stdout=-1) as reader:
        assert reader.stdout.readline() == b"open\n"
        os.unlink(queue.pending / second)
    assert listed(queue) == (0, 0)


def test_c4_unlinked_while_open(queue):
    """C4: settled while it is still being read: the reader reads on."""
    (queue.new / "job").write_bytes(b"0123456789")
    (name,) = queue.wait_names("pending", 1)
    with open(queue.pending / name, "rb", buffering=0) as file:
        assert file.read(5) == b"01234"
        os.unlink(queue.pending / name)
        assert file.read() == b"56789"


# -- C5 ---------------------------------------------------------------------

def test_c5_given_back(queue):
    """C5: `mv claimed/X pending/`: given back, no attempt counted."""
    publish_numbers(queue, 1)
    name = queue.take()
    assert run(["mv", queue.claimed / name, queue.pending]).status == 0
    assert queue.names("claimed") == []
    (again,) = queue.wait_names("pending", 1)
    assert again != name and queue.xattr("pending", again, "attempts") == "0"
    assert queue.consume(1) == [b"0"]


@pytest.mark.parametrize("start", ["pending", "claimed"])
@pytest.mark.parametrize("where", ["retry", "dead"])
def test_c5_failed(mount, start, where):
    """C5: to retry/: failed, try again later; to dead/: failed for good; from pending/ in one step."""
    queue = mount(backoff_base="60s").make("jobs")
    publish_numbers(queue, 2)
    (name, other) = queue.wait_names("pending", 2)
    if start == "claimed":
        os.rename(queue.pending / name, queue.claimed / name)
    result = run(["mv", queue.path / start / name, queue.path / where])
    assert (result.status, result.err) == (0, "")
    assert listed(queue) == (1, 0) and queue.names("pending") == [other]
    (failed,) = queue.wait_names(where, 1)
    meta = queue.meta(where, failed)
    assert (meta["state"], meta["attempts"]) == (where, 1)
    assert (queue.path / where / failed / "body").read_bytes() == b"0"


@pytest.mark.parametrize("start", ["pending", "claimed"])
@pytest.mark.parametrize("target, priority", [("new", 4), ("new/@9", 9)])
def test_c5_forwarded(queue, shared_backend, start, target, priority):
    """C5: `mv claimed/X ../other/new/`: published and confirmed there, then acknowledged here."""
    other = queue.mount.make(f"{queue.name}-other")
    queue.publish(b"body", name="job.txt", priority=4, message_id="m-1", correlation_id="c-1")
    (name,) = queue.wait_names("pending", 1)
    if start == "claimed":
        os.rename(queue.pending / name, queue.claimed / name)
    result = run(["mv", queue.path / start / name, other.path / target / ""])
    assert (result.status, result.err) == (0, "")
    assert listed(queue) == (0, 0)
    (message,) = shared_backend.expect(other, 1)
    assert (message.body, message.priority) == (b"body", priority)
    assert (message.properties["message_id"], message.properties["correlation_id"]) == ("m-1", "c-1")
    eventually(lambda: queue.stats()["acked"] == 1, what="the acknowledgement")
    shared_backend.expect(queue, 0)


def test_c5_forward_refused(mount, backend):
    """C5: a forward that is refused fails with the reason and leaves the message claimed."""
    target = mount(max_length=1, overflow="reject-publish")
    full, queue = target.make("full"), target.make("jobs")
    (full.new / "first").write_bytes(b"first")
    (queue.new / "job").write_bytes(b"body")
    name = queue.take()
    result = run(["mv", queue.claimed / name, full.new])
    assert result.status != 0 and "No space left on device" in result.err
    assert queue.names("claimed") == [name]
    assert [message.body for message in backend.expect(full, 1)] == [b"first"]
    assert run(["mv", queue.claimed / name, full.new]).status == 0
    assert [message.body for message in backend.expect(full, 1)] == [b"body"]
    assert listed(queue) == (0, 0)


def refuse_dead_letters(backend, queue):
    """From now on Q.dead takes nothing more; gives what is to be called to end that."""
    eventually(lambda: backend.exists(f"{queue.name}.dead"), what="the dead letters' queue")
    path = f"policies/{backend.vhost}/full"
    backend.broker.api("PUT", path, {"pattern": f"^{queue.name}.dead$", "apply-to": "queues", "definition": {
        "max-length": 1, "overflow": "reject-publish"}})

    def refuses():
        try:
            backend.publish(f"{queue.name}.dead", b"filling")
        except pika.exceptions.NackError:
            return True
        return False

    eventually(refuses, what="a policy that is in force")
    return lambda: backend.broker.api("DELETE", path)


@pytest.mark.only("rabbitmq")
def test_c5_outcome_that_cannot_be_done(mount, backend):
    """C5: mv to dead/ answers at once; where the broker then refuses it, the message is listed in claimed/ again with
    the reason, mqfs keeps trying, and a new rm or mv replaces the outcome."""
    queue = mount(backoff_base="60s").make("jobs")
    publish_numbers(queue, 3)
    names = queue.wait_names("pending", 3)
    accept_again = refuse_dead_letters(backend, queue)
    for name in names:
        os.rename(queue.pending / name, queue.dead / name)
    eventually(lambda: queue.names("claimed") == names, 20, "the messages listed again")
    for name in names:
        assert queue.xattr("claimed", name, "error"), "there is no reason"
    os.unlink(queue.claimed / names[0])
    os.rename(queue.claimed / names[1], queue.retry / names[1])
    queue.wait_names("retry", 1)
    assert queue.bodies("retry") == [b"1"]
    queue.wait_stats(acked=1, retried=1)
    assert names[2] in queue.names("claimed")
    accept_again()
    eventually(lambda: b"2" in queue.bodies("dead"), 30, "the one that it kept trying")
    eventually(lambda: queue.names("claimed") == [], what="an end of trying")
    assert sorted(queue.bodies("dead"))[0] == b"2"


def test_c5_mv_out_of_the_mount(queue, tmp_path, shared_backend):
    """C5: mv to another filesystem copies the body and acknowledges."""
    publish_numbers(queue, 2)
    first, second = queue.wait_names("pending", 2)
    assert run(["mv", queue.pending / first, tmp_path / "first"]).status == 0
    os.rename(queue.pending / second, queue.claimed / second)
    assert run(["mv", queue.claimed / second, tmp_path / "second"]).status == 0
    assert ((tmp_path / "first").read_bytes(), (tmp_path / "second").read_bytes()) == (b"0", b"1")
    assert listed(queue) == (0, 0)
    eventually(lambda: queue.stats()["acked"] == 2, what="the acknowledgements")
    shared_backend.expect(queue, 0)


# -- C6 ---------------------------------------------------------------------

@pytest.mark.parametrize("kind", SHELLS)
def test_c6_error_file(mount, kind):
    """C6: handler <claimed/X 2>claimed/X.error sets the failure's reason; the file is not listed."""
    queue = mount(backoff_base="60s").make("jobs")
    publish_numbers(queue, 1)
    name = queue.take()
    script = f'cd jobs; sh -c "echo disk on fire >&2; exit 3" <"claimed/{name}" 2>"claimed/{name}.error"'
    assert queue.mount.sh(script, kind).status == 3
    assert queue.names("claimed") == [name]
    assert (queue.claimed / f"{name}.error").read_text() == "disk on fire\n"
    os.rename(queue.claimed / name, queue.retry / name)
    assert errno_of(os.stat, queue.claimed / f"{name}.error") == errno.ENOENT
    (failed,) = queue.wait_names("retry", 1)
    assert queue.meta("retry", failed)["error"].strip() == "disk on fire"
    assert (queue.retry / failed / "error").read_text().strip() == "disk on fire"


def test_c6_error_through_pending(mount):
    """C6: or pending/X.error; the last 4 KiB are kept."""
    queue = mount(backoff_base="60s").make("jobs")
    publish_numbers(queue, 1)
    (name,) = queue.wait_names("pending", 1)
    with open(queue.pending / name, "rb"):
        (queue.pending / f"{name}.error").write_text("x" * 10000 + "the end")
    os.rename(queue.claimed / name, queue.dead / name)
    (failed,) = queue.wait_names("dead", 1)
    text = (queue.dead / failed / "error").read_text()
    assert text.strip().endswith("xthe end") and 4000 <= len(text) <= 4097


def test_c6_error_is_replaced_and_appended(queue):
    """C6: a second reason replaces the first, `>>` adds to it."""
    publish_numbers(queue, 1)
    name = queue.take()
    script = f'cd {queue.name}/claimed; echo one >"{name}.error"; echo two >"{name}.error"; echo three >>"{name}.error"'
    assert queue.mount.sh(script).status == 0
    os.rename(queue.claimed / name, queue.dead / name)
    (failed,) = queue.wait_names("dead", 1)
    assert queue.meta("dead", failed)["error"].split() == ["two", "three"]


def test_c6_error_of_nothing(queue):
    """C6: there is no reason without a message."""
    publish_numbers(queue, 1)
    queue.wait_names("pending", 1)
    assert errno_of((queue.claimed / "1.000000-no.error").write_text, "x") != 0
    assert queue.consume(1) == [b"0"]


# -- C7 ---------------------------------------------------------------------

def test_c7_claim(queue):
    """C7: `claim` waits for a message, claims it, prints its name."""
    with background(["cat", queue.path / "claim"], stdout=-1) as reader:
        eventually(lambda: is_blocked(reader), what="a blocked reader")
        publish_numbers(queue, 1)
        name = reader.stdout.read().decode()
        assert wait_exit(reader) == 0
    assert name.endswith("\n") and NAME.fullmatch(name.strip())
    assert queue.names("claimed") == [name.strip()]
    assert (queue.claimed / name.strip()).read_bytes() == b"0"
    os.unlink(queue.claimed / name.strip())


@pytest.mark.parametrize("kind", SHELLS)
def test_c7_claim_in_a_loop(queue, kind):
    """C7: one message an open: `read -r name <claim` works message by message, whatever size the shell reads in."""
    publish_numbers(queue, 5)
    script = f'cd {queue.name}; for i in 1 2 3 4 5; do read -r n <claim; cat "claimed/$n"; echo; rm "claimed/$n"; done'
    result = queue.mount.sh(script, kind)
    assert (result.status, result.out.split()) == (0, ["0", "1", "2", "3", "4"]), result.err
    assert listed(queue) == (0, 0)


def test_c7_next(queue):
    """C7: `next` waits for a message, prints it, acknowledges it."""
    with background(["cat", queue.path / "next"], stdout=-1) as reader:
        eventually(lambda: is_blocked(reader), what="a blocked reader")
        (queue.new / "job").write_bytes(b"x" * 300000)
        assert reader.stdout.read() == b"x" * 300000
        assert wait_exit(reader) == 0
    eventually(lambda: queue.stats()["acked"] == 1, what="the acknowledgement")
    assert listed(queue) == (0, 0)


def test_c7_next_not_read_to_its_end(queue):
    """C7: `next` acknowledges when its reader has been told the end of file and closes; else it goes back."""
    (queue.new / "job").write_bytes(b"x" * 300000)
    with open(queue.path / "next", "rb", buffering=0) as file:
        assert file.read(10) == b"x" * 10
    (name,) = queue.wait_names("pending", 1)
    assert queue.names("claimed") == []
    assert (queue.pending / name).stat().st_size == 300000
    assert queue.consume(1) == [b"x" * 300000]


def test_c7_next_of_empty_and_many(queue):
    """C7: one message an open, also an empty one."""
    for number in range(3):
        (queue.new / ".draft").write_bytes(b"" if number == 1 else b"%d" % number)
        os.rename(queue.new / ".draft", queue.new / "job")
    assert [(queue.path / "next").read_bytes() for _ in range(3)] == [b"0", b"", b"2"]
    eventually(lambda: queue.stats()["acked"] == 3, what="the acknowledgements")


def test_c7_most_urgent_first(queue):
    """C7: they take the most urgent of the window."""
    for priority in (1, 9, 5):
        (queue.new / f"@{priority}" / "job").write_bytes(b"%d" % priority)
    queue.wait_names("pending", 3)
    assert [(queue.path / "next").read_bytes() for _ in range(3)] == [b"9", b"5", b"1"]


@pytest.mark.parametrize("special", ["claim", "next"])
def test_c7_nonblocking(queue, special):
    """C7: they obey O_NONBLOCK (EAGAIN)."""
    descriptor = os.open(queue.path / special, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert errno_of(os.read, descriptor, 100) == errno.EAGAIN
        publish_numbers(queue, 1)

        def read():
            try:
                return os.read(descriptor, 100)
            except BlockingIOError:
                return None

        answer = eventually(read, what="an answer")
        assert answer == b"0" if special == "next" else NAME.match(answer.decode())
        assert os.read(descriptor, 100) == b""
    finally:
        os.close(descriptor)


def test_c7_nonblocking_by_fcntl(queue):
    """C7: O_NONBLOCK may be set later, too."""
    with open(queue.path / "next", "rb", buffering=0) as file:
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_NONBLOCK)
        assert file.read(10) is None


@pytest.mark.parametrize("special", ["claim", "next"])
@pytest.mark.parametrize("kind", ["poll", "epoll", "select"])
def test_c7_poll(queue, special, kind):
    """C7: poll(2) tells when there is something to read."""
    def ready(file, seconds):
        if kind == "select":
            return bool(select.select([file], [], [], seconds)[0])
        poller = select.poll() if kind == "poll" else select.epoll()
        poller.register(file, select.POLLIN if kind == "poll" else select.EPOLLIN)
        return bool(poller.poll(seconds * 1000 if kind == "poll" else seconds))

    with open(queue.path / special, "rb", buffering=0) as file:
        assert not ready(file, 0.3)
        publisher = threading.Timer(0.3, publish_numbers, (queue, 1))
        publisher.start()
        start = time.monotonic()
        assert ready(file, 10)
        assert time.monotonic() - start < 5, "the poller was not woken"
        publisher.join()
        assert file.read(100)
        file.read(100)
    if special == "claim":
        os.unlink(queue.claimed / queue.names("claimed")[0])


def test_c7_claim_not_read_whole(queue):
    """C7: a claim whose reader died before it had the whole name gives back."""
    publish_numbers(queue, 1)
    script = "import os, sys, signal; f = os.open(sys.argv[1], 0); os.read(f, 3); os.kill(os.getpid(), signal.SIGKILL)"
    assert run([sys.executable, "-c", script, queue.path / "claim"]).status == -signal.SIGKILL
    queue.wait_names("pending", 1)
    assert queue.names("claimed") == []
    assert queue.consume(1) == [b"0"]


def test_c7_several_waiters(queue):
    """C7: several may wait; each message goes to one of them."""
    with background(["sh", "-c", "for i in 1 2 3 4; do cat next & done; wait"], cwd=queue.path, stdout=-1) as readers:
        publish_numbers(queue, 4)
        out = readers.stdout.read()
        assert wait_exit(readers) == 0
    assert sorted(out) == sorted(b"0123")


# -- C8 ---------------------------------------------------------------------

def test_c8_claim_expires(mount):
    """C8: when the claim runs out, that is a failed attempt with the reason "claim expired"."""
    queue = mount(claim_timeout="1s", backoff_base="60s").make("jobs")
    publish_numbers(queue, 1)
    queue.take()
    (name,) = queue.wait_names("retry", 1)
    meta = queue.meta("retry", name)
    assert (meta["attempts"], meta["error"]) == (1, "claim expired")
    assert queue.names("claimed") == []
    queue.wait_stats(expired_claims=1)


def test_c8_touch_prolongs(mount):
    """C8: claim-timeout after its last touch."""
    queue = mount(claim_timeout="3s", backoff_base="60s").make("jobs")
    publish_numbers(queue, 1)
    name = queue.take()
    taken_at = time.monotonic()
    assert run(["touch", queue.claimed / name]).status == 0
    while time.monotonic() < taken_at + 3.5:
        time.sleep(0.1)
        os.utime(queue.claimed / name)
    assert queue.names("claimed") == [name]
    queue.wait_names("retry", 1)


@pytest.mark.only("rabbitmq")
def test_c8_etime(mount):
    """C8: at the latest 1 min before consumer-timeout after its delivery; a touch beyond that fails with ETIME."""
    queue = mount(claim_timeout="20s", consumer_timeout="2min", backoff_base="60s").make("jobs")
    publish_numbers(queue, 2)
    name, other = queue.take(), queue.take()
    os.utime(queue.claimed / name)
    (queue.path / "config" / "claim-timeout").write_text("30min")
    errno_of(os.utime, queue.claimed / name)  # as far as it goes
    assert errno_of(os.utime, queue.claimed / name) == errno.ETIME
    meta = queue.meta("peek", name)
    assert 50 <= seconds_of(meta["expires_at"]) - seconds_of(meta["claimed_at"]) <= 61
    meta = queue.meta("peek", other)
    assert 19 <= seconds_of(meta["expires_at"]) - seconds_of(meta["claimed_at"]) <= 21


@pytest.mark.only("sqlite")
def test_c8_no_etime_on_sqlite(mount):
    """C8: there is no consumer-timeout on SQLite."""
    queue = mount(claim_timeout="100min", consumer_timeout="2min").make("jobs")
    publish_numbers(queue, 1)
    name = queue.take()
    stays(lambda: errno_of(os.utime, queue.claimed / name) == 0, 2, "touch")
    assert queue.names("claimed") == [name]


def test_c8_expires_at(mount):
    """C8, R3: meta.json of a claim tells who holds it, since when, until when."""
    queue = mount(claim_timeout="100s").make("jobs")
    publish_numbers(queue, 1)
    name = queue.take()
    meta = json.loads((queue.path / "peek" / name / "meta.json").read_text())
    claimed, expires = seconds_of(meta["claimed_at"]), seconds_of(meta["expires_at"])
    assert abs(claimed - time.time()) < 5 and 98 <= expires - claimed <= 102
    assert meta["claimed_by"]


# -- C10 --------------------------------------------------------------------

KILLED_AT_THE_END = """
import os, signal, sys
file = os.open(sys.argv[1], os.O_RDONLY)
while os.read(file, 100):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_c10_a_killed_reader_acknowledges_nothing(mount):
    """C10: who has read claimed/X to its end, and is killed over it, has not handled it."""
    queue = mount(ack_on="read").make("jobs")
    publish_numbers(queue, 2)
    taken, name = queue.wait_names("pending", 2)
    os.rename(queue.pending / taken, queue.claimed / taken)
    assert run([sys.executable, "-c", KILLED_AT_THE_END, queue.claimed / taken]).status == -signal.SIGKILL
    assert run(["cat", queue.pending / name]).out == "1"
    eventually(lambda: queue.stats()["acked"] == 1, what="the other's acknowledgement")
    assert queue.names("claimed") == [taken]
    os.unlink(queue.claimed / taken)


def test_c10_a_descriptor_older_than_the_take_acknowledges_nothing(mount):
    """C10: with take-on = move a scanner reads what a worker takes meanwhile."""
    queue = mount(ack_on="read", take_on="move").make("jobs")
    publish_numbers(queue, 2)
    taken, name = queue.wait_names("pending", 2)
    with open(queue.pending / taken, "rb", buffering=0) as scanner:
        assert scanner.readall() == b"0"
        os.rename(queue.pending / taken, queue.claimed / taken)
    os.rename(queue.pending / name, queue.claimed / name)
    assert run(["cat", queue.claimed / name]).out == "1"
    eventually(lambda: queue.stats()["acked"] == 1, what="the other's acknowledgement")
    assert queue.names("claimed") == [taken]
    os.unlink(queue.claimed / taken)


def test_c10_ack_on_read(mount, backend):
    """C10: `ack-on = read` acknowledges a taken message when it was read to its end and closed."""
    queue = mount(ack_on="read").make("jobs")
    publish_numbers(queue, 3)
    names = queue.wait_names("pending", 3)
    assert run(["cat", queue.pending / names[0]]).out == "0"
    eventually(lambda: queue.stats()["acked"] == 1, what="the acknowledgement")
    assert listed(queue) == (2, 0)
    with open(queue.pending / names[1], "rb", buffering=0) as file:
        assert file.read(0) == b""
    assert queue.names("claimed") == [names[1]], "it was not read to its end"
    os.rename(queue.pending / names[2], queue.claimed / names[2])
    assert run(["cat", queue.claimed / names[2]]).out == "2"
    eventually(lambda: queue.names("claimed") == [names[1]], what="the second acknowledgement")
    assert run(["cat", queue.claimed / names[1]]).out == "1"
    eventually(lambda: queue.stats()["acked"] == 3, what="the third acknowledgement")
    backend.expect(queue, 0)
