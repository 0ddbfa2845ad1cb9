# SPDX-License-Identifier: MIT
"""Directories at the top are queues (Q1, Q3, Q4, Q5)."""

import concurrent.futures
import errno
import os
import re
import stat
import threading
import time

import pytest

from processes import background, eventually, stays, wait_exit
from test_drafts import errno_of
from test_drain import in_fuse_request


def answer_to(function, *arguments):
    """errno_of, once a busy broker has answered: a look-up waits for it for 0.2 s only (Q1)."""
    answers = []

    def answered():
        answers.append(errno_of(function, *arguments))
        return answers[-1] != errno.EHOSTDOWN

    eventually(answered, 10, "the broker's answer")
    return answers[-1]


# -- Q1 ---------------------------------------------------------------------

@pytest.mark.only("rabbitmq")
def test_q1_mkdir_declares_durable(mount, backend):
    """Q1: `mkdir Q` declares it durable; Q5: with what the settings say."""
    mount().make("jobs")
    declared = backend.queues()["jobs"]
    assert declared["durable"] and not declared["auto_delete"]
    assert declared["arguments"]["x-max-priority"] == 10


def test_q1_mkdir_twice(queue):
    """Q1: a queue that exists can't be made again."""
    assert answer_to(os.mkdir, queue.path) == errno.EEXIST


@pytest.mark.only("rabbitmq")
@pytest.mark.parametrize("arguments", [
    {}, {"x-max-priority": 3}, {"x-queue-type": "quorum"}, {"x-message-ttl": 3600000, "x-max-length": 1000},
    {"x-max-priority": 10, "x-overflow": "reject-publish"}, {"x-queue-mode": "lazy"},
    {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "elsewhere"}, {"x-single-active-consumer": True}],
    ids=lambda arguments: "+".join(arguments) or "plain")
def test_q1_attaches_to_what_exists(mount, backend, arguments):
    """Q1: a queue that exists is attached to as it is, never redeclared, whatever its arguments."""
    backend.declare("jobs", arguments)
    queue = mount().queue("jobs")
    assert stat.S_ISDIR(queue.path.stat().st_mode), "looking up its name finds it"
    (queue.new / "job").write_bytes(b"body")
    assert queue.consume(1) == [b"body"]
    assert answer_to(os.mkdir, queue.path) == errno.EEXIST
    kept = backend.queues()["jobs"]["arguments"]
    assert {key: value for key, value in kept.items() if key != "x-queue-type" or key in arguments} == arguments


@pytest.mark.only("rabbitmq")
def test_q1_transient_queue(mount, backend):
    """Q1: a queue that is not durable is attached to as well."""
    backend.declare("jobs", durable=False)
    queue = mount().queue("jobs")
    (queue.new / "job").write_bytes(b"body")
    assert queue.consume(1) == [b"body"]


def test_q1_unknown_names(queue):
    """Q1: a name that no queue has is not found, now and again after it was made."""
    path = queue.mount.path / f"{queue.name}-unknown"
    for _ in range(3):
        assert answer_to(os.stat, path) == errno.ENOENT
    assert answer_to(os.listdir, path) == errno.ENOENT
    queue.mount.make(path.name)
    assert "new" in os.listdir(path)


def test_q1_queue_made_elsewhere_is_found(mount):
    """Q1: a queue made through another mount is found by its name, also after it was looked for in vain."""
    here, there = mount(), mount()
    assert answer_to(os.stat, here.path / "jobs") == errno.ENOENT
    there.make("jobs")
    eventually(lambda: answer_to(os.stat, here.path / "jobs") == 0, 3, "the other mount's queue found")
    (there.path / "jobs" / "new" / "job").write_bytes(b"body")
    assert here.queue("jobs").consume(1) == [b"body"]


@pytest.mark.parametrize("name", [".hidden", ".git", ".Trash", ".xdg-volume-info", "..dots"])
def test_q1_leading_dots_never_reach_the_broker(queue, name):
    """Q1: names with a raw leading dot never reach the broker."""
    path = queue.mount.path / name
    assert answer_to(os.stat, path) == errno.ENOENT
    assert answer_to(os.mkdir, path) in (errno.EINVAL, errno.EPERM, errno.EACCES)
    assert answer_to(os.stat, path) == errno.ENOENT


