# SPDX-License-Identifier: MIT
"""kill -9 at every point of lib/include/mqfs/failpoint.def, in every operation that passes it; none is skipped.

First each operation is done once with nothing armed, to see which points it passes. Then, for each of these, it is done
again in a queue of its own until the daemon has died there, and the daemon is started anew. In the end all queues are
emptied, and every message is accounted for: accepted, and not asked to be forgotten, means found. What comes twice has
one message-id."""

import collections
import concurrent.futures
import contextlib
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import time

import pytest

from conftest import PATIENT
from failpoints import NAMES, Failpoints
from mounted import Queue, daemon_path, failing_daemon_path
from processes import background, eventually, run

OPTIONS = {**PATIENT, "backoff_base": "4s", "lease_timeout": "2s", "publish_timeout": "8s"}
DEATH_SECONDS = 4
QUIET_SECONDS = 0.3
DAEMONS = 3
TRIES = 2


class Case:
    """One operation on one queue. An operation is a generator: what it prepares, a yield at which the point is armed,
    and what it does then, which may fail from any moment on."""

    def __init__(self, mount, name):
        self.mount = mount
        self.name = name
        self.queues = []
        self.queue = self.make(name)
        self.kept = set()    # accepted: to be found in the end
        self.unknown = set()  # may be found: never accepted, or asked to be forgotten
        self.serial = 0

    def make(self, name):
        """mkdir. Its look-up waits 0.2 s at most (Q1), which a broker under load may need."""
        eventually(lambda: self.attempt(os.mkdir, self.mount.path / name), 15, f"mkdir {name}")
        self.queues.append(name)
        return Queue(self.mount, name)

    def body(self):
        self.serial += 1
        return f"{self.name}-{self.serial}"

    def publish(self, count=2):
        for body in [self.body() for _ in range(count)]:
            self.queue.publish(body, name=body, message_id=body)
            self.kept.add(body)

    def attempt(self, function, *arguments):
        """True when it was answered well."""
        with contextlib.suppress(OSError):
            function(*arguments)
            return True
        return False

    def forget(self, function, path):
        """Acknowledges or discards: the message may be gone from the moment on at which that was asked."""
        body = path.name.split("-", 1)[1] if re.match(r"\d+\.\d+-", path.name) else path.name
        body = re.search(rf"{self.name}-\d+", body)[0]
        self.kept.discard(body)
        self.unknown.add(body)
        self.attempt(function, path)

    def pending(self, count=2):
        self.publish(count)
        return self.queue.wait_names("pending", count, seconds=20)

    def claims(self, count=2):
        names = self.pending(count)
        for name in names:
            os.rename(self.queue.pending / name, self.queue.claimed / name)
        return names

    def failed(self, where, count=2):
        for name in self.claims(count):
            os.rename(self.queue.claimed / name, self.queue / where / name)
        return self.queue.wait_names(where, count, seconds=20)

    def until(self, question, seconds=8):
        """Waits for it, or for the daemon's death, or so long."""
        deadline = time.monotonic() + seconds
        while self.mount.alive and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if question():
                    return
            time.sleep(0.02)

    def set(self, setting, value):
        (self.queue / "config" / setting).write_text(value)


# -- the operations ---------------------------------------------------------

def write(case, path, body):
    """close() publishes; without a message-id of ours, so the file's name tells the message."""
    case.unknown.add(body)
    if case.attempt(path.write_bytes, body.encode()):
        case.kept.add(body)


def publish_by_close(case):
    yield
    for _ in range(2):
        body = case.body()
        write(case, case.queue.new / body, body)


def publish_by_rename(case):
    drafts = [case.body() for _ in range(2)]
    for body in drafts:
        (case.queue.new / f".{body}").write_text(body)
    yield
    for body in drafts:
        case.unknown.add(body)
        if case.attempt(os.rename, case.queue.new / f".{body}", case.queue.new / body):
            case.kept.add(body)


