# SPDX-License-Identifier: MIT
"""What failed: waiting, counted, buried, read, replayed (R1 to R5)."""

import calendar
import errno
import json
import os
import re
import time

import pytest

from processes import SHELLS, eventually, run, stays
from test_claims import away
from test_consuming import listed
from test_drafts import errno_of

KEYS = {"id", "queue", "state", "priority", "attempts", "max_attempts", "published_at", "first_failed_at",
        "last_failed_at", "next_at", "dead_at", "dead_reason", "error", "host", "redelivered", "claimed_by", "claimed_at",
        "expires_at", "properties", "headers", "x_death"}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def seconds(text):
    """An RFC 3339 time as seconds since the epoch."""
    assert RFC3339.fullmatch(text), text
    whole = calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
    return whole + float(f"0{text[19:-1]}" if len(text) > 20 else 0)


def bury(queue, *bodies, error=None):
    """Publishes and buries; gives the names in dead/."""
    before = len(queue.names("dead"))
    for body in bodies:
        queue.publish(body)
        queue.fail_to("dead", error=error)
    return queue.wait_names("dead", before + len(bodies))


# -- R1 ---------------------------------------------------------------------

def test_r1_retry_comes_back(mount):
    """R1: a failed attempt waits, then comes back to the queue with its priority."""
    queue = mount(backoff_base="3s").make("jobs")
    queue.publish(b"body", name="job.txt", priority=7, message_id="m-1")
    start = time.monotonic()
    queue.fail_to("retry", error="not today")
    (name,) = queue.wait_names("retry", 1)
    meta = queue.meta("retry", name)
    assert (meta["state"], meta["attempts"], meta["error"]) == ("retry", 1, "not today")
    (again,) = queue.wait_names("pending", 1, seconds=20)
    assert time.monotonic() - start > 1.4
    assert again.endswith("-job.txt")
    assert (queue.xattr("pending", again, "priority"), queue.xattr("pending", again, "attempts")) == ("7", "1")
    assert queue.xattr("pending", again, "message-id") == "m-1"
    assert queue.names("retry") == []
    assert queue.consume(1) == [b"body"]


def test_r1_dead_after_max_attempts(mount):
    """R1: after max-attempts it is dead."""
    queue = mount(backoff_base="1s", backoff_factor="1", max_attempts=3).make("jobs")
    queue.publish(b"poison")
    for number in range(3):
        assert queue.names("dead") == []
        queue.fail_to("retry", error=f"failure {number}")
    (name,) = queue.wait_names("dead", 1)
    meta = queue.meta("dead", name)
    assert (meta["attempts"], meta["max_attempts"], meta["error"]) == (3, 3, "failure 2")
    assert meta["dead_reason"] == "max-attempts"
    assert seconds(meta["first_failed_at"]) < seconds(meta["last_failed_at"]) <= seconds(meta["dead_at"]) + 0.001
    assert queue.names("retry") == []


def test_r1_backoff_grows(mount):
    """R1: the n-th failure waits backoff-base * backoff-factor^(n-1), at most backoff-max; with RabbitMQ 0.5 to 2
    times that; next_at is the real one."""
    queue = mount(backoff_base="2s", backoff_factor="30", backoff_max="20min", max_attempts=5).make("jobs")
    queue.publish(b"body")
    for expected in (2, 60, 1200, 1200):
        queue.fail_to("retry")
        (name,) = queue.wait_names("retry", 1)
        meta = queue.meta("retry", name)
        wait = seconds(meta["next_at"]) - seconds(meta["last_failed_at"])
        assert expected * 0.45 <= wait <= expected * 2.2, (expected, wait)
        os.rename(queue.retry / name, queue.pending / name)


def test_r1_next_at_is_real(mount):
    """R1: `next_at` is when it really comes back."""
    queue = mount(backoff_base="3s").make("jobs")
    queue.publish(b"body")
    queue.fail_to("retry")
    (name,) = queue.wait_names("retry", 1)
    due = seconds(queue.meta("retry", name)["next_at"])
    queue.wait_names("pending", 1, seconds=20)
    assert -0.3 < time.time() - due < 5


