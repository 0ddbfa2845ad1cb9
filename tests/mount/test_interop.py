# SPDX-License-Identifier: MIT
"""Both directions with clients that are not ours: pika, amqp-tools, servicelayer's tasks."""

import datetime
import json
import os
import subprocess
import time
import uuid

import pytest

from processes import background, eventually, run, wait_exit
from test_failing import seconds

pytestmark = pytest.mark.only("rabbitmq")


def test_pika_publishes(mount, backend):
    """pika publishes, mqfs consumes: priority, headers, message-id and the other properties kept."""
    backend.declare("jobs", {"x-max-priority": 10})
    backend.publish("jobs", b"body\x00\xff", priority=7, message_id="m-1", content_type="text/x-test",
                    content_encoding="identity", correlation_id="c-1", reply_to="r", type="t", app_id="a",
                    timestamp=1700000000, headers={
                        "text": "Zoë", "number": 42, "yes": True, "nothing": None, "nested": {"a": [1, "two"]},
                        "big": 1 << 40, "when": datetime.datetime(2024, 1, 1), "bytes": b"\xff\xfe"})
    queue = mount().queue("jobs")
    (name,) = queue.wait_names("pending", 1)
    assert name.endswith("-m-1"), "without a file name the message-id names it"
    values = {key: queue.xattr("pending", name, key) for key in (
        "priority", "message-id", "content-type", "content-encoding", "correlation-id", "reply-to", "type", "app-id",
        "header.text", "header.number", "exchange", "routing-key", "redelivered", "queue")}
    assert values == {"priority": "7", "message-id": "m-1", "content-type": "text/x-test", "content-encoding": "identity",
                      "correlation-id": "c-1", "reply-to": "r", "type": "t", "app-id": "a", "header.text": "Zoë",
                      "header.number": "42", "exchange": "", "routing-key": "jobs", "redelivered": values["redelivered"],
                      "queue": "jobs"}
    assert values["redelivered"] in ("0", "false", "no")
    meta = queue.meta("peek", name)
    assert (meta["id"], meta["priority"], meta["redelivered"]) == ("m-1", 7, False)
    assert meta["published_at"].startswith("2023-11-14T22:13:20")
    assert (meta["headers"]["text"], meta["headers"]["number"], meta["headers"]["big"]) == ("Zoë", 42, 1 << 40)
    assert meta["headers"]["nested"] == {"a": [1, "two"]}
    assert (queue.pending / name).stat().st_mtime == 1700000000
    assert queue.consume(1) == [b"body\x00\xff"]


def test_redelivered_is_kept(mount, backend):
    """A message that pika gave back comes as redelivered."""
    backend.declare("jobs")
    backend.publish("jobs", b"body")
    channel = backend.channel()
    method, _, _ = channel.basic_get("jobs")
    channel.basic_nack(method.delivery_tag, requeue=True)
    queue = mount().queue("jobs")
    (name,) = queue.wait_names("pending", 1)
    assert queue.xattr("pending", name, "redelivered") in ("1", "true", "yes")
    assert queue.meta("peek", name)["redelivered"] is True
    assert queue.consume(1) == [b"body"]


def test_through_an_exchange(mount, backend):
    """Exchange and routing key are told."""
    backend.declare("jobs")
    channel = backend.channel()
    channel.exchange_declare("events", "topic")
    channel.queue_bind("jobs", "events", "order.#")
    channel.basic_publish("events", "order.created.eu", b"body")
    queue = mount().queue("jobs")
    (name,) = queue.wait_names("pending", 1)
    assert (queue.xattr("pending", name, "exchange"), queue.xattr("pending", name, "routing-key")) == (
        "events", "order.created.eu")


def test_pika_consumes(mount, backend):
    """mqfs publishes, pika consumes: delivery_mode 2, priority, message-id, content-type, mqfs-filename, timestamp."""
    queue = mount().make("jobs")
    before = int(time.time())
    (queue.new / "@4" / "task.json").write_bytes(b"{}")
    (message,) = backend.expect("jobs", 1)
    assert (message.body, message.delivery_mode, message.priority) == (b"{}", 2, 4)
    assert message.properties["content_type"] == "application/json"
    assert uuid.UUID(message.properties["message_id"]).version == 7
    assert message.headers["mqfs-filename"] == "task.json"
    assert before - 1 <= message.timestamp <= time.time() + 1
    assert "expiration" not in message.properties and not message.redelivered