def publish_delayed(case):
    body = case.body()
    (case.queue.new / f".{body}").write_text(body)
    os.setxattr(case.queue.new / f".{body}", "user.mqfs.delay", b"1000")
    yield
    case.unknown.add(body)
    if case.attempt(os.rename, case.queue.new / f".{body}", case.queue.new / body):
        case.kept.add(body)


def deliver(case):
    case.publish()
    yield
    case.until(lambda: len(case.queue.names("pending")) == 2)


def take(case):
    names = case.pending()
    yield
    for name in names:
        case.attempt(os.rename, case.queue.pending / name, case.queue.claimed / name)


def claim(case):
    case.publish(1)
    yield
    case.attempt((case.queue / "claim").read_bytes)


def read_next(case):
    case.publish(1)
    yield
    case.forget(lambda _: (case.queue / "next").read_bytes(), case.queue / f"{case.name}-1")


def acknowledge(case):
    names = case.claims()
    yield
    for name in names:
        case.forget(os.unlink, case.queue.claimed / name)


def give_back(case):
    names = case.claims()
    yield
    for name in names:
        case.attempt(os.rename, case.queue.claimed / name, case.queue.pending / name)


def retry(case):
    names = case.claims()
    yield
    for name in names:
        case.attempt(os.rename, case.queue.claimed / name, case.queue.retry / name)


def bury(case):
    names = case.claims()
    yield
    for name in names:
        case.attempt(os.rename, case.queue.claimed / name, case.queue.dead / name)


def forward(case):
    names = case.claims()
    case.make(f"{case.name}.to")
    yield
    for name in names:
        case.attempt(os.rename, case.queue.claimed / name, case.mount.path / f"{case.name}.to" / "new" / name)


def look(case):
    for name in case.claims():
        os.rename(case.queue.claimed / name, case.queue.dead / name)
    case.until(lambda: case.queue.stats()["dead"] == 2)
    yield
    case.until(lambda: len(case.queue.names("dead")) == 2)


def replay(case):
    names = case.failed("dead")
    yield
    for name in names:
        case.attempt(os.rename, case.queue.dead / name, case.queue.new / name)


def grant(case):
    names = case.failed("dead", 1)
    yield
    for name in names:
        case.attempt(os.rename, case.queue.dead / name, case.queue.retry / name)


def retry_now(case):
    names = case.failed("retry", 1)
    yield
    for name in names:
        case.attempt(os.rename, case.queue.retry / name, case.queue.pending / name)


def bury_waiting(case):
    names = case.failed("retry", 1)
    yield
    for name in names:
        case.attempt(os.rename, case.queue.retry / name, case.queue.dead / name)


def discard(case):
    names = case.failed("dead")
    yield
    for name in names:
        case.forget(os.rmdir, case.queue.dead / name)


def come_home(case):
    """What waited in retry/ is delivered again."""
    case.set("backoff-base", "1500ms")
    for name in case.claims(1):
        os.rename(case.queue.claimed / name, case.queue.retry / name)
    yield
    case.until(lambda: case.queue.names("pending"))


def expire(case):
    """A claim runs out: a failed attempt."""
    case.set("claim-timeout", "1s")
    case.claims(1)
    yield
    case.until(lambda: not case.queue.names("claimed"))


READER = "import sys, time; file = open(sys.argv[1], 'rb'); print(flush=True); time.sleep(60)"


def kill_reader(case):
    """A taker that is killed with the file open gives back, counted."""
    name, = case.pending(1)
    with background([sys.executable, "-c", READER, case.queue.pending / name], stdout=subprocess.PIPE) as reader:
        reader.stdout.readline()
        yield
        reader.kill()
        reader.wait()
        case.until(lambda: not case.queue.names("claimed"))


def stop_looking(case):
    """Consuming ends for want of interest: what was prefetched goes back."""
    case.set("idle-release", "1s")
    case.pending()
    yield
    case.until(lambda: case.queue.stats()["ready"] == 2)


def end(case):
    """SIGTERM with something pending."""
    case.pending()
    yield
    case.mount.process.terminate()
    case.until(lambda: False)


