# SPDX-License-Identifier: MIT
"""What the ledger runs on: two mounts of one backend, and what is left there when all is over."""

import contextlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
import tempfile
import time

from backends import Rabbit
from ledger_proxy import Proxy
from ledger_tasks import read_task
from mounted import Mount, detach, is_mounted
from processes import run
from rabbit import Broker

NAMES = ("A", "B")
DISK_BYTES = 64 << 20
REMOUNT_SECONDS = 60
# Short waits, so that each fault is met with several of them.
OPTIONS = {"publish_timeout": "5s", "max_attempts": 3, "backoff_base": "1s", "backoff_max": "4s",
           "claim_timeout": "20s", "connect_timeout": "5s", "heartbeat": "2s", "lease_timeout": "5s",
           "drain_timeout": "4s"}
STATES = ("ready", "held", "retry", "dead")


class Disk:
    """A small disk of its own, which a fault can fill. Only root may mount one: `fillable` tells."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        self.fillable = run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "ledger", path]).status == 0
        self._filler = path / "filler"

    def fill(self):
        with contextlib.suppress(OSError), open(self._filler, "wb", buffering=0) as file:
            size = 1 << 20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    def free(self):
        self._filler.unlink(missing_ok=True)

    def close(self):
        if self.fillable:
            detach(self.path)


class Stage:
    """The mounts by name, and the end of them. Subclasses have the backend."""

    name = None
    settle_seconds = 0

    def __init__(self, room):
        self.room = room
        self.disk = Disk(room / "disk")
        self.mounts = {}
        self.asked = set()  # mounts that are down because a fault took them down
        self._read = {}

    def mount_all(self):
        for name in NAMES:
            options = {**OPTIONS, "state_dir": self.disk.path / f"state{name}"}
            self.mounts[name] = Mount(self.url(name), self.room / f"mnt{name}", self.room / f"home{name}", options)
        for queue in ("jobs", "archive"):
            self.mounts["A"].make(queue)
        for name in NAMES:
            for queue in ("jobs", "archive"):
                self.mounts[name].queue(queue)

    @property
    def paths(self):
        return {name: self.room / f"mnt{name}" for name in NAMES}

    def remount(self, name):
        """Until it succeeds: the broker may be away, the disk full."""
        mount = self.mounts[name]
        deadline = time.monotonic() + REMOUNT_SECONDS
        while True:
            try:
                mount.start()
                return
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def new_log_lines(self):
        """(mount, line) of what the daemons have said since the last call."""
        for name, mount in self.mounts.items():
            with open(mount.log_path, "rb") as file:
                file.seek(self._read.get(name, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[name] = self._read.get(name, 0) + len(line)
                    yield name, line.decode(errors="replace").rstrip("\n")

    def kept(self):
        """(place, task) of the drafts that are listed in new/."""
        for name, mount in self.mounts.items():
            for entry in os.listdir(mount.path / "jobs/new"):
                with contextlib.suppress(OSError):
                    task = read_task((mount.path / "jobs/new" / entry).read_bytes())
                    if task:
                        yield f"new/ of {name}", task

    def stats(self, name="A"):
        lines = (self.mounts[name].path / "jobs/stats").read_text().splitlines()
        return {key: float(value) for key, value in (line.split() for line in lines)}

    def held(self):
        """What every mount still has, in words."""
        texts = []
        for name, mount in self.mounts.items():
            stats = ", ".join(f"{key} {value:.0f}" for key, value in self.stats(name).items() if value)
            names = [f"{where}/{entry}" for where in ("pending", "claimed")
                     for entry in os.listdir(mount.path / "jobs" / where)]
            texts.append(f"{name} has {' '.join(names[:20]) or 'nothing'} ({stats})")
        return "; ".join(texts)

    def unmount_all(self):
        """What was wrong with the end of the mounts."""
        problems = []
        for mount in self.mounts.values():
            try:
                if mount.process:
                    mount.close()
            except AssertionError as error:
                problems.append(str(error))
        return problems

    def abort(self):
        for mount in self.mounts.values():
            if mount.process and mount.alive:
                mount.abort()
            elif is_mounted(mount.path):
                detach(mount.path)

    def close(self):
        self.abort()
        self.disk.close()


class SqliteStage(Stage):
    name = "sqlite"

    @property
    def store(self):
        return self.disk.path / "store.db"

    def url(self, _name):
        return f"sqlite:{self.store}"

    def left(self):
        """(place, task) of all that is in the store; nothing is mounted any more."""
        query = """SELECT queues.name, messages.state, contents.body FROM messages
                   JOIN contents ON contents.id = messages.id JOIN queues ON queues.id = messages.queue"""
        with contextlib.closing(sqlite3.connect(self.store)) as store:
            for queue, state, body in store.execute(query):
                yield f"{queue}/{STATES[state]}", read_task(bytes(body)) or "torn"


class RabbitStage(Stage):
    name = "rabbitmq"
    vhost = "ledger"

    def __init__(self, room):
        super().__init__(room)
        self.broker = Broker()
        self.broker.start()
        self.rabbit = Rabbit(self.broker, self.vhost)
        self.proxies = {name: Proxy(self.broker.port) for name in NAMES}

    def url(self, name):
        return f"amqp://guest:guest@127.0.0.1:{self.proxies[name].port}/{self.vhost}"

    def left(self):
        """(place, task) of all that is in any queue; nothing is mounted any more."""
        for queue in self.rabbit.queues():
            for message in self.rabbit.drain(queue):
                yield queue, read_task(message.body) or "torn"

    def close(self):
        super().close()
        for proxy in self.proxies.values():
            proxy.close()
        self.rabbit.abort()
        self.broker.close()


@contextlib.contextmanager
def stage_for(backend):
    """The stage in a directory of its own; all of it is gone afterwards."""
    room = pathlib.Path(tempfile.mkdtemp(prefix="mqfs-ledger-"))
    stage = None
    try:
        stage = (SqliteStage if backend == "sqlite" else RabbitStage)(room)
        yield stage
    finally:
        if stage:
            stage.close()
        shutil.rmtree(room, ignore_errors=True)


def hold_lock(path, seconds):
    """Another process that writes into the store for that long."""
    script = "import sqlite3, sys, time; s = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None); " \
             "s.execute('BEGIN IMMEDIATE'); time.sleep(float(sys.argv[2])); s.execute('ROLLBACK')"
    subprocess.run(["/usr/bin/python3", "-c", script, path, str(seconds)], check=True, timeout=seconds + 30)