def test_q1_the_tree(queue):
    """The tree of a queue; claim, next and new/@N/ are there without being listed, so that grep -r never waits."""
    listed = set(os.listdir(queue.path))
    assert {"new", "pending", "claimed", "peek", "retry", "dead", "stats", "config"} <= listed
    assert not listed & {"claim", "next"}
    for name in ("claim", "next"):
        assert (queue.path / name).exists()
    for name in ("new", "pending", "claimed", "peek", "retry", "dead", "config"):
        assert (queue.path / name).is_dir()
    assert ".mqfs" in os.listdir(queue.mount.path)
    assert answer_to(os.stat, queue.path / "nonsense") == errno.ENOENT


def test_q1_only_queues_at_the_top(queue):
    """Nothing but queues can be made at the top, and nothing but what the tree has in a queue."""
    top = queue.mount.path
    assert errno_of((top / "file").write_bytes, b"x") != 0
    assert errno_of(os.symlink, "a", top / "link") != 0
    assert answer_to(os.mkdir, queue.path / "sub") != 0
    assert errno_of((queue.path / "file").write_bytes, b"x") != 0
    assert answer_to(os.mkdir, queue.new / "sub") != 0
    for where in ("pending", "claimed", "dead", "retry", "peek"):
        assert errno_of((queue.path / where / "file").write_bytes, b"x") != 0, where
        assert answer_to(os.mkdir, queue.path / where / "sub") != 0, where
        assert answer_to(os.rmdir, queue.path / where) != 0, where
    assert errno_of(os.link, queue.path / "stats", queue.new / "link") not in (0, errno.EXDEV)
    assert errno_of(os.symlink, "a", queue.new / "link") != 0
    assert errno_of(os.mkfifo, queue.new / "fifo") != 0


def test_q1_no_rename_says_exdev(queue):
    """M1: no rename on the mount ever fails with EXDEV, so that mv never copies and deletes a tree."""
    other = queue.mount.make(f"{queue.name}-other")
    (queue.new / "job").write_bytes(b"body")
    name = queue.take()
    (queue.new / ".draft").write_bytes(b"draft")
    places = [queue.mount.path / "renamed", queue.path / "x", queue.new / "sub" / "x", queue.pending / "x",
              queue.claimed / "x", queue.dead / "x" / "y", queue.path / "config" / "x", queue.path / "peek" / "x",
              other.path, other.pending / "x", other.claimed / "x", other.dead / "x", other.path / "stats"]
    sources = [queue.path, queue.path / "stats", queue.pending, queue.path / "config" / "prefetch", queue.new / "nothing"]
    for source in sources:
        for place in places:
            assert errno_of(os.rename, source, place) not in (0, errno.EXDEV), (source, place)
    for place in (queue.mount.path / "x", queue.path / "x", other.pending / "x", other.claimed / "x", other.retry / "x",
                  other.path / "config" / "x", queue.path / "peek" / "x", queue.path / "stats"):
        assert errno_of(os.rename, queue.claimed / name, place) not in (0, errno.EXDEV), place
        assert errno_of(os.rename, queue.new / ".draft", place) not in (0, errno.EXDEV), place
    assert queue.names("claimed") == [name] and queue.names("new") == [".draft"]
    os.unlink(queue.new / ".draft")
    os.unlink(queue.claimed / name)


@pytest.mark.deadline(90)
def test_q1_broker_away(own_broker, mounts):
    """Q1: a look-up waits at most 0.2 s, and EHOSTDOWN says that the broker is away; tenet 4: ls, stat and df
    answer from memory."""
    mount = mounts.add(own_broker.url(), {"heartbeat": "1s"})
    queue = mount.make("jobs")
    (queue.new / "job").write_bytes(b"body")
    queue.wait_names("pending", 1)
    empty = mount.make("empty")
    empty.names("pending")
    own_broker.kill()
    eventually(lambda: errno_of(os.stat, mount.path / "unknown") == errno.EHOSTDOWN, 10, "EHOSTDOWN")
    start = time.monotonic()
    assert errno_of(os.rmdir, empty.path) == errno.EHOSTDOWN, "Q3, also of what is consumed"
    assert errno_of(os.stat, mount.path / "another") == errno.EHOSTDOWN
    os.listdir(mount.path)
    os.listdir(queue.path)
    os.listdir(queue.new)
    os.listdir(queue.pending)
    os.statvfs(mount.path)
    queue.stats()
    assert time.monotonic() - start < 4
    own_broker.start()
    eventually(lambda: errno_of(os.stat, mount.path / "unknown") == errno.ENOENT, 30, "the connection's return")
    assert queue.consume(1, seconds=30) == [b"body"]
    empty.publish(b"kept")
    assert empty.consume(1, seconds=30) == [b"kept"], "nothing is deleted later on"


