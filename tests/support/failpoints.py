# SPDX-License-Identifier: MIT
"""The points at which a test ends the daemon, as kill -9 would (lib/include/mqfs/failpoint.h)."""

import mmap
import pathlib
import re
import struct

LIST = pathlib.Path(__file__).resolve().parents[2] / "lib/include/mqfs/failpoint.def"
NAMES = re.findall(r"^FAILPOINT_NAME\((\w+)\)", LIST.read_text(encoding="utf-8"), re.MULTILINE)
NUMBER = struct.Struct("=q")


class Failpoints:
    """The page that is shared with a daemon: struct failpoints."""

    def __init__(self, path):
        self.path = path
        size = NUMBER.size * (1 + 2 * len(NAMES))
        path.write_bytes(bytes(size))
        with open(path, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), size)

    def _at(self, name, field):
        return NUMBER.size * (1 + 2 * NAMES.index(name) + field)

    def _get(self, name, field):
        return NUMBER.unpack_from(self._page, self._at(name, field))[0]

    def passed(self):
        """How often each point was passed so far."""
        return {name: self._get(name, 0) for name in NAMES}

    def arm(self, name):
        """The daemon ends at its next pass of that point."""
        NUMBER.pack_into(self._page, self._at(name, 1), self._get(name, 0) + 1)

    def disarm(self):
        for name in NAMES:
            NUMBER.pack_into(self._page, self._at(name, 1), 0)

    def set_clock(self, seconds):
        """The daemon's real-time clock, off by so much from now on."""
        NUMBER.pack_into(self._page, 0, int(seconds * 1000000))