def test_r1_one_queue_never_holds_up_another(mount):
    """R1: one queue's failures never hold up another's: nor does a long wait a short one."""
    target = mount(backoff_base="3s", backoff_factor="20")
    slow, quick = target.make("slow"), target.make("quick")
    slow.publish(b"slow")
    slow.fail_to("retry")
    (name,) = slow.wait_names("retry", 1)
    os.rename(slow.retry / name, slow.pending / name)
    slow.fail_to("retry")  # this one waits a minute
    slow.publish(b"second")
    slow.fail_to("retry")
    quick.publish(b"quick")
    quick.fail_to("retry")
    assert quick.consume(1, seconds=20) == [b"quick"]
    assert slow.consume(1, seconds=20) == [b"second"]


# -- R3 ---------------------------------------------------------------------

def test_r3_meta_json(mount):
    """R3: meta.json has these keys; times are RFC 3339 UTC."""
    queue = mount(backoff_base="60s", max_attempts=4).make("jobs")
    before = time.time()
    draft = queue.new / ".draft"
    draft.write_bytes(b'{"a": 1}')
    for key, value in (("priority", "5"), ("correlation-id", "c-9"), ("header.tenant", "Zoë"), ("message-id", "m-9")):
        os.setxattr(draft, f"user.mqfs.{key}", value.encode())
    os.rename(draft, queue.new / "task.json")
    pending = queue.meta("peek", queue.wait_names("pending", 1)[0])
    claimed = queue.meta("peek", queue.take())
    (name,) = queue.names("claimed")
    (queue.claimed / f"{name}.error").write_text("it broke")
    os.rename(queue.claimed / name, queue.retry / name)
    (retried,) = queue.wait_names("retry", 1)
    retry = queue.meta("retry", retried)
    os.rename(queue.retry / retried, queue.dead / retried)
    (buried,) = queue.wait_names("dead", 1)
    dead = queue.meta("dead", buried)
    for state, meta in (("pending", pending), ("claimed", claimed), ("retry", retry), ("dead", dead)):
        assert set(meta) == KEYS
        assert (meta["state"], meta["id"], meta["queue"], meta["priority"]) == (state, "m-9", "jobs", 5)
        assert meta["properties"]["correlation-id" if "correlation-id" in meta["properties"] else "correlation_id"] == "c-9"
        assert meta["headers"]["tenant"] == "Zoë"
        assert before - 1 <= seconds(meta["published_at"]) <= time.time() + 1
        assert meta["max_attempts"] == 4 and meta["x_death"] == []
        for key in KEYS:
            if key.endswith("_at") and meta[key] is not None:
                seconds(meta[key])
    assert (pending["attempts"], claimed["attempts"], retry["attempts"]) == (0, 1, 1)
    assert pending["claimed_at"] is None and claimed["claimed_at"] and claimed["claimed_by"]
    assert retry["error"] == "it broke" and retry["next_at"] and retry["host"] == os.uname().nodename
    assert dead["dead_at"] and dead["next_at"] is None and dead["error"] == "it broke"
    assert dead["first_failed_at"] == retry["first_failed_at"]
    assert pending["redelivered"] is False


def test_r3_always_valid_utf8(mount):
    """R3: meta.json is always valid UTF-8, whatever a handler wrote as its reason."""
    queue = mount(backoff_base="60s").make("jobs")
    queue.publish(b"\xff\xfe binary \x00")
    name = queue.take()
    (queue.claimed / f"{name}.error").write_bytes(b"caf\xe9 \xff\x00\x01\"\\\n" + "ü".encode() * 3000)
    os.rename(queue.claimed / name, queue.dead / name)
    (dead,) = queue.wait_names("dead", 1)
    meta = queue.meta("dead", dead)
    assert meta["error"].endswith("ü")
    (queue.dead / dead / "error").read_bytes().decode()
    assert (queue.dead / dead / "body").read_bytes() == b"\xff\xfe binary \x00"
    result = run(["jq", "-r", ".attempts", queue.dead / dead / "meta.json"])
    assert result.out == "1\n", result.err