# -- Q3 ---------------------------------------------------------------------


def test_q3_rmdir_empty(queue):
    """Q3: `rmdir Q` deletes a queue that is empty; afterwards it is not found, and can be made anew."""
    queue.publish(b"one")
    queue.consume(1)
    eventually(lambda: answer_to(os.rmdir, queue.path) == 0, what="rmdir")
    assert answer_to(os.stat, queue.path) == errno.ENOENT
    assert queue.name not in os.listdir(queue.mount.path)
    queue.mount.make(queue.name)
    queue.publish(b"two")
    assert queue.consume(1) == [b"two"]


@pytest.mark.parametrize("where", ["ready", "pending", "claimed", "retry", "dead", "draft", "hidden-draft"])
def test_q3_rmdir_refuses_content(mount, where):
    """Q3: rmdir deletes only what is empty (retry and dead count as content: ENOTEMPTY)."""
    queue = mount(backoff_base="30s").make("jobs")
    if where == "draft":
        (queue.new / "job").touch()
    elif where == "hidden-draft":
        (queue.new / ".job").write_bytes(b"x")
    else:
        queue.publish(b"one")
    if where == "pending":
        queue.wait_names("pending", 1)
    if where == "claimed":
        queue.take()
    if where in ("retry", "dead"):
        queue.fail_to(where)
        queue.wait_names(where, 1)
    assert answer_to(os.rmdir, queue.path) == errno.ENOTEMPTY
    assert queue.path.is_dir()
    kept = {"draft": ("new", 1), "hidden-draft": ("new", 1), "retry": ("retry", 1), "dead": ("dead", 1),
            "claimed": ("claimed", 1)}.get(where, ("pending", 1))
    queue.wait_names(*kept)


@pytest.mark.parametrize("special", ["claim", "next"])
def test_q3_rmdir_beside_a_waiting_reader(queue, special):
    """Q3: who waits in claim or next waits on when rmdir fails, and is told ENOENT when it succeeds."""
    queue.publish(b"one")
    queue.fail_to("dead")
    eventually(lambda: queue.stats()["dead"] == 1, what="a dead letter")
    with background(["cat", queue.path / special], stdout=-1) as reader:
        eventually(lambda: in_fuse_request(reader.pid), what="the reader waits")
        assert errno_of(os.rmdir, queue.path) == errno.ENOTEMPTY
        queue.publish(b"two")
        assert wait_exit(reader) == 0
        assert reader.stdout.read()
    for name in queue.names("claimed"):
        os.unlink(queue.claimed / name)
    os.rmdir(queue.dead / queue.wait_names("dead", 1)[0])
    with background(["cat", queue.path / special], stderr=-1) as reader:
        eventually(lambda: in_fuse_request(reader.pid), what="the reader waits")
        eventually(lambda: errno_of(os.rmdir, queue.path) == 0, what="rmdir")
        assert wait_exit(reader) == 1
        assert os.strerror(errno.ENOENT).encode() in reader.stderr.read()


@pytest.mark.only("rabbitmq")
def test_q3_rmdir_while_somebody_consumes(mount, backend):
    """Q3: a queue that somebody else consumes: EBUSY."""
    queue = mount().make("jobs")
    channel = backend.channel()
    channel.basic_consume("jobs", lambda *_: None)
    assert answer_to(os.rmdir, queue.path) == errno.EBUSY
    assert backend.exists("jobs")
    channel.close()
    eventually(lambda: answer_to(os.rmdir, queue.path) == 0, what="rmdir")
    assert not backend.exists("jobs")


