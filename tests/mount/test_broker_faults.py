# SPDX-License-Identifier: MIT
"""Faults of the broker and the network while people publish, work and look (tenets 1 and 4).

In each: no operation outlasts its deadline, looking answers at once, everybody can be killed, all goes well again
within 10 s of the fault's end without a remount, and what close() accepted is accounted for."""

import contextlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from cable import Cable
from cluster import Cluster
from mounted import daemon_path
from processes import background, eventually, is_blocked, run
from rabbit import Broker, free_ports
from traffic import Traffic, dies_at_once

PUBLISH_SECONDS = 3
# What fails waits at the lowest delay level, and at no other.
OPTIONS = {"heartbeat": "2s", "publish_timeout": f"{PUBLISH_SECONDS}s", "backoff_base": "100ms"}
MINUTE = 60
WRITE = """
import sys
file = open(sys.argv[1], "wb", buffering=0)
file.write(b"0")
print(flush=True)
file.close()
"""
# Publishing, and whatever becomes of a message (traffic.py).
EVERYTHING = {"close", "rename", "take", "rm", "retry", "bury", "replay", "back", "forward", "next"}
YOUNG_SECONDS = 2  # RabbitMQ 3.10 may lose a quorum queue that is younger, as the delay levels are
READ = "import sys; open(sys.argv[1], 'rb', buffering=0).read()"


@contextlib.contextmanager
def prompt_traffic(queue, room, other=None, **options):
    """Traffic that goes well before, and was never held up."""
    with Traffic(queue, other or queue.mount.make("forwarded"), room, **options) as traffic:
        eventually(lambda: traffic.kinds() >= EVERYTHING, 30, "everything once")
        time.sleep(YOUNG_SECONDS)
        try:
            yield traffic
        except AssertionError:
            traffic.tell()
            raise
    traffic.assert_prompt(PUBLISH_SECONDS)


@contextlib.contextmanager
def waiting_reader(queue):
    with background([sys.executable, "-c", READ, queue / "claim"]) as reader:
        eventually(lambda: is_blocked(reader), 10, "the reader waits")
        yield reader