@pytest.mark.only("rabbitmq")
def test_r3_foreign_dead_letters(mount, backend):
    """R3: foreign dead letters (x-death only) read the same."""
    backend.declare("jobs", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "jobs.dead"})
    queue = mount().queue("jobs")
    assert queue.names("pending") == []
    eventually(lambda: backend.exists("jobs.dead"), what="the dead letters' queue")
    os.listdir(queue.dead)
    channel = backend.channel()
    backend.publish("jobs", b"rejected by another", content_type="text/plain")
    other = mount()  # the first mount consumes: so it is the one that has it
    assert other.alive
    name = queue.take()
    os.rename(queue.claimed / name, queue.pending / name)
    queue.mount.close()
    method, _, _ = eventually(lambda: (lambda got: got if got[0] else None)(channel.basic_get("jobs")), what="a get")
    channel.basic_reject(method.delivery_tag, requeue=False)
    queue = other.queue("jobs")
    (dead,) = queue.wait_names("dead", 1)
    meta = queue.meta("dead", dead)
    assert (meta["dead_reason"], meta["queue"]) == ("rejected", "jobs")
    assert meta["x_death"][0]["reason"] == "rejected" and meta["x_death"][0]["queue"] == "jobs"
    assert meta["attempts"] >= 1 and seconds(meta["dead_at"]) <= time.time() + 1
    assert (queue.dead / dead / "body").read_bytes() == b"rejected by another"
    os.rename(queue.dead / dead, queue.new / "again")
    (again,) = queue.wait_names("pending", 1)
    assert queue.xattr("pending", again, "attempts") == "0"
    assert queue.consume(1) == [b"rejected by another"]


# -- R4 ---------------------------------------------------------------------

@pytest.mark.parametrize("kind", SHELLS)
def test_r4_replay_by_glob(queue, kind):
    """R4: `mv dead/* new/` publishes afresh: attempts 0, the same message-id."""
    names = bury(queue, b"a", b"b", b"c", error="why")
    ids = sorted(queue.meta("dead", name)["id"] for name in names)
    result = queue.mount.sh(f"cd {queue.name} && mv dead/* new/", kind)
    assert (result.status, result.err) == (0, "")
    assert queue.names("dead") == []
    names = queue.wait_names("pending", 3)
    assert {queue.xattr("pending", name, "attempts") for name in names} == {"0"}
    metas = [queue.meta("peek", name) for name in names]
    assert sorted(meta["id"] for meta in metas) == ids
    assert all(meta["error"] is None and meta["first_failed_at"] is None for meta in metas)
    assert sorted(queue.consume(3)) == [b"a", b"b", b"c"]


MOVES = [
    ("dead", "new"), ("dead", "retry"), ("retry", "pending"), ("retry", "dead"), ("claimed", "retry"), ("claimed", "dead"),
    ("claimed", "pending"), ("pending", "claimed"), ("pending", "retry"), ("pending", "dead"), ("claimed", "../{}/new"),
    ("dead", "../{}/new"), ("pending", "../{}/new/@3")]


def many_in(start, queue):
    """Twelve messages there."""
    for number in range(12):
        queue.publish(b"%d" % number)
    names = queue.wait_names("pending", 12)
    if start != "pending":
        for name in names:
            os.rename(queue.pending / name, queue.path / start / name)
    queue.wait_names(start, 12)


@pytest.mark.deadline(120)
def test_r4_mv_of_many(mount):
    """R4, C5: globs work: `mv A/* B/` of several ends without an error (GNU mv looks for each in B afterwards)."""
    target = mount(backoff_base="10min")
    queues = [(target.make(f"jobs{number}"), target.make(f"other{number}"), *move) for number, move in enumerate(MOVES)]
    for queue, _, start, _ in queues:
        many_in(start, queue)
    time.sleep(1.2)  # what the kernel remembers of names must not be what makes it work
    for queue, other, start, where in queues:
        result = run(["sh", "-c", f"mv {start}/* {where.format(other.name)}/"], cwd=queue.path)
        assert (result.status, result.err) == (0, ""), (start, where)
    for queue, other, _, where in queues:
        (other if "{}" in where else queue).wait_names("pending" if "new" in where else where, 12)


def test_r4_replay_at_a_priority(queue):
    """R4, P3: into new/@N/ too."""
    (name,) = bury(queue, b"a")
    os.rename(queue.dead / name, queue.new / "@8" / "job")
    (again,) = queue.wait_names("pending", 1)
    assert queue.xattr("pending", again, "priority") == "8"
    queue.consume(1)


def test_r4_replay_into_another_queue(queue):
    """R4: or into another queue."""
    other = queue.mount.make(f"{queue.name}-other")
    (name,) = bury(queue, b"a")
    assert run(["mv", queue.dead / name, other.new]).status == 0
    assert queue.names("dead") == []
    assert other.consume(1) == [b"a"]