def test_what_was_given_back_is_whole(mount, backend):
    """What mqfs prefetched and gave back is for others again, unchanged."""
    backend.declare("jobs")
    backend.publish("jobs", b"body", message_id="m", headers={"a": "b"})
    target = mount()
    queue = target.queue("jobs")
    queue.take()
    assert target.terminate() == 0
    (message,) = backend.expect("jobs", 1)
    assert (message.body, message.properties["message_id"], message.headers) == (b"body", "m", {"a": "b"})
    assert message.redelivered


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", ".hidden", "..", ".", "", "new\nline", "x" * 5000, "\x7f\x1b[31m",
                                  "ü" * 300, "-rf *", "pending", "\u202egpj.exe", 42, None, ["list"], b"\xff\xfe", "a.error"],
                         ids=range(18))
def test_hostile_file_names_in_headers(mount, backend, name):
    """C2: file names of strangers in headers: control characters and `/` are written %XX, at most 200 bytes."""
    backend.declare("jobs")
    backend.publish("jobs", b"body", headers={"mqfs-filename": name}, message_id="m/../1\n")
    queue = mount(backoff_base="60s").queue("jobs")
    (listed,) = queue.wait_names("pending", 1)
    assert len(os.fsencode(listed)) <= 200 and "/" not in listed and "\n" not in listed and "\x1b" not in listed
    script = 'for f in pending/*; do cat <"$f" >/dev/null; mv "$f" dead/; done'
    assert run(["dash", "-c", script], cwd=queue.path).status == 0
    (listed,) = queue.wait_names("dead", 1)
    assert queue.bodies("dead") == [b"body"]
    assert run(["sh", "-c", "mv dead/* new/"], cwd=queue.path).status == 0
    assert queue.consume(1) == [b"body"]


def test_amqp_tools_publish(mount, backend):
    """amqp-publish publishes, mqfs consumes."""
    backend.declare("jobs")
    queue = mount().queue("jobs")
    result = run(["amqp-publish", "-u", backend.url, "-r", "jobs", "-b", "from amqp-publish", "-C", "text/plain", "-p"])
    assert result.status == 0, result.err
    (name,) = queue.wait_names("pending", 1)
    assert queue.xattr("pending", name, "content-type") == "text/plain"
    assert queue.consume(1) == [b"from amqp-publish"]


def test_amqp_tools_get(mount, backend):
    """mqfs publishes, amqp-get and amqp-consume consume."""
    queue = mount().make("jobs")
    (queue.new / "one").write_bytes(b"one")
    result = run(["amqp-get", "-u", backend.url, "-q", "jobs"])
    assert (result.status, result.out) == (0, "one")
    (queue.new / "two").write_bytes(b"two")
    result = run(["amqp-consume", "-u", backend.url, "-q", "jobs", "-c", "1", "cat"])
    assert (result.status, result.out) == (0, "two")


def test_two_kinds_of_consumers_share(mount, backend):
    """mqfs and pika consume one queue side by side: nothing twice, nothing lost."""
    queue = mount(prefetch=4).make("jobs")
    backend.publish("jobs", *[b"%d" % number for number in range(60)])
    found = []
    channel = backend.channel()
    while len(found) < 60:
        method, _, body = channel.basic_get("jobs", auto_ack=True)
        if method:
            found.append(int(body))
        for name in queue.names("pending")[:2]:
            found.append(int((queue.pending / name).read_bytes()))
            os.unlink(queue.pending / name)
    assert sorted(found) == list(range(60))


# -- servicelayer -----------------------------------------------------------

TASKS = 2000
BROKEN = 25  # every 80th


