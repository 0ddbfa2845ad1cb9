# SPDX-License-Identifier: MIT
"""A mounted mqfs under the control of a test, and its queues as Python sees them."""

import contextlib
import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import time

from processes import eventually, run, shell
from rabbit import die_with_parent

MOUNT_SECONDS = 20
STOP_SECONDS = 10
SANITIZER = re.compile(rb"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:")

STAMPED = re.compile(r"\d+\.\d{6}-")


def daemon_path():
    """The daemon under test: MQFS_BIN, or mqfs of the default build directory."""
    root = pathlib.Path(__file__).resolve().parents[2]
    return os.environ.get("MQFS_BIN", str(root / "build" / "fs" / "mqfs"))


def failing_daemon_path():
    """The same with failpoints in it, from the same build directory."""
    return str(pathlib.Path(daemon_path()).with_name("mqfs-failpoints"))


def decode_mountinfo(text):
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), text)


def is_mounted(directory):
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return any(decode_mountinfo(line.split()[4]) == str(directory) for line in file)


def detach(directory):
    """umount -l, also as a normal user."""
    words = ["umount", "-l", directory] if os.geteuid() == 0 else ["fusermount3", "-u", "-z", directory]
    with contextlib.suppress(AssertionError):
        run(words, timeout=10)


def without_password(url):
    """(URL, password): on the command line only the loopback's guest may have one (M3)."""
    match = re.fullmatch(r"(amqps?://[^:@/]+):([^@/]*)(@.*)", url or "")
    if not match or match[2] == "guest":
        return url, None
    return match[1] + match[3], match[2]


class Queue:
    """One queue's directory."""

    def __init__(self, mount, name):
        self.mount = mount
        self.name = name
        self.path = mount.path / name

    def __truediv__(self, name):
        return self.path / name

    @property
    def new(self):
        return self.path / "new"

    @property
    def pending(self):
        return self.path / "pending"

    @property
    def claimed(self):
        return self.path / "claimed"

    @property
    def retry(self):
        return self.path / "retry"

    @property
    def dead(self):
        return self.path / "dead"

    def names(self, where):
        return sorted(os.listdir(self.path / where))

    def wait_names(self, where, count, seconds=10):
        """Exactly that many, waited for; gives the names."""
        eventually(lambda: len(self.names(where)) == count, seconds,
                   f"{count} entries in {where} (now {self.names(where)})")
        return self.names(where)

    def publish(self, *bodies, name="job", **properties):
        """Publishes through the mount, the strict way: a dot-file, its xattrs, a rename."""
        for body in bodies:
            draft = self.new / f".{name}"
            draft.write_bytes(body if isinstance(body, bytes) else body.encode())
            for key, value in properties.items():
                os.setxattr(draft, f"user.mqfs.{key.replace('_', '-')}", str(value).encode())
            os.rename(draft, self.new / name)

    def take(self, seconds=10):
        """Claims one message and gives its name."""
        name = eventually(lambda: self.names("pending"), seconds, "a pending message")[0]
        os.rename(self.pending / name, self.claimed / name)
        return name

    def bodies(self, where):
        """The bodies in a place one may look at without taking: claimed/, or retry/ and dead/ or peek/."""
        paths = (self.path / where / name for name in self.names(where))
        return [(path / "body" if path.is_dir() else path).read_bytes() for path in paths]

    def consume(self, count, seconds=15):
        """Takes and acknowledges that many; gives the bodies in the order of delivery."""
        bodies = []
        deadline = time.monotonic() + seconds
        while len(bodies) < count:
            assert time.monotonic() < deadline, f"{len(bodies)} of {count} messages came: {bodies[:20]!r}"
            for name in self.names("pending")[:count - len(bodies)]:
                bodies.append((self.pending / name).read_bytes())
                os.unlink(self.pending / name)
        return bodies

    def meta(self, where, name):
        with open(self.path / where / name / "meta.json", encoding="utf-8") as file:
            return json.load(file)

    def xattr(self, where, name, key):
        return os.getxattr(self.path / where / name, f"user.mqfs.{key}").decode()

    def stats(self):
        lines = (self.path / "stats").read_text().splitlines()
        return {key: float(value) for key, value in (line.split() for line in lines)}

    def wait_stats(self, seconds=10, **expected):
        """Until these are the values; gives them all. The totals are the last known ones while a broker is busy, and what
        became of a message is counted when the broker has been told."""
        stats = {}

        def as_expected():
            stats.update(self.stats())
            return expected.items() <= stats.items()

        try:
            eventually(as_expected, seconds)
        except AssertionError:
            raise AssertionError(f"stats have {({key: stats[key] for key in expected})}, not {expected}") from None
        return stats

    def fail_to(self, where, seconds=10, error=None):
        """Takes one message, fails it with a reason, moves it to retry/ or dead/."""
        name = self.take(seconds)
        if error is not None:
            (self.claimed / f"{name}.error").write_text(error)
        os.rename(self.claimed / name, self.path / where / name)
        return name