def test_q3_written_while_it_is_removed(own_broker, mounts):
    """Q3, tenet 1: what is written into new/ while the broker deletes the queue is content, and stays."""
    queue = mounts.add(own_broker.url()).make("jobs")
    new = os.open(queue.new, os.O_RDONLY)  # its look-up would wait for the rmdir
    own_broker.pause()
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            removal = pool.submit(errno_of, os.rmdir, queue.path)
            stays(lambda: not removal.done(), 0.3, "the rmdir that waits")
            file = os.open(".draft", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=new)
            os.write(file, b"body")
            os.close(file)
            own_broker.resume()
            assert removal.result(15) == errno.ENOTEMPTY
    finally:
        own_broker.resume()
        os.close(new)
    eventually(queue.path.is_dir, 15, "the queue")
    assert (queue.new / ".draft").read_bytes() == b"body"


@pytest.mark.only("rabbitmq")
def test_q3_helpers_follow(mount, backend):
    """Q3: the helper queues follow, each when found empty."""
    queue = mount(backoff_base="1s").make("jobs")
    queue.publish(b"one")
    queue.fail_to("retry")
    assert queue.consume(1) == [b"one"]
    assert {"jobs", "jobs.dead"} < set(backend.queues())
    eventually(lambda: answer_to(os.rmdir, queue.path) == 0, what="rmdir")
    eventually(lambda: not backend.queues(), what=f"no queue left (there are {list(backend.queues())})")


@pytest.mark.only("rabbitmq")
@pytest.mark.parametrize("by", ["argument", "policy"])
def test_q3_level_of_a_full_queue_stays(mount, backend, by):
    """Q3: what a full queue refused when it came home is counted nowhere, and not deleted with the queue."""
    queue = mount(max_length="1" if by == "argument" else "0").make("jobs")
    if by == "policy":
        policy = {"pattern": "jobs$", "definition": {"max-length": 1}}
        backend.broker.api("PUT", f"policies/{backend.vhost}/short", policy)
        eventually(lambda: errno_of(queue.publish, b"fills") == errno.ENOSPC, what="a refusal")
        for draft in list(queue.new.iterdir()):
            draft.unlink()
    else:
        queue.publish(b"fills")
    queue.publish(b"late", delay="100")
    states = "[sys:get_state(Pid) || {_, Pid, _, _} <- supervisor:which_children(rabbit_fifo_dlx_sup)]."
    refused = r"expired,\[\],\s*\[{resource,<<\"%s\">>" % backend.vhost
    eventually(lambda: re.search(refused, backend.broker.ctl("eval", states)), 20, "the refusal")
    assert {message.body for message in backend.drain("jobs")} == {b"fills"}
    eventually(lambda: errno_of(os.rmdir, queue.path) == 0, what="rmdir")
    assert not backend.exists("jobs")
    assert backend.exists("mqfs.delay.jobs.125ms")


@pytest.mark.only("rabbitmq")
def test_q3_quorum_queue(mount, backend):
    """Q3: where the broker can't check and delete in one step: EOPNOTSUPP unless delete-unsafe = yes."""
    queue = mount(type="quorum").make("jobs")
    assert backend.queues()["jobs"]["arguments"]["x-queue-type"] == "quorum"
    assert answer_to(os.rmdir, queue.path) == errno.EOPNOTSUPP
    assert backend.exists("jobs")
    careless = mount(delete_unsafe="yes").queue("jobs")
    careless.publish(b"one")
    assert answer_to(os.rmdir, careless.path) == errno.ENOTEMPTY
    careless.consume(1)
    eventually(lambda: answer_to(os.rmdir, careless.path) == 0, what="rmdir")
    assert not backend.exists("jobs")


def test_q3_what_is_no_queue(queue):
    """Q3: rmdir of anything else is refused."""
    assert answer_to(os.rmdir, queue.mount.path / ".mqfs") != 0
    assert answer_to(os.rmdir, queue.mount.path / "unknown-queue") == errno.ENOENT
    for name in ("new", "pending", "config"):
        assert answer_to(os.rmdir, queue.path / name) != 0
    assert errno_of(os.unlink, queue.path / "stats") != 0


# -- Q4 ---------------------------------------------------------------------

# A file name, and the queue's name that it stands for.
NAMES = [
    ("two words", "two words"), ("-rf", "-rf"), ("--help", "--help"), ("Grüße", "Grüße"), ("日本語", "日本語"),
    ("🐇", "🐇"), ("a%2Fb", "a/b"), ("%2Ehidden", ".hidden"), ("%2E.", ".."), ("%2E", "."), ("100%25", "100%"),
    ("a%01b", "a\x01b"), ("a%09b%7F", "a\tb\x7f"), ("quote'\"$(x)`", "quote'\"$(x)`"), ("a\\b", "a\\b"), ("*?[x]", "*?[x]"),
    ("#", "#"), ("a:b,c=d;e", "a:b,c=d;e"), (" lead and trail ", " lead and trail "), ("x" * 200, "x" * 200),
    ("ü" * 100, "ü" * 100), ("%2F" * 80, "/" * 80),
]


