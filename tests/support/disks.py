# SPDX-License-Identifier: MIT
"""A disk that falls ill while something is mounted on it (sickdisk.c)."""

import contextlib
import pathlib
import signal
import subprocess

from mounted import daemon_path, detach, is_mounted
from processes import eventually
from rabbit import die_with_parent


class Disk:
    """A directory on such a disk."""

    def __init__(self, room):
        self.path = room / "disk"
        self._fault = room / "fault"
        backing = room / "backing"
        for directory in (self.path, backing):
            directory.mkdir()
        program = pathlib.Path(daemon_path()).parents[1] / "tests/support/sickdisk"
        self._process = subprocess.Popen([program, backing, self.path, self._fault], stdin=subprocess.DEVNULL,
                                         preexec_fn=die_with_parent)
        eventually(lambda: is_mounted(self.path), 10, "the disk")

    def fall_ill(self, error):
        """Everything that changes something on it fails with that errno from now on."""
        self._fault.write_text(str(error))

    @contextlib.contextmanager
    def hanging(self):
        """… or does not end in here, and then nothing on it does. Who waits for it can't even be killed."""
        self._fault.write_text("-1")
        try:
            yield
        finally:
            self.recover()

    def recover(self):
        self._fault.unlink(missing_ok=True)

    @contextlib.contextmanager
    def stalled(self):
        """Nothing done on it ends in here."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self):
        detach(self.path)
        self._process.kill()
        self._process.wait()
