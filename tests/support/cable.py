# SPDX-License-Identifier: MIT
"""A network of two ends that can be cut: a namespace of its own at the far end of a veth pair."""

import os
import random
import subprocess

import pytest


def ip(*words, check=True):
    result = subprocess.run(["ip", *words], check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check and result.returncode:
        raise OSError(f"ip {' '.join(words)}: {result.stdout.strip()}")
    return result.stdout


class Cable:
    """Use as a context manager: skips the test where it may not make namespaces."""

    def __init__(self):
        number = random.randrange(1 << 14)
        self.name = f"mqfs{number}"
        self.near, self.far = f"mqn{number}", f"mqf{number}"  # at most 15 characters
        # 198.18.0.0/15 is for tests of networks (RFC 2544).
        net = f"198.{18 + (number >> 13)}.{number >> 6 & 127}.{(number & 63) * 4}"
        base, last = net.rsplit(".", 1)
        self.near_address, self.far_address = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"
        self.prefix = ["ip", "netns", "exec", self.name]

    def __enter__(self):
        if os.geteuid() != 0:
            pytest.skip("cutting a network needs root")
        try:
            self._lay()
        except OSError as error:
            self.__exit__()
            pytest.skip(f"no network namespaces here: {error}")
        return self

    def __exit__(self, *_):
        ip("link", "del", self.near, check=False)
        ip("netns", "del", self.name, check=False)

    def _lay(self):
        ip("netns", "add", self.name)
        ip("link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self.name)
        ip("addr", "add", f"{self.near_address}/30", "dev", self.near)
        ip("-n", self.name, "addr", "add", f"{self.far_address}/30", "dev", self.far)
        for words in (["link", "set", self.near, "up"], ["-n", self.name, "link", "set", self.far, "up"],
                      ["-n", self.name, "link", "set", "lo", "up"]):
            ip(*words)

    def cut(self):
        """Each end sends to a neighbour that isn't there: what is sent vanishes, and nobody says so."""
        nowhere = ("lladdr", "02:00:00:00:00:01", "nud", "permanent")
        ip("neigh", "replace", self.far_address, "dev", self.near, *nowhere)
        ip("-n", self.name, "neigh", "replace", self.near_address, "dev", self.far, *nowhere)

    def mend(self):
        ip("neigh", "del", self.far_address, "dev", self.near)
        ip("-n", self.name, "neigh", "del", self.near_address, "dev", self.far)