@pytest.mark.parametrize("file_name, queue_name", NAMES, ids=range(len(NAMES)))
def test_q4_names(shared_mount, shared_backend, file_name, queue_name):
    """Q4: any queue name can be a file name: `/`, a leading `.`, `%` and control characters are written %XX."""
    mount = shared_mount.all[-1]
    queue = mount.make(file_name)
    assert file_name in os.listdir(mount.path)
    if shared_backend.name == "rabbitmq":
        assert shared_backend.exists(queue_name)
    queue.publish(b"body")
    assert queue.consume(1) == [b"body"]
    queue.publish(b"bad")
    queue.fail_to("dead")
    (name,) = queue.wait_names("dead", 1)
    assert queue.meta("dead", name)["queue"] == queue_name
    assert mount.sh('rm -r -- "$1"/dead/*'.replace("$1", "$QUEUE"),
                    env={**os.environ, "QUEUE": f"./{file_name}"}).status == 0
    eventually(lambda: answer_to(os.rmdir, queue.path) == 0, what="rmdir")


@pytest.mark.only("rabbitmq")
@pytest.mark.parametrize("queue_name", ["a/b", ".hidden", "50%", "bell\x07", "long-" + "y" * 250,
                                        "slashes" + "/" * 240, "mail.dead.letters", "dots.in.name"],
                         ids=lambda name: name[:8].strip())
def test_q4_queues_of_strangers(mount, backend, queue_name):
    """Q4: the same for queues that exist, up to 255 bytes; over-long file names end in a digest."""
    backend.declare(queue_name, {"x-max-priority": 2})
    target = mount()
    file_name = "".join(f"%{byte:02X}" if byte < 32 or byte == 127 or chr(byte) in "/%" or not index and byte == 46
                        else chr(byte) for index, byte in enumerate(queue_name.encode()))
    if len(file_name) > 255:
        pytest.skip("found by its file name only through a listing")
    queue = target.queue(file_name)
    queue.publish(b"body")
    assert queue.consume(1) == [b"body"]
    queue.publish(b"bad")
    queue.fail_to("dead")
    queue.wait_names("dead", 1)


@pytest.mark.parametrize("name", ["a%0Ab", "a%0Db"])
def test_q4_line_breaks(mount, backend, name):
    """Q4: RabbitMQ drops line breaks from names: rather than another queue's, such a name is nobody's (EINVAL)."""
    target = mount()
    if backend.name == "rabbitmq":
        backend.declare("ab")
        assert answer_to(os.mkdir, target.path / name) == errno.EINVAL
        assert answer_to(os.stat, target.path / name) == errno.ENOENT
    else:
        queue = target.make(name)
        queue.publish(b"x")
        assert queue.consume(1) == [b"x"]


def test_q4_length_limits(mount):
    """Q4: mkdir takes names up to 235 bytes (ENAMETOOLONG)."""
    target = mount()
    queue = target.make("l" * 235)
    queue.publish(b"bad")
    queue.fail_to("dead")
    queue.wait_names("dead", 1)
    for name in ("m" * 236, "m" * 255, "ü" * 118, "%2F" * 86):
        assert answer_to(os.mkdir, target.path / name) == errno.ENAMETOOLONG, name
    assert answer_to(os.mkdir, target.path / ("m" * 256)) == errno.ENAMETOOLONG
    assert answer_to(os.stat, target.path / ("m" * 256)) == errno.ENAMETOOLONG


@pytest.mark.parametrize("name", ["%", "a%", "a%2", "%zz", "a%00b", "100%sure", "a%2fb", "%41", "a%2E"])
def test_q4_broken_escapes(queue, name):
    """Q4: what is no file name of any queue can't be made."""
    assert answer_to(os.mkdir, queue.mount.path / name) == errno.EINVAL
    assert answer_to(os.stat, queue.mount.path / name) == errno.ENOENT