def test_r4_one_more_attempt(mount):
    """R4: `mv dead/X retry/` grants one more attempt."""
    queue = mount(max_attempts=2, backoff_base="1s", backoff_factor="1").make("jobs")
    queue.publish(b"body")
    queue.fail_to("retry")
    queue.fail_to("retry")
    (name,) = queue.wait_names("dead", 1)
    assert run(["mv", queue.dead / name, queue.retry]).status == 0
    assert queue.names("dead") == []
    (again,) = queue.wait_names("pending", 1, seconds=15)
    assert queue.xattr("pending", again, "attempts") == "2"
    queue.fail_to("retry")
    (name,) = queue.wait_names("dead", 1)
    assert queue.meta("dead", name)["attempts"] == 3


def test_r4_retry_now(mount):
    """R4: `mv retry/X pending/` retries now, and counts nothing."""
    queue = mount(backoff_base="10min").make("jobs")
    queue.publish(b"body", priority=3)
    queue.fail_to("retry")
    (name,) = queue.wait_names("retry", 1)
    assert run(["mv", queue.retry / name, queue.pending]).status == 0
    (again,) = queue.wait_names("pending", 1)
    assert (queue.xattr("pending", again, "attempts"), queue.xattr("pending", again, "priority")) == ("1", "3")
    assert queue.names("retry") == []
    assert queue.consume(1) == [b"body"]


@pytest.mark.deadline(90)
def test_r4_rm_r_that_fails_leaves_the_files(own_broker, mounts):
    """R4, tenet 5: `rm -r dead/X` unlinks the files first; when it fails they are there as before."""
    target = mounts.add(own_broker.url())
    queue = target.make("jobs")
    (name,) = bury(queue, b"body", error="why")
    own_broker.kill()
    away(target)
    assert run(["rm", "-r", queue.dead / name]).status != 0
    assert sorted(os.listdir(queue.dead / name)) == ["body", "error", "meta.json"]
    assert (queue.dead / name / "body").read_bytes() == b"body"


def test_r4_discarded(queue):
    """R4: `rm -r dead/X` discards it (rmdir does it; the files inside may be unlinked first)."""
    names = bury(queue, b"a", b"b", b"c", b"d", error="why")
    assert run(["rm", "-r", queue.dead / names[0]]).status == 0
    os.rmdir(queue.dead / names[1])
    assert run(["find", queue.dead / names[2], "-delete"]).status == 0
    assert queue.wait_names("dead", 1) == [names[3]]
    assert run(["busybox", "rm", "-rf", queue.dead / names[3]]).status == 0
    queue.wait_names("dead", 0)
    assert errno_of(os.stat, queue.dead / names[3]) == errno.ENOENT


def test_r4_unlinking_files_discards_nothing(queue):
    """R4: only the directory's end is the message's end."""
    (name,) = bury(queue, b"a", error="why")
    os.unlink(queue.dead / name / "error")
    assert queue.names("dead") == [name]
    assert run(["rm", "-r", queue.dead / name]).status == 0
    queue.wait_names("dead", 0)


def test_r4_nothing_is_written_there(queue):
    """R4: nothing in dead/ can be made or written."""
    (name,) = bury(queue, b"a", error="why")
    assert set(queue.names(f"dead/{name}")) == {"body", "meta.json", "error"}
    assert errno_of((queue.dead / name / "body").write_bytes, b"x") != 0
    assert errno_of((queue.dead / name / "note").write_bytes, b"x") != 0
    assert errno_of((queue.dead / "note").write_bytes, b"x") != 0
    assert (queue.dead / name / "body").read_bytes() == b"a"
    os.rmdir(queue.dead / name)


# -- R5 ---------------------------------------------------------------------

def test_r5_names_are_stable(mount):
    """R5: names in dead/ and retry/ come from the message itself, the same on every look and every mount."""
    here, there = mount(backoff_base="60s"), mount()
    queue = here.make("jobs")
    names = bury(queue, b"a", b"b", b"c")
    queue.publish(b"later")
    queue.fail_to("retry")
    waiting = queue.wait_names("retry", 1)
    for _ in range(5):
        assert (queue.names("dead"), queue.names("retry")) == (names, waiting)
    other = there.queue("jobs")
    eventually(lambda: other.names("dead") == names, 20, "the same names on another mount")
    eventually(lambda: other.names("retry") == waiting, 20, "the same names on another mount")
    assert [int(queue.meta("dead", name)["attempts"]) for name in names] == [1, 1, 1]