def fill(case):
    """So much that SQLite's log goes into the file (after an idle second)."""
    yield
    for _ in range(12):
        body = case.body()
        case.unknown.add(body)
        if case.attempt((case.queue.new / body).write_bytes, body.encode().ljust(50000)):
            case.kept.add(body)
    case.until(lambda: False, seconds=2.5)


OPERATIONS = {
    "sqlite": (publish_by_close, publish_by_rename, publish_delayed, deliver, take, claim, read_next, acknowledge,
               give_back, retry, bury, forward, look, replay, grant, retry_now, bury_waiting, discard, come_home,
               expire, kill_reader, stop_looking, end, fill),
    "rabbitmq": (publish_by_close, publish_by_rename, publish_delayed, deliver, take, claim, read_next, acknowledge,
                 give_back, retry, bury, forward, look, replay, grant, retry_now, bury_waiting, discard,
                 expire, kill_reader, stop_looking, end),
}
# What the whole store comes by at its own time: only where an operation is about it can that be waited for.
BACKGROUND = {"sqlite_waking": come_home, "sqlite_checkpointing": fill, "sqlite_checkpointed": fill}
OTHERS = {"sqlite": ("amqp_",), "rabbitmq": ("sqlite_",)}  # points of modules that aren't in use


# -- dying ------------------------------------------------------------------

class Crashes:
    """A daemon that is killed again and again, and what it was trusted with meanwhile."""

    def __init__(self, mounts, url, failpoints):
        self.failpoints = failpoints
        self.cases = []
        self.mount = mounts.add(url, OPTIONS, failpoints=failpoints.path)

    def begin(self, operation, suffix):
        case = Case(self.mount, f"{operation.__name__}.{suffix}")
        self.cases.append(case)
        steps = operation(case)
        next(steps)
        return steps

    def restart(self):
        if self.mount.alive:
            self.mount.process.kill()
        self.mount.process.wait()
        self.mount.killed = True
        self.failpoints.disarm()
        self.mount.start()

    def passes(self, operation):
        """Which points the operation passes."""
        steps = self.begin(operation, "free")
        before = self.wait_quiet()
        collections.deque(steps, maxlen=0)
        after = self.wait_quiet()
        self.restart()
        return [name for name in NAMES if after[name] > before[name] and BACKGROUND.get(name, operation) == operation]

    def wait_quiet(self):
        """Until no point has been passed for a moment."""
        last, since = self.failpoints.passed(), time.monotonic()
        while time.monotonic() < since + QUIET_SECONDS:
            time.sleep(0.02)
            now = self.failpoints.passed()
            if now != last:
                last, since = now, time.monotonic()
        return last

    def crash(self, operation, point):
        """The operation, until the daemon has died at that point; then there is a new one. False: it came by once, and
        now does not, since what the kernel remembers, or an orderly end, goes one way or the other."""
        for number in range(TRIES):
            steps = self.begin(operation, f"{point}.{number}")
            self.failpoints.arm(point)
            collections.deque(steps, maxlen=0)
            dead = self.died()
            log = self.mount.log()
            self.restart()
            if dead:
                assert log.rstrip().endswith(f"failpoint: {point}"), log
                return True
        return False

    def died(self):
        """By kill -9, and not by its own decision."""
        with contextlib.suppress(AssertionError):
            return self.mount.wait(DEATH_SECONDS) == -signal.SIGKILL
        return False


class Crew:
    """Several such daemons, which share out the work: most of it is waiting."""

    def __init__(self, mounts, backend, room):
        # A store of its own for each: what is due in one, any of its mounts might do.
        self.all = [Crashes(mounts, f"{backend.url}{number}" if backend.name == "sqlite" else backend.url,
                            Failpoints(room / f"failpoints{number}")) for number in range(DAEMONS)]
        self.pool = concurrent.futures.ThreadPoolExecutor(DAEMONS)  # a daemon ends with the thread that started it

    def share(self, function, work):
        """function(daemon, *words) for each of work; the results in its order."""
        free = queue.SimpleQueue()
        for each in self.all:
            free.put(each)

        def do(words):
            crashes = free.get()
            try:
                return function(crashes, *words)
            finally:
                free.put(crashes)

        return list(self.pool.map(do, work))

    def close(self):
        for each in self.all:
            each.mount.close()
        self.pool.shutdown()

    def empty(self, mounts):
        """What was left, read by the program that is installed: [(case, what was found)]."""
        after = {url: mounts.add(url, {**PATIENT, "backoff_base": "300ms"}) for url in {each.mount.url for each in self.all}}
        cases = [(after[each.mount.url], case) for each in self.all for case in each.cases]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return list(zip([case for _, case in cases], pool.map(lambda pair: empty(*pair), cases)))