@pytest.mark.parametrize("name", [b"raw\nnewline", b"\xff\xfe", b"bell\x07", b"over\xc0\xafslash"], ids=range(4))
def test_q4_hostile_bytes_do_no_harm(mount, name):
    """Q4: control characters and bytes that are not UTF-8 are refused, or become a queue that works."""
    target = mount()
    path = os.path.join(os.fsencode(target.path), name)
    assert answer_to(os.stat, path) in (errno.ENOENT, errno.EILSEQ, errno.EINVAL)
    made = answer_to(os.mkdir, path)
    assert made in (0, errno.EINVAL, errno.EILSEQ)
    if made == 0:
        queue = target.queue(os.fsdecode(name))
        queue.publish(b"body")
        assert queue.consume(1) == [b"body"]
        assert all("\n" not in listed for listed in os.listdir(target.path)), "written as %0A"
    target.make("after").publish(b"x")


@pytest.mark.parametrize("name", ["mqfs.delay.jobs.1", "mqfs.x", "mqfs."])
def test_q4_helper_names(queue, name):
    """Q2: helper queues (`mqfs.*`, and `Q.dead` where Q is known) can't be made by mkdir (EINVAL), nor listed."""
    assert answer_to(os.mkdir, queue.mount.path / name) == errno.EINVAL
    assert answer_to(os.mkdir, queue.mount.path / f"{queue.name}.dead") == errno.EINVAL
    queue.publish(b"bad")
    queue.fail_to("retry")
    listed = os.listdir(queue.mount.path)
    assert not [entry for entry in listed if entry.startswith("mqfs.") or entry == f"{queue.name}.dead"]


@pytest.mark.only("rabbitmq")
def test_q4_reserved_names(queue):
    """A name that the broker keeps for itself is refused, and the mount lives on."""
    assert answer_to(os.mkdir, queue.mount.path / "amq.mine") in (errno.EINVAL, errno.EACCES)
    queue.publish(b"x")
    assert queue.consume(1) == [b"x"]


# -- Q5 ---------------------------------------------------------------------


@pytest.mark.only("rabbitmq")
def test_q5_arguments_come_from_settings(mount, backend):
    """Q5: what mkdir declares comes from the settings."""
    mount(max_priority=3, message_ttl="1h", max_length=500, overflow="reject-publish", lazy="yes").make("classic")
    mount(max_priority=0).make("plain")
    mount(type="quorum").make("quorum")
    declared = {name: queue["arguments"] for name, queue in backend.queues().items()}
    classic = declared["classic"]
    assert (classic["x-max-priority"], classic["x-message-ttl"], classic["x-max-length"], classic["x-overflow"]) == (
        3, 3600000, 500, "reject-publish")
    assert "x-max-priority" not in declared["plain"]
    assert declared["quorum"]["x-queue-type"] == "quorum" and "x-max-priority" not in declared["quorum"]
    assert declared["quorum"].get("x-delivery-limit") in (None, -1)


def test_q5_max_length_drops_or_refuses(mount, backend):
    """Q5: max-length with overflow = reject-publish refuses what is too much."""
    queue = mount(max_length=3, overflow="reject-publish").make("jobs")
    outcomes = [errno_of((queue.new / f"job{number}").write_bytes, b"%d" % number) for number in range(6)]
    assert outcomes[:3] == [0, 0, 0] and set(outcomes[4:]) == {errno.ENOSPC}
    assert [message.body for message in backend.expect(queue, outcomes.count(0))][:3] == [b"0", b"1", b"2"]


def test_q5_message_ttl(mount):
    """Q5: message-ttl: what nobody took in time is gone, but with dead-letter = yes it arrives in dead/."""
    queue = mount(message_ttl="500ms", dead_letter="yes").make("jobs")
    queue.publish(b"late")
    (name,) = queue.wait_names("dead", 1, seconds=20)
    assert queue.meta("dead", name)["dead_reason"] == "expired"
    assert queue.names("pending") == []


def test_q1_many_queues_at_once(mount):
    """Q1: queues made and used by many at once do not get in each other's way."""
    target = mount()
    problems = []

    def work(number):
        try:
            queue = target.make(f"queue{number}")
            queue.publish(b"%d" % number)
            assert queue.consume(1) == [b"%d" % number]
        except (OSError, AssertionError) as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert {f"queue{number}" for number in range(12)} <= set(os.listdir(target.path))