def waiting_writer_dies(queue):
    """Who waits in close() for the broker can be killed; or it went into the outbox at once."""
    with background([sys.executable, "-c", WRITE, queue.new / "job"], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        eventually(lambda: writer.poll() is not None or is_blocked(writer), 10, "the writer waits")
        dies_at_once(writer)
        return writer.returncode == -signal.SIGKILL


@pytest.mark.deadline(90)
@pytest.mark.parametrize("outbox", ["no", "yes"])
def test_killed_and_restarted(own_broker, mounts, room, outbox):
    """kill -9 of the broker, and its restart."""
    queue = mounts.add(own_broker.url(), {**OPTIONS, "outbox": outbox}).make("jobs")
    with prompt_traffic(queue, room) as traffic:
        own_broker.kill()
        began = time.monotonic()
        eventually(lambda: traffic.is_felt(began), 10, "a publish without the broker")
        own_broker.start()
        traffic.await_recovery(time.monotonic())
        traffic.settle()


@pytest.mark.deadline(90)
def test_stopped_and_continued(own_broker, mounts, room):
    """SIGSTOP for longer than heartbeat and deadline. Whoever waits meanwhile can be killed."""
    mount = mounts.add(own_broker.url(), OPTIONS)
    queue, other = mount.make("jobs"), mount.make("other")
    with prompt_traffic(queue, room) as traffic, waiting_reader(other) as reader:
        own_broker.pause()
        try:
            assert waiting_writer_dies(other)
            dies_at_once(reader)
            time.sleep(3 * PUBLISH_SECONDS)  # the fault
        finally:
            own_broker.resume()
        traffic.await_recovery(time.monotonic())
        traffic.settle()


@pytest.mark.deadline(90)
def test_memory_alarm(own_broker, mounts, room):
    """The broker blocks publishers, and lets them go on. Whoever waits meanwhile can be killed."""
    mount = mounts.add(own_broker.url(), OPTIONS)
    queue, other = mount.make("jobs"), mount.make("other")
    with prompt_traffic(queue, room) as traffic, waiting_reader(other) as reader:
        own_broker.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            began = time.monotonic()
            eventually(lambda: traffic.is_felt(began), 10, "a publish that was blocked")
            waiting_writer_dies(other)
            dies_at_once(reader)
        finally:
            own_broker.ctl("set_vm_memory_high_watermark", "0.4")
        traffic.await_recovery(time.monotonic())
        traffic.settle()


@pytest.mark.deadline(60)
def test_closed_connections(own_broker, mounts, room):
    queue = mounts.add(own_broker.url(), OPTIONS).make("jobs")
    with prompt_traffic(queue, room) as traffic:
        own_broker.close_connections()
        traffic.await_recovery(time.monotonic())
        traffic.settle()


@pytest.mark.deadline(60)
def test_queue_deleted_and_recreated(own_broker, mounts, room):
    """Messages for a queue that isn't there are refused, not lost; what the operator deleted is gone."""
    queue = mounts.add(own_broker.url(), OPTIONS).make("jobs")
    with prompt_traffic(queue, room) as traffic:
        deleted = time.monotonic()
        own_broker.api("DELETE", f"queues/{own_broker.vhost}/jobs")
        eventually(lambda: traffic.outcomes(since=deleted) - {"ok"}, 5, "a publish that was refused")
        gone = traffic.accepted() - set(traffic.handled())
        assert traffic.outcomes(since=deleted) <= {"ok", "ENOENT"}
        own_broker.api("PUT", f"queues/{own_broker.vhost}/jobs", {"durable": True, "arguments": {"x-max-priority": 10}})
        traffic.await_recovery(time.monotonic())
        traffic.settle(forgiven=gone, refusals=True)


@pytest.mark.deadline(60)
def test_consumer_timeout(own_broker, mounts, room):
    """The broker takes back what was held too long, and closes the channel; the claim's outcome still counts."""
    def set_timeout(timeout, interval):
        own_broker.ctl("eval", f"application:set_env(rabbit, consumer_timeout, {timeout}), "
                               f"application:set_env(rabbit, channel_tick_interval, {interval}).")

    set_timeout(1000, 500)
    try:
        queue = mounts.add(own_broker.url(), OPTIONS).make("jobs")
        queue.publish(b"0")
        held = queue.take()
        with prompt_traffic(queue, room) as traffic:
            eventually(lambda: queue.stats()["redelivered"] > 0, 15, "the broker's patience is over")
            (queue.claimed / held).unlink()
            traffic.await_recovery(time.monotonic())
            traffic.settle()
            assert 0 not in traffic.handled(), "its outcome was known"
    finally:
        set_timeout(1800000, 60000)


@pytest.mark.deadline(60)
def test_permissions_taken_away(own_broker, mounts, room):
    """A user who may do nothing any more is told so, and goes on when that is mended."""
    own_broker.add_user("limited", "secret-word")
    own_broker.set_permissions(own_broker.vhost, "limited")
    queue = mounts.add(own_broker.url("limited", "secret-word"), OPTIONS).make("jobs")
    with prompt_traffic(queue, room) as traffic:
        own_broker.set_permissions(own_broker.vhost, "limited", "^$", "^$", "^$")
        own_broker.close_connections()  # the broker remembers for a while what a channel may do
        eventually(lambda: "EACCES" in traffic.outcomes(), 10, "a publish that was refused")
        own_broker.set_permissions(own_broker.vhost, "limited")
        traffic.await_recovery(time.monotonic())
        traffic.settle(refusals=True)


@pytest.mark.deadline(60)
def test_full_queue(own_broker, mounts, room):
    """A queue with room for few, and nobody who works: the rest is refused, and told so."""
    queue = mounts.add(own_broker.url(), {**OPTIONS, "max_length": 5, "prefetch": 4}).make("jobs")
    with prompt_traffic(queue, room) as traffic:
        traffic.end("worker")
        eventually(lambda: "ENOSPC" in traffic.outcomes(), 10, "a publish that was refused")
        traffic.start_worker()
        traffic.await_recovery(time.monotonic())
        traffic.settle()


@pytest.mark.deadline(60)
def test_delivery_limit_of_a_stranger(own_broker, mounts):
    """C1: giving back costs no message, whatever limit and other arguments somebody else's quorum queue has."""
    own_broker.api("PUT", f"queues/{own_broker.vhost}/jobs", {"durable": True, "arguments": {
        "x-queue-type": "quorum", "x-delivery-limit": 0, "x-max-length": 100, "x-dead-letter-exchange": ""}})
    queue = mounts.add(own_broker.url(), OPTIONS).queue("jobs")
    queue.publish(b"precious")
    for _ in range(3):
        name = queue.take()
        (queue.claimed / name).rename(queue.pending / name)
        queue.wait_names("claimed", 0)
    assert queue.consume(1) == [b"precious"]


def address(broker):
    return f"{broker.host}:{broker.port}"


def is_connected_to(broker):
    """Has anybody a connection to it?"""
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file]
    return any(row[2].endswith(f":{broker.port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.deadline(30)
def test_all_hosts_refuse(own_broker, room):  # pylint: disable=unused-argument
    """M1: nobody listens anywhere: mounting fails at once, and says so of each host."""
    ports = free_ports(3)
    url = "amqp://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    began = time.monotonic()
    result = run([daemon_path(), "mount", "-f", url, room])
    assert result.status != 0
    assert time.monotonic() - began < 8  # with the start of a process
    for port in ports:
        assert f"nobody listens at 127.0.0.1, port {port}" in result.err


@pytest.mark.deadline(60)
def test_hosts_in_turn(own_broker, mounts, room):
    """M1: one refuses, one takes connections and says nothing, one is a broker: that is found, now and later."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = (f"127.0.0.1:{free_ports(1)[0]}", f"127.0.0.1:{silent.getsockname()[1]}", address(own_broker))
        url = f"amqp://guest:guest@{','.join(hosts)}/{own_broker.vhost}"
        queue = mounts.add(url, {**OPTIONS, "connect_timeout": "6s"}).make("jobs")
        with prompt_traffic(queue, room) as traffic:
            own_broker.close_connections()
            traffic.await_recovery(time.monotonic())
            traffic.settle()


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as running:
        yield running


@pytest.mark.deadline(150)
@pytest.mark.parametrize("which, ours", [("leader", True), ("follower", True), ("leader", False)],
                         ids=["leader-ours", "follower-ours", "leader-not-ours"])
def test_node_killed(cluster, mounts, room, which, ours):  # pylint: disable=redefined-outer-name
    """A node of a cluster is killed while messages go into a quorum queue and come out, the one that mqfs talks to, or
    another: the others take over."""
    cluster.heal()
    name = f"jobs-{which}-{ours}"
    # Where a queue's leader comes to run is chance: it is made first, then it is decided whom mqfs talks to.
    maker = mounts.add(cluster.url(), {**OPTIONS, "type": "quorum"})
    maker.make(name)
    assert maker.terminate() == 0
    leader = cluster.leader(name)
    victim = leader if which == "leader" else next(node for node in cluster.nodes if node is not leader)
    others = [node for node in cluster.nodes if node is not victim]
    mount = mounts.add(cluster.url([victim, *others] if ours else [*others, victim]), {**OPTIONS, "type": "quorum"})
    queue, other = mount.queue(name), mount.make(f"{name}-forwarded")
    assert is_connected_to(victim) == ours
    with prompt_traffic(queue, room, other) as traffic:
        victim.kill()
        traffic.await_recovery(time.monotonic())
        traffic.await_flow(200, seconds=30)
        victim.start()
        traffic.await_flow(50, seconds=30)
        traffic.settle()


@pytest.fixture
def far_broker(room):  # pylint: disable=unused-argument
    with Cable() as cable, Broker(host=cable.far_address, prefix=cable.prefix, config="loopback_users = none\n",
                                  resend_seconds=10) as far:
        far.cable = cable
        far.add_user("remote", "secret-word")
        far.set_permissions("/", "remote")
        yield far


@pytest.mark.deadline(200)
def test_network_cut_for_a_minute(far_broker, mounts, room):  # pylint: disable=redefined-outer-name
    """Packets vanish, in both directions and without a word, for longer than heartbeat, deadline and what TCP tries.
    Whoever waits meanwhile can be killed."""
    mount = mounts.add(far_broker.url(user="remote", password="secret-word"), OPTIONS)
    queue, other = mount.make("jobs"), mount.make("other")
    # Not more in the outbox after a minute than comes through within the seconds in which all is to be well again.
    with prompt_traffic(queue, room, pause=0.2) as traffic, waiting_reader(other) as reader:
        far_broker.cable.cut()
        mend_at = time.monotonic() + MINUTE
        waiting_writer_dies(other)
        dies_at_once(reader)
        time.sleep(mend_at - time.monotonic())  # the fault
        far_broker.cable.mend()
        traffic.await_recovery(time.monotonic())
        traffic.settle()