class Mount:
    """`mqfs mount -f` on a directory, and the end of it."""

    def __init__(self, url, path, home, options=None, wait=True, failpoints=None, prefix=()):
        self.url, self.password = without_password(url)
        self.failpoints = failpoints  # the path of their page: then the daemon is the one that has them
        self.prefix = list(prefix)  # words before the command
        self.path = path
        self.spelling = str(path)  # on the command line
        self.home = home
        # What a test holds when it ends goes back at once.
        self.options = {"drain-timeout": "0"} | {key.replace("_", "-"): value for key, value in (options or {}).items()}
        self.log_path = home / "log"
        self.process = None
        self.killed = False
        path.mkdir(exist_ok=True)
        home.mkdir(exist_ok=True)
        self.start(wait)

    # -- life ---------------------------------------------------------------

    def command(self):
        words = [*self.prefix, failing_daemon_path() if self.failpoints else daemon_path(), "mount", "-f"]
        if self.options:
            words += ["-o", ",".join(key if value is True else f"{key}={value}" for key, value in self.options.items())]
        return [*words, *([self.url] if self.url else []), self.spelling]

    def start(self, wait=True):
        self.killed = False
        environment = {**os.environ, "HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state"),
                       "XDG_CONFIG_HOME": str(self.home / "config")}
        if self.password:
            environment["MQFS_PASSWORD"] = self.password
        if self.failpoints:
            environment["MQFS_FAILPOINTS"] = str(self.failpoints)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=environment, cwd=self.home, preexec_fn=die_with_parent)
        if wait:
            self.wait_mounted()

    def wait_mounted(self):
        before = os.stat(self.path.parent).st_dev

        def mounted():
            assert self.process.poll() is None, f"mqfs ended with {self.process.returncode}:\n{self.log()}"
            # A stale mount is listed as well, and stat() answered from the kernel's memory for a second: only
            # statvfs(), which always asks the daemon, proves that the new one is there.
            with contextlib.suppress(OSError):
                os.statvfs(self.path)
                return is_mounted(self.path) and os.stat(self.path).st_dev != before
            return False

        try:
            eventually(mounted, MOUNT_SECONDS, "the mount")
        except AssertionError:
            self.abort()
            raise

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    def terminate(self, seconds=STOP_SECONDS):
        """SIGTERM; gives the exit status."""
        self.process.terminate()
        return self.wait(seconds)

    def wait(self, seconds=STOP_SECONDS):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"mqfs did not end within {seconds} s:\n{self.log()}") from None

    def kill(self):
        """kill -9, as the OOM killer would: the stale mount stays."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def abort(self):
        """The end of a mount that may be stuck: with its daemon every request in it ends."""
        self.kill()
        if is_mounted(self.path):
            detach(self.path)

    def close(self):
        """The orderly end of every test; what was wrong with it fails the test."""
        try:
            if self.alive:
                self.process.send_signal(signal.SIGCONT)
                status = self.terminate()
                assert status == 0, f"mqfs ended with status {status}:\n{self.log()}"
                assert not is_mounted(self.path), "mqfs ended and left its mount behind"
            elif not self.killed:
                assert self.process.returncode == 0, f"mqfs ended with {self.process.returncode}:\n{self.log()}"
            assert not SANITIZER.search(self.log_path.read_bytes()), self.log()
        finally:
            if self.alive:
                self.kill()
            if is_mounted(self.path):
                detach(self.path)

    def log(self, offset=0):
        if not self.log_path.exists():
            return "(its directory has been removed)"
        with open(self.log_path, "rb") as file:
            file.seek(offset)
            return file.read()[-6000:].decode(errors="replace")

    # -- use ----------------------------------------------------------------

    def queue(self, name):
        """A queue that exists. The first look-up may find a busy broker away (Q1: it waits at most 0.2 s)."""
        def answers():
            with contextlib.suppress(OSError):
                os.stat(self.path / name)
                return True
            return False

        eventually(answers, 15, f"the look-up of {name}")
        return Queue(self, name)

    def make(self, name):
        """mkdir. The kernel looks the name up first, which may find a busy broker away as well."""
        def made():
            try:
                os.mkdir(self.path / name)
            except OSError as error:
                if error.errno != errno.EHOSTDOWN:
                    raise
                return False
            return True

        eventually(made, 15, f"mkdir {name}")
        return Queue(self, name)

    def sh(self, script, kind="bash", **options):
        """A snippet with the mount as working directory."""
        return shell(script, cwd=self.path, kind=kind, **options)


class Mounts:
    """All the mounts of one test."""

    def __init__(self, directory):
        self.directory = directory
        self.all = []

    def add(self, url, options=None, path=None, wait=True, failpoints=None, prefix=()):
        number = len(self.all) + 1
        home = self.directory / f"home{number}"
        home.mkdir(parents=True)
        mount = Mount.__new__(Mount)  # known before it starts, so that the watchdog can end it
        self.all.append(mount)
        mount.process = None
        mount.__init__(url, path or self.directory / f"mnt{number}", home, options, wait, failpoints, prefix)
        return mount

    def abort(self):
        for mount in self.all:
            if mount.process:
                mount.abort()

    def close(self):
        problems = []
        for mount in self.all:
            try:
                if mount.process:
                    mount.close()
            except AssertionError as error:
                problems.append(str(error))
        assert not problems, "\n".join(problems)

    def logs(self):
        return [(mount.path.name, mount.log()) for mount in self.all if mount.process]