@pytest.mark.only("rabbitmq")
def test_r5_twins(mount, backend):
    """R5: `~2` for twins."""
    queue = mount().make("jobs")
    assert queue.names("pending") == []
    eventually(lambda: backend.exists("jobs.dead"), what="the dead letters' queue")
    backend.publish("jobs.dead", b"twin", b"twin", b"twin", timestamp=1700000000, message_id="same")
    names = queue.wait_names("dead", 3)
    base = min(names, key=len)
    assert names == sorted([base, f"{base}~2", f"{base}~3"])
    assert run(["rm", "-r", queue.dead / f"{base}~2"]).status == 0
    assert len(queue.wait_names("dead", 2)) == 2


def test_r5_looking_loses_nothing(mount):
    """R5, tenet 2: looking thirty times at retry/ and dead/ takes and settles nothing."""
    queue = mount(backoff_base="10min").make("jobs")
    for number in range(6):
        queue.publish(b"%d" % number)
        queue.fail_to("dead" if number % 2 else "retry")
    queue.wait_names("dead", 3)
    queue.wait_names("retry", 3)
    for _ in range(30):
        result = run(["sh", "-c", "ls -lR dead retry && cat dead/*/* retry/*/*"], cwd=queue.path)
        assert result.status == 0, result.err
    assert sorted(queue.bodies("dead")) == [b"1", b"3", b"5"]
    assert sorted(queue.bodies("retry")) == [b"0", b"2", b"4"]
    queue.wait_stats(dead=3, retry=3)


@pytest.mark.only("rabbitmq")
@pytest.mark.deadline(120)
def test_r5_looking_never_reaches_a_delivery_limit(mount, backend):
    """R5, C1: giving back never costs a message: a quorum queue with delivery-limit 3 keeps all, whatever is looked."""
    backend.declare("jobs", {"x-queue-type": "quorum", "x-delivery-limit": 3})
    backend.publish("jobs", b"a", b"b", b"c", message_id="kept")
    queue = mount(idle_release="1s").queue("jobs")
    for _ in range(8):
        queue.wait_names("pending", 3, seconds=15)
        # Nothing to poll for: looking would keep it. Only the broker can tell that they went back.
        eventually(lambda: backend.depth("jobs") == 3, 15, "the messages' return")
    assert sorted(queue.consume(3, seconds=15)) == [b"a", b"b", b"c"]


@pytest.mark.only("rabbitmq")
@pytest.mark.deadline(120)
def test_c5_giving_back_never_reaches_a_delivery_limit(mount, backend):
    """C1: where the broker counts deliveries towards a limit, it is republished, confirmed, before it is reached."""
    backend.declare("jobs", {"x-queue-type": "quorum", "x-delivery-limit": 2})
    backend.publish("jobs", b"a", message_id="kept", priority=2)
    queue = mount().queue("jobs")
    for _ in range(12):
        name = queue.take(seconds=15)
        os.rename(queue.claimed / name, queue.pending / name)
    (name,) = queue.wait_names("pending", 1, seconds=15)
    assert queue.xattr("pending", name, "message-id") == "kept"
    assert queue.consume(1) == [b"a"]


@pytest.mark.only("rabbitmq")
@pytest.mark.deadline(90)
def test_r5_look_ends(mount, backend):
    """R5: a look holds messages for at most 5 s after the last access, and puts them back."""
    queue = mount().make("jobs")
    bury(queue, b"a", b"b")
    assert len(queue.names("dead")) == 2
    eventually(lambda: backend.depth("jobs.dead") == 2, 20, "the dead letters put back")
    assert sorted(message.body for message in backend.drain("jobs.dead")) == [b"a", b"b"]


@pytest.mark.only("rabbitmq")
def test_r5_look_max(mount, backend):
    """R5: a look holds at most look-max messages; `stats` has the totals."""
    queue = mount(look_max=5).make("jobs")
    queue.names("pending")
    eventually(lambda: backend.exists("jobs.dead"), what="the dead letters' queue")
    backend.publish("jobs.dead", *[b"%d" % number for number in range(12)])
    assert len(queue.wait_names("dead", 5)) == 5
    queue.wait_stats(dead=12)