# -- accounting -------------------------------------------------------------

def empty(mount, case):
    """All that is in the case's queues, (body, message-id) of each, until they are empty."""
    found = []
    queues = [mount.queue(name) for name in case.queues]

    def collect(directory, body, remove):
        with contextlib.suppress(OSError):
            one = (body.read_text().strip(), os.getxattr(directory, "user.mqfs.message-id").decode())
            remove(directory)
            found.append(one)

    def is_empty(queue):
        for name in queue.names("dead"):
            collect(queue.dead / name, queue.dead / name / "body", os.rmdir)
        for name in queue.names("retry"):
            case.attempt(os.rename, queue.retry / name, queue.pending / name)
        for name in queue.names("pending"):
            case.attempt(os.rename, queue.pending / name, queue.claimed / name)
        for name in queue.names("claimed"):
            collect(queue.claimed / name, queue.claimed / name, os.unlink)
        return not any(queue.stats()[key] for key in ("ready", "retry", "dead", "pending", "claimed"))

    def complete():
        return all([is_empty(queue) for queue in queues]) and case.kept <= {body for body, _ in found}

    try:
        eventually(complete, 45, "the end")
    except AssertionError:
        stats = [(queue.path / "stats").read_text() for queue in queues]
        raise AssertionError(f"{case.name}: {case.kept} among {found}; {stats}") from None
    return found


def account(case, found, exact):
    """What is wrong with what was found."""
    problems = []
    if strangers := {body for body, _ in found} - case.kept - case.unknown:
        problems.append(f"{case.name}: never written: {strangers}")
    ids = collections.defaultdict(list)
    for body, message_id in found:
        ids[body].append(message_id)
    for body, each in ids.items():
        if len(set(each)) != 1 or len(each) > (1 if exact else 2):
            problems.append(f"{case.name}: {body} came as {each}")
    return problems


@pytest.mark.deadline(300)
def test_every_crash_point(backend, backend_name, mounts, room):
    """R2, tenet 1: wherever mqfs dies, nothing that was accepted is lost."""
    crew = Crew(mounts, backend, room)
    operations = OPERATIONS[backend_name]
    reached = crew.share(Crashes.passes, [(operation,) for operation in operations])
    pairs = [(operation, point) for operation, points in zip(operations, reached) for point in points]
    died = [pair for pair, dead in zip(pairs, crew.share(Crashes.crash, pairs)) if dead]
    skipped = {name for name in NAMES if not name.startswith(OTHERS[backend_name])} - {point for _, point in died}
    assert not skipped, f"no operation dies at {sorted(skipped)}"
    assert len(died) > 0.9 * len(pairs), f"{set(pairs) - set(died)}"
    crew.close()

    left = crew.empty(mounts)
    print(f"{len(died)} crashes of {len(pairs)}: {sum(len(case.kept) for case, _ in left)} messages accepted,"
          f" {sum(len(found) for _, found in left)} found")
    problems = [problem for case, found in left for problem in account(case, found, exact=backend_name == "sqlite")]
    assert not problems, "\n".join(problems)


def test_nothing_of_it_is_installed():
    """The program that is installed has no failpoints; the one of these tests has them all."""
    def mentions(path):
        return [name for name in (*NAMES, "MQFS_FAILPOINT") if name.encode() in path.read_bytes()]

    assert mentions(pathlib.Path(daemon_path())) == []
    assert "failpoint" not in run(["nm", daemon_path()]).out
    assert mentions(pathlib.Path(failing_daemon_path())) == [*NAMES, "MQFS_FAILPOINT"]
