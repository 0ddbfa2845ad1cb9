# SPDX-License-Identifier: MIT
"""What goes on in a mount while its broker misbehaves, each from a process of its own: somebody who publishes,
somebody who works, somebody who only looks; and the ledger of it."""

import contextlib
import dataclasses
import os
import signal
import sys
import time

from processes import eventually, kill_group, spawn

# Every line that they write: kind number outcome begin seconds (monotonic, which all processes share).
COMMON = """
import errno, os, sys, time
os.chdir(sys.argv[1])
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

def note(kind, what, outcome, began):
    os.write(log, f"{kind} {what} {outcome} {began:.3f} {time.monotonic() - began:.3f}\\n".encode())

def attempt(kind, what, action, *arguments):
    began, outcome, answer = time.monotonic(), "ok", None
    try:
        answer = action(*arguments)
    except OSError as error:
        outcome = errno.errorcode[error.errno]
    note(kind, what, outcome, began)
    return outcome == "ok", answer
"""

PUBLISHER = COMMON + """
def write(name, text):
    with open(name, "wb", buffering=0) as file:
        file.write(text)

number = 0
while True:
    number += 1
    name, body = f"new/{number}", b"%d" % number
    if sys.argv[3] == "close":
        done, _ = attempt("close", number, write, name, body)
    else:
        write(f"new/.{number}", body)
        done, _ = attempt("rename", number, os.rename, f"new/.{number}", name)
        name = f"new/.{number}"
    if not done:
        try:
            os.unlink(name)  # it would wait in new/ to be sent again
        except OSError:
            pass
    time.sleep(0.01)
"""

# It ends when it is asked to, since what it did in the moment of a kill nobody could tell.
WORKER = COMMON + """
import signal
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
asked = []
while not asked:
    done, names = attempt("list", "pending", os.listdir, "pending")
    for name in names or ():
        def read():
            with open(f"pending/{name}", "rb", buffering=0) as file:
                return file.read()
        done, body = attempt("take", name, read)
        if done:
            attempt("rm", int(body), os.unlink, f"pending/{name}")
    time.sleep(0.01)
"""

# What it measures is without the time for which a busy machine kept it, or the mount's daemon, from running.
OBSERVER = COMMON + """
def waited():
    total = 0
    for process in os.getpid(), daemon:
        for thread in os.listdir(f"/proc/{process}/task"):
            try:
                total += int(open(f"/proc/{process}/task/{thread}/schedstat").read().split()[1])
            except OSError:
                pass  # it has ended
    return total / 1e9

def look(kind, path, action):
    before, began, outcome = waited(), time.monotonic(), "ok"
    try:
        action(path)
    except OSError as error:
        outcome = errno.errorcode[error.errno]
    took = time.monotonic() - began - (waited() - before)
    if took > 0.1:
        os.write(log, f"{kind} {path} {outcome} {began:.3f} {took:.3f}\\n".encode())

daemon = int(sys.argv[3])
while True:
    for path in sys.argv[4:]:
        look("stat", path, os.stat)
        look("df", path, os.statvfs)
        if not path.endswith("stats"):
            look("ls", path, os.listdir)
    os.write(log, f"round - ok {time.monotonic():.3f} 0\\n".encode())
    time.sleep(0.02)
"""

LOOKED_AT = (".", "{queue}", "{queue}/new", "{queue}/pending", "{queue}/claimed", "{queue}/dead", "{queue}/stats")


LOOKS_A_ROUND = 3 * len(LOOKED_AT) - 1


@dataclasses.dataclass
class Line:
    kind: str
    what: str
    outcome: str
    began: float
    seconds: float

    @property
    def ended(self):
        return self.began + self.seconds


