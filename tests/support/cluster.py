# SPDX-License-Identifier: MIT
"""Three RabbitMQ nodes that are one broker, on loopback."""

import os
import random

from rabbit import Broker, BrokerError

SIZE = 3


class Node(Broker):
    """A node of a cluster: the cookie and epmd are shared by all of them."""

    def __init__(self, number, first):
        peers = [f"cluster_formation.classic_config.nodes.{at} = mqfs{at}@localhost" for at in range(1, SIZE + 1)]
        super().__init__(plugins=() if first else ("rabbitmq_management",), node=f"mqfs{number}", resend_seconds=10,
                         config="\n".join(["cluster_formation.peer_discovery_backend = classic_config",
                                           "cluster_partition_handling = pause_minority", *peers]) + "\n")
        self.first = first
        self._choose_ports()
        if first:
            self.epmd_port = first.epmd_port
            self._share_cookie()

    def start(self):
        """No other port is tried: the peers would not know it."""
        self._spawn_node()
        self._wait_for_node()

    def begin(self):
        """As start, without waiting."""
        self._spawn_node()

    def finish(self):
        self._wait_for_node()

    def _share_cookie(self):
        path = os.path.join(self.home, ".erlang.cookie")
        with open(os.path.join(self.first.home, ".erlang.cookie"), encoding="ascii") as file:
            cookie = file.read()
        os.chmod(path, 0o600)
        with open(path, "w", encoding="ascii") as file:
            file.write(cookie)
        os.chmod(path, 0o400)

    def _start_epmd(self, output):
        if not self.first and not self.epmd:
            super()._start_epmd(output)

    def _end_epmd(self):
        """It outlives its node: only close() ends it, with the cluster."""

    def close(self):
        super().close()
        super()._end_epmd()


class Cluster:
    """Use as a context manager. The first node has the management API and epmd."""

    def __init__(self):
        first = Node(1, None)
        self.nodes = [first, *(Node(number, first) for number in range(2, SIZE + 1))]

    def __enter__(self):
        try:
            for node in self.nodes:
                node.begin()
            for node in self.nodes:
                node.finish()
            self._check()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def _check(self):
        running = self.nodes[0].ctl("eval", "length(rabbit_nodes:all_running()).").strip()
        if running != str(SIZE):
            raise BrokerError(f"{running} of {SIZE} nodes run:\n{self.nodes[0].log()}")

    def heal(self):
        """Starts what was killed."""
        for node in self.nodes:
            if node.process is None:
                node.start()

    def url(self, nodes=None):
        """amqp:// with several hosts; those given, or all in a random order."""
        nodes = nodes or random.sample(self.nodes, SIZE)
        return "amqp://guest:guest@" + ",".join(f"{node.host}:{node.port}" for node in nodes) + "/"

    def leader(self, queue):
        """The node on which a quorum queue's leader runs."""
        alive = next(node for node in self.nodes if node.process)
        name = alive.ctl("eval", f"""{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
                         {{_, Node}} = amqqueue:get_pid(Q), io:format("~s", [Node]).""")
        return next(node for node in self.nodes if node.node in name)

    def close(self):
        for node in reversed(self.nodes):
            node.close()