def test_r5_counts(mount):
    """R5, M5: the totals are in stats without a look."""
    queue = mount(backoff_base="60s").make("jobs")
    for number in range(3):
        queue.publish(b"x")
        queue.fail_to("dead" if number else "retry")
    queue.wait_stats(dead=2, retry=1, dead_lettered=2, retried=1)


# -- R2, of what a stranger may have put into a message ---------------------

@pytest.mark.only("rabbitmq")
@pytest.mark.parametrize("where", ["dead", "retry"])
def test_r2_copies_of_awkward_messages(mount, mounts, backend, where):
    """R2: a copy never carries expiration, user-id, CC or BCC as such, and they come back with a replay."""
    backend.broker.add_user("worker", "secret")
    backend.broker.set_permissions(backend.vhost, "worker")
    backend.declare("jobs", {"x-max-priority": 5})
    backend.declare("elsewhere")
    backend.publish("jobs", b"a", expiration="600000", message_id="expiring")
    backend.publish("jobs", b"b", user_id="guest", message_id="signed")
    backend.publish("jobs", b"c", headers={"CC": ["elsewhere"], "tenant": "acme"}, message_id="copied")
    assert len(backend.drain("elsewhere")) == 1
    # As another user than the one who published: a foreign user-id closes the channel.
    queue = mounts.add(backend.url.replace("guest:guest", "worker:secret"), {"backoff-base": "60s"}).queue("jobs")
    for _ in range(3):
        queue.fail_to(where)
    names = queue.wait_names(where, 3)
    found = {queue.meta(where, name)["id"]: queue.meta(where, name) for name in names}
    assert set(found) == {"expiring", "signed", "copied"}
    assert found["copied"]["headers"]["tenant"] == "acme"
    assert backend.drain("elsewhere") == [], "the copy was delivered elsewhere again"
    for name in names:
        os.rename(queue.path / where / name, (queue.new if where == "dead" else queue.pending) / name)
    if where == "dead":
        eventually(lambda: len(queue.names("pending")) == 3, what="the replay")
        queue.mount.close()
        messages = {message.properties["message_id"]: message for message in backend.expect("jobs", 3)}
        assert messages["expiring"].properties["expiration"] == "600000"
        assert messages["copied"].headers["CC"] == ["elsewhere"] or "mqfs-cc" not in messages["copied"].headers
    else:
        assert sorted(queue.consume(3)) == [b"a", b"b", b"c"]


def test_r2_body_and_headers_survive(mount):
    """R2: through retry and dead the message stays what it was."""
    queue = mount(backoff_base="1s", max_attempts=2).make("jobs")
    body = bytes(range(256)) * 400
    draft = queue.new / ".draft"
    draft.write_bytes(body)
    values = {"content-type": "application/x-thing", "correlation-id": "c", "reply-to": "r", "type": "t", "app-id": "a",
              "message-id": "m", "header.one": "eins", "header.two": "zwei", "priority": "2"}
    for key, value in values.items():
        os.setxattr(draft, f"user.mqfs.{key}", value.encode())
    os.rename(draft, queue.new / "thing")
    queue.fail_to("retry")
    queue.fail_to("retry", seconds=15)
    (name,) = queue.wait_names("dead", 1)
    assert (queue.dead / name / "body").read_bytes() == body
    os.rename(queue.dead / name, queue.new / name)
    (again,) = queue.wait_names("pending", 1)
    assert {key: queue.xattr("pending", again, key) for key in values} == values
    assert queue.consume(1) == [body]


def test_r3_is_json_for_jq(queue):
    """R3: meta.json can be read by jq, in one go over many."""
    bury(queue, b"a", b"b", error='a "quoted" reason\nwith two lines')
    result = run(["sh", "-c", "jq -r '[.attempts, .error] | @json' dead/*/meta.json"], cwd=queue.path)
    assert result.status == 0, result.err
    assert [json.loads(line) for line in result.out.splitlines()] == [[1, 'a "quoted" reason\nwith two lines']] * 2


def test_r1_failing_while_the_window_is_full(mount):
    """R1: failing makes room in the window for the next."""
    queue = mount(prefetch=2, backoff_base="60s").make("jobs")
    for number in range(6):
        queue.publish(b"%d" % number)
    for _ in range(6):
        queue.fail_to("retry")
    queue.wait_names("retry", 6)
    stays(lambda: listed(queue) == (0, 0), 0.3, "the empty window")