class Traffic:
    """Use as a context manager around the fault; then settle() and the asserts."""

    def __init__(self, queue, room, worker=True, by="close"):
        self.queue = queue
        self.room = room
        self.by = by
        self.with_worker = worker
        self.processes = {}

    def __enter__(self):
        self.start("publisher", PUBLISHER, self.queue.path, self.by)
        if self.with_worker:
            self.start_worker()
        paths = [path.format(queue=self.queue.name) for path in LOOKED_AT]
        mount = self.queue.mount
        self.start("observer", OBSERVER, mount.path, str(mount.process.pid), *paths)
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            kill_group(process)
        for process in self.processes.values():
            process.wait(10)

    def start_worker(self):
        self.start("worker", WORKER, self.queue.path)

    def start(self, name, script, directory, *arguments):
        words = [sys.executable, "-c", script, directory, self.room / name, *arguments]
        self.processes[name] = spawn(words)

    def end(self, name):
        process = self.processes.pop(name)
        process.terminate()
        process.wait(10)

    def lines(self, name):
        path = self.room / name
        if not path.exists():
            return []
        complete = path.read_text().rpartition("\n")[0]
        return [Line(*words[:3], float(words[3]), float(words[4]))
                for words in (line.split() for line in complete.splitlines())]

    # -- the ledger ---------------------------------------------------------

    def accepted(self):
        """The numbers of the messages for which the mount took responsibility."""
        return {int(line.what) for line in self.lines("publisher")
                if line.kind == self.by and line.outcome == "ok"}

    def handled(self):
        return [int(line.what) for line in self.lines("worker") if line.kind == "rm" and line.outcome == "ok"]

    def await_flow(self, more=20, seconds=10):
        """Publishes and handles that many more: it goes well."""
        published, handled = len(self.accepted()), len(self.handled())
        eventually(lambda: len(self.accepted()) >= published + more, seconds, f"{more} more published")
        if "worker" in self.processes:
            eventually(lambda: len(self.handled()) >= handled + more, seconds, f"{more} more handled")

    def await_recovery(self, since, seconds=10):
        """A message that was published since then was accepted and handled, in time."""
        def recovered():
            later = {int(line.what) for line in self.lines("publisher")
                     if line.kind == self.by and line.outcome == "ok" and line.began >= since}
            return later & set(self.handled())

        eventually(recovered, seconds - (time.monotonic() - since), "a message through the mount again")
        return time.monotonic() - since

    def is_felt(self, since):
        """Has a publisher been told of the fault, or does the outbox keep its messages?"""
        return bool(self.outcomes(since=since) - {"ok"}) or self.queue.stats()["outbox"] > 0

    def kept(self):
        """What is still listed in new/, since the broker refused it later than close() could say."""
        return {int(name) for name in self.queue.names("new") if name.isdigit()}

    def settle(self, forgiven=frozenset(), refusals=False, seconds=20):
        """Ends publishing, and waits until everything that was accepted has been handled, or (refusals) is listed with
        the reason why not. Looking goes on meanwhile."""
        self.end("publisher")
        missing = set()

        def complete():
            nonlocal missing
            missing = self.accepted() - set(self.handled()) - forgiven
            if refusals:
                missing -= self.kept()
            return not missing

        looks = len(self.lines("observer"))
        with contextlib.suppress(AssertionError):
            eventually(complete, seconds)
        eventually(lambda: len(self.lines("observer")) > looks + 3, 10, "the observer goes on looking")
        assert not missing, f"{len(missing)} of {len(self.accepted())} accepted messages are lost: {sorted(missing)[:20]}"
        return len(self.accepted()), len(self.handled()) - len(set(self.handled()))

    # -- what may not be ----------------------------------------------------

    def assert_prompt(self, publish_seconds, look_seconds=0.2):
        """Nothing waited longer than it may."""
        looks = self.lines("observer")
        made = LOOKS_A_ROUND * sum(line.kind == "round" for line in looks)
        slow = [line for line in looks if line.seconds > look_seconds]
        # A broker that is busy starting on a busy machine answers late now and then; a fault is there all the time.
        assert len(slow) < made / 100, f"{len(slow)} of {made} looks were slow: {slow[:20]}"
        assert all(line.seconds < 1.2 for line in slow), slow
        late = [line for line in self.lines("publisher") if line.seconds > publish_seconds + 0.5]
        assert not late, f"outlasted the deadline: {late[:5]}"
        late = [line for line in self.lines("worker") if line.seconds > 1]
        assert not late, f"the worker had to wait: {late[:5]}"

    def tell(self):
        """The last of what everybody did, for the message of a failure."""
        for name in ("publisher", "worker", "observer"):
            print(f"{name}:", *self.lines(name)[-12:], sep="\n  ")

    def outcomes(self, name="publisher", since=0.0, until=float("inf")):
        return {line.outcome for line in self.lines(name) if since <= line.began < until}


def dies_at_once(process, seconds=1.0):
    """kill -9, and it is gone."""
    began = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert time.monotonic() - began < seconds, "it could not be killed while it waited"
