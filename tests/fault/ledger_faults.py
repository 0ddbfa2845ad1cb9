# SPDX-License-Identifier: MIT
"""The faults of the ledger, and who brings them about: drawn from a seed, one after the other, now and then
one within another, with time between them in which all is well."""

import contextlib
import pathlib
import signal
import time

from ledger_journal import now
from ledger_stage import NAMES, SqliteStage, hold_lock
from processes import run

TERM_SECONDS = 40
CTL_SECONDS = 180  # rabbitmqctl starts a virtual machine of its own, which takes a busy machine that long


class Window:
    """When a fault was there, and for whom. `stopped`: operations on its mounts wait as long as it lasts."""

    def __init__(self, name, mounts, stopped=False):
        self.name = name
        self.mounts = mounts
        self.stopped = stopped
        self.begin = now()
        self.end = None

    def overlap(self, begin, end):
        return max(0, min(end, self.end or end) - max(begin, self.begin))


def threads_of(pid):
    """What the threads of a process wait for, as far as the kernel tells (and gdb, where there is one)."""
    lines = []
    for path in sorted(pathlib.Path(f"/proc/{pid}/task").iterdir()):
        with contextlib.suppress(OSError):
            lines.append(f"{path.name} {(path / 'wchan').read_text()} {(path / 'syscall').read_text()}".rstrip())
    with contextlib.suppress(OSError):
        result = run(["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all bt 20"], timeout=60)
        lines.append(result.out)
    return "\n".join(lines)


class Faults:
    """Each method brings one about, waits for its end, and undoes it. The first argument says for how long."""

    def __init__(self, stage, crew, chance, only=None):
        self.only = only
        self.stage = stage
        self.crew = crew
        self.chance = chance
        self.windows = []

    @contextlib.contextmanager
    def window(self, name, mounts=NAMES, stopped=False):
        window = Window(name, mounts, stopped)
        self.windows.append(window)
        try:
            yield window
        finally:
            window.end = now()

    def one_mount(self):
        return self.chance.choice(NAMES)

    # -- of mqfs and its users ---------------------------------------------

    def mqfs_kill(self, _seconds):
        """kill -9, a stale mount, and a new mqfs."""
        name = self.one_mount()
        with self.window("mqfs-kill", (name,)):
            self.stage.mounts[name].kill()
            self.stage.remount(name)

    def mqfs_term(self, _seconds):
        name = self.one_mount()
        with self.window("mqfs-term", (name,)):
            self.end_orderly(name)
            self.stage.remount(name)

    def end_orderly(self, name):
        mount = self.stage.mounts[name]
        try:
            status = mount.terminate(TERM_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{threads_of(mount.process.pid)}") from None
        if status:
            raise AssertionError(f"mqfs ended with status {status} on SIGTERM:\n{mount.log()}")

    def mqfs_stop(self, seconds):
        """SIGSTOP for longer than its lease and the broker's heartbeat; the other mount goes on."""
        name = self.one_mount()
        process = self.stage.mounts[name].process
        with self.window("mqfs-stop", (name,), stopped=True):
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds + 5)
            process.send_signal(signal.SIGCONT)

    def worker_kill(self, _seconds):
        with self.window("worker-kill"):
            for worker in self.chance.sample(self.crew.workers, 3):
                worker.kill(self.chance.random() < 0.5)
                time.sleep(self.chance.random() / 2)
            self.crew.revive()

    def disk_full(self, seconds):
        """Under the store, or under what a mount of a broker keeps."""
        with self.window("disk-full"):
            self.stage.disk.fill()
            time.sleep(seconds)
            self.stage.disk.free()

    # -- of the embedded store ---------------------------------------------

    def store_locked(self, seconds):
        with self.window("store-locked"):
            hold_lock(self.stage.store, seconds)

    # -- of the broker and the way to it -----------------------------------

    def broker_kill(self, seconds):
        with self.window("broker-kill"):
            self.stage.broker.kill()
            with self.perhaps_another():
                time.sleep(seconds / 2)
                self.stage.broker.start()

    def broker_pause(self, seconds):
        """SIGSTOP for longer than the heartbeat."""
        with self.window("broker-pause"):
            self.stage.broker.pause()
            with self.perhaps_another():
                time.sleep(seconds)
                self.stage.broker.resume()

    def alarm(self, seconds):
        """Memory is short: publishers are blocked."""
        with self.window("alarm"):
            self.stage.broker.ctl("set_vm_memory_high_watermark", "absolute", "1MB", timeout=CTL_SECONDS)
            time.sleep(seconds)
            self.stage.broker.ctl("set_vm_memory_high_watermark", "0.4", timeout=CTL_SECONDS)

    def connections_closed(self, _seconds):
        with self.window("connections-closed"):
            self.stage.broker.ctl("close_all_connections", "test", timeout=CTL_SECONDS)

    def queue_full(self, seconds):
        path = f"policies/{self.stage.vhost}/full"
        policy = {"pattern": "^jobs$", "apply-to": "queues",
                  "definition": {"max-length": 1, "overflow": "reject-publish"}}
        with self.window("queue-full"):
            self.stage.broker.api("PUT", path, policy)
            time.sleep(seconds)
            self.stage.broker.api("DELETE", path)

    def forbidden(self, seconds):
        """Nobody may publish."""
        with self.window("forbidden"):
            self.stage.broker.set_permissions(self.stage.vhost, "guest", write="^$")
            time.sleep(seconds)
            self.stage.broker.set_permissions(self.stage.vhost, "guest")

    def cut(self, seconds):
        """One mount's connections are reset, and refused for a while."""
        name = self.one_mount()
        with self.window("cut", (name,)):
            self.stage.proxies[name].refuse()
            self.stage.proxies[name].cut()
            time.sleep(seconds / 2)
            self.stage.proxies[name].refuse(False)

    def frozen(self, seconds):
        """One mount's network lets nothing through, then all or nothing of what was on its way."""
        name = self.one_mount()
        with self.window("frozen", (name,)):
            self.stage.proxies[name].freeze()
            with self.perhaps_another():
                time.sleep(seconds)
                if self.chance.random() < 0.5:
                    self.stage.proxies[name].cut()
                self.stage.proxies[name].thaw()

    # -- which -------------------------------------------------------------

    @contextlib.contextmanager
    def perhaps_another(self):
        """Now and then another fault in the middle of one: a mount that dies has to wait for the end of the outer."""
        if self.chance.random() >= 0.4:
            yield
            return
        inner = self.chance.choice(("mqfs-kill", "mqfs-term", "worker-kill"))
        if inner == "worker-kill":
            self.worker_kill(0)
            yield
            return
        name = self.one_mount()
        with self.window(inner, (name,)):
            if inner == "mqfs-kill":
                self.stage.mounts[name].kill()
            else:
                self.end_orderly(name)
            yield
            self.stage.remount(name)

    def names(self):
        names = ["mqfs-kill", "mqfs-term", "mqfs-stop", "worker-kill"]
        names += ["disk-full"] if self.stage.disk.fillable else []
        if isinstance(self.stage, SqliteStage):
            return [*names, "store-locked"]
        return [*names, "broker-kill", "broker-pause", "alarm", "connections-closed", "queue-full", "forbidden", "cut",
                "frozen"]

    def draw(self):
        """(name, seconds) for ever: all of them in a drawn order, then all again in another."""
        while True:
            names = self.only.split(",") if self.only else self.names()
            self.chance.shuffle(names)
            for name in names:
                yield name, self.chance.uniform(3, 8)

    def bring(self, name, seconds):
        getattr(self, name.replace("-", "_"))(seconds)