def task(number):
    """One task in servicelayer's shape."""
    broken = number % (TASKS // BROKEN) == 7
    return {
        "collection_id": str(number % 9), "job_id": f"job-{number % 40}", "task_id": f"task-{number:04}",
        "operation": "broken" if broken else "ingest", "context": {"languages": ["eng"], "sync": False},
        "payload": {"entity_id": f"{number:040x}", "name": "Übersicht.pdf"}, "priority": number % 10,
    }


# What somebody would write who has the task queue mounted: no mqfs in it.
WORKER = """
while :; do
    for f in pending/*; do
        [ -e "$f" ] || continue
        jq -r 'if .operation == "broken" then error("no parser for \\(.task_id)") else .task_id end' \\
            <"$f" >>"$DONE" 2>"$f.error" && rm "$f" || mv "$f" retry/
    done
done
"""


@pytest.mark.deadline(480)
def test_servicelayer(mount, backend, room):
    """A queue of servicelayer's with 2,000 tasks is attached to, worked off by a shell script with jq where some
    tasks always fail, ends with the right ones in dead/, each with its attempts, error text and times, and is
    replayed with one mv."""
    backend.declare("ingest", {"x-max-priority": 10, "x-overflow": "reject-publish"})
    channel = backend.channel()
    channel.confirm_delivery()
    tasks = [task(number) for number in range(TASKS)]
    for one in tasks:
        backend_publish(channel, one)
    queue = mount(prefetch=100, max_attempts=3, backoff_base="1s", backoff_factor="1").queue("ingest")
    done = room / "done"
    done.touch()
    environment = {**os.environ, "DONE": str(done)}
    broken = sorted(one["task_id"] for one in tasks if one["operation"] == "broken")
    assert len(broken) == BROKEN
    started = time.time()
    with background(["dash", "-c", WORKER], cwd=queue.path, env=environment, stderr=subprocess.DEVNULL), \
            background(["bash", "--norc", "-c", WORKER], cwd=queue.path, env=environment, stderr=subprocess.DEVNULL):
        eventually(lambda: len(done.read_text().split()) >= TASKS - BROKEN, 400, "the good tasks done")
        eventually(lambda: queue.stats()["dead"] == BROKEN, 60, "the broken ones dead")
    assert sorted(done.read_text().split()) == sorted(
        one["task_id"] for one in tasks if one["operation"] != "broken"), "each exactly once"
    names = queue.wait_names("dead", BROKEN)
    found = []
    for name in names:
        one = json.loads((queue.dead / name / "body").read_bytes())
        meta = queue.meta("dead", name)
        found.append(one["task_id"])
        assert f"no parser for {one['task_id']}" in meta["error"]
        assert meta["error"] in (queue.dead / name / "error").read_text()
        assert (meta["attempts"], meta["max_attempts"], meta["priority"]) == (3, 3, one["priority"])
        assert started - 1 <= seconds(meta["first_failed_at"]) < seconds(meta["last_failed_at"])
        assert seconds(meta["last_failed_at"]) <= seconds(meta["dead_at"]) + 0.001 <= time.time() + 1
    assert sorted(found) == broken
    result = run(["sh", "-c", "mv dead/* new/"], cwd=queue.path, timeout=60)
    assert (result.status, result.err) == (0, "")
    assert queue.names("dead") == []
    names = queue.wait_names("pending", BROKEN)
    assert {queue.xattr("pending", name, "attempts") for name in names} == {"0"}
    queue.mount.close()
    again = [json.loads(message.body)["task_id"] for message in backend.expect("ingest", BROKEN)]
    assert sorted(again) == broken


def backend_publish(channel, one):
    """As servicelayer does: delivery_mode and priority are all its properties."""
    import pika  # pylint: disable=import-outside-toplevel
    channel.basic_publish("", "ingest", json.dumps(one).encode(),
                          pika.BasicProperties(delivery_mode=2, priority=one["priority"]), mandatory=True)


def test_servicelayer_reject_publish(mount, backend):
    """Its other half: servicelayer's own declaration still works on a queue that mqfs uses."""
    arguments = {"x-max-priority": 10, "x-overflow": "reject-publish"}
    backend.declare("index", arguments)
    queue = mount().queue("index")
    queue.publish(b"{}")
    queue.take()
    backend.declare("index", arguments)


def test_own_copies_are_marked(mount, backend):
    """C9: mqfs-copy is an id that is new in every copy mqfs publishes, replays included."""
    queue = mount().make("jobs")
    seen = set()
    queue.publish(b"x", message_id="m")
    for _ in range(3):
        queue.fail_to("dead")
        (name,) = queue.wait_names("dead", 1)
        seen.add(queue.meta("dead", name)["headers"].get("mqfs-copy"))
        os.rename(queue.dead / name, queue.new / name)
    queue.wait_names("pending", 1)
    queue.mount.close()
    (message,) = backend.expect("jobs", 1)
    seen.add(message.headers["mqfs-copy"])
    assert len(seen - {None}) >= (4 if None not in seen else 1)
    assert message.properties["message_id"] == "m"


def test_many_small_writers_and_a_pika_consumer(mount, backend):
    """A consumer of somebody else gets everything that shells publish, while they do."""
    queue = mount().make("jobs")
    script = 'i=0; while [ $i -lt 100 ]; do echo $i > new/job; i=$((i+1)); done'
    found = []
    with background(["dash", "-c", script], cwd=queue.path) as writer:
        channel = backend.channel()
        deadline = time.monotonic() + 30
        while len(found) < 100 and time.monotonic() < deadline:
            method, _, body = channel.basic_get("jobs", auto_ack=True)
            if method:
                found.append(int(body))
        assert wait_exit(writer) == 0
    assert found == list(range(100))
