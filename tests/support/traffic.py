# SPDX-License-Identifier: MIT
"""What goes on in a mount while its broker misbehaves, each from a process of its own: somebody who publishes,
somebody who works, somebody who only looks; and the ledger of it."""

import contextlib
import dataclasses
import sys
import time

from processes import eventually, kill_group, spawn

# Every line that they write: kind number outcome begin seconds (begin by the monotonic clock, which all processes share;
# the seconds are without the time for which a busy machine kept the process, or the mount's daemon, from running).
COMMON = """
import errno, os, sys, time
os.chdir(sys.argv[1])
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
daemon = int(sys.argv[3])

def waited():
    total = 0
    for process in os.getpid(), daemon:
        for thread in os.listdir(f"/proc/{process}/task"):
            try:
                total += int(open(f"/proc/{process}/task/{thread}/schedstat").read().split()[1])
            except OSError:
                pass  # it has ended
    return total / 1e9

def measure(action, *arguments):
    before, began, outcome, answer = waited(), time.monotonic(), "ok", None
    try:
        answer = action(*arguments)
    except OSError as error:
        outcome = errno.errorcode[error.errno]
    took = time.monotonic() - began
    return outcome, answer, began, max(0, took - (waited() - before))

def note(kind, what, outcome, began, took):
    os.write(log, f"{kind} {what} {outcome} {began:.3f} {took:.3f}\\n".encode())

def attempt(kind, what, action, *arguments):
    outcome, answer, began, took = measure(action, *arguments)
    note(kind, what, outcome, began, took)
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
    if number % 2:
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
    time.sleep(float(sys.argv[4]))
"""

# Most messages it acknowledges; of ten one is first retried, one buried and replayed, one given back, one forwarded and
# acknowledged there; and now and then it reads `next`. It ends when it is asked to, since what it did in the moment of a
# kill nobody could tell.
WORKER = COMMON + """
import signal
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
asked = []
other = sys.argv[4]
PLACES = {1: ("retry", "retry"), 3: ("bury", "dead"), 5: ("back", "pending"), 7: ("forward", f"{other}/new")}
moved, mine = set(), {}

def read(path):
    with open(path, "rb", buffering=0) as file:
        return file.read()

def listed(where):
    return attempt("list", where, os.listdir, where)[1] or ()

def settle(name, number):
    kind, where = PLACES.get(number % 10, ("", ""))
    if not kind or number in moved:
        attempt("rm", number, os.unlink, f"pending/{name}")
        return
    moved.add(number)
    mine[name] = number
    attempt(kind, number, os.rename, f"pending/{name}", f"{where}/{name}")

def work():
    for name in listed("pending"):
        done, body = attempt("take", name, read, f"pending/{name}")
        if done:
            settle(name, int(body))

# What could not be moved is listed as claimed again.
def sweep():
    for name in listed("claimed"):
        if name in mine:
            attempt("rm", mine[name], os.unlink, f"claimed/{name}")

def work_there():
    for name in listed(f"{other}/pending"):
        done, body = attempt("take", name, read, f"{other}/pending/{name}")
        if done:
            attempt("rm", int(body), os.unlink, f"{other}/pending/{name}")

def replay():
    done, names = attempt("look", "dead", os.listdir, "dead")
    for name in names or ():
        try:
            number = int(read(f"dead/{name}/body"))
        except OSError:
            continue  # it has just left
        moved.add(number)
        attempt("replay", number, os.rename, f"dead/{name}", f"new/{name}")

def read_next():
    def read_it():
        descriptor = os.open("next", os.O_RDONLY | os.O_NONBLOCK)
        try:
            body = os.read(descriptor, 100)
            return body if os.read(descriptor, 100) == b"" else None
        finally:
            os.close(descriptor)
    outcome, body, began, took = measure(read_it)
    note("next", int(body) if body else "-", outcome if body else "EAGAIN", began, took)

rounds = 0
while not asked:
    rounds += 1
    work()
    sweep()
    work_there()
    if rounds % 10 == 0:
        read_next()
    if rounds % 20 == 0:
        replay()
    time.sleep(0.01)
sweep()
"""

OBSERVER = COMMON + """
def look(kind, path, action):
    outcome, _, began, took = measure(action, path)
    if took > 0.1:
        note(kind, path, outcome, began, took)

while True:
    for path in sys.argv[4:]:
        look("stat", path, os.stat)
        look("df", path, os.statvfs)
        if not path.endswith("stats"):
            look("ls", path, os.listdir)
    note("round", "-", "ok", time.monotonic(), 0)
    time.sleep(0.02)
"""

LOOKED_AT = (".", ".mqfs", *(f"{{queue}}{place}" for place in (
    "", "/new", "/pending", "/claimed", "/peek", "/retry", "/dead", "/stats")))
LOOKS_A_ROUND = 3 * len(LOOKED_AT) - 1


RENAME_SECONDS = 1  # the default of rename-timeout; so long a publishing or forwarding rename holds its directories:
HELD = ("/new", "/pending", "/dead")


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
    """Use as a context manager around the fault; then settle() and the asserts. What is forwarded goes to `other`; the
    publisher sleeps for `pause` seconds after each message."""

    def __init__(self, queue, other, room, pause=0.01):
        self.pause = pause
        self.queue = queue
        self.other = other
        self.room = room
        self.processes = {}

    def __enter__(self):
        self.start("publisher", PUBLISHER, self.queue.path, str(self.pause))
        self.start_worker()
        self.start("observer", OBSERVER, self.queue.mount.path,
                   *(path.format(queue=self.queue.name) for path in LOOKED_AT))
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            kill_group(process)
        for process in self.processes.values():
            process.wait(10)

    def start_worker(self):
        self.start("worker", WORKER, self.queue.path, f"../{self.other.name}")

    def start(self, name, script, directory, *arguments):
        words = [sys.executable, "-c", script, directory, self.room / name, str(self.queue.mount.process.pid), *arguments]
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
                if line.outcome == "ok"}

    def handled(self):
        return [int(line.what) for line in self.lines("worker") if line.kind in ("rm", "next") and line.outcome == "ok"]

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
                     if line.outcome == "ok" and line.began >= since}
            return later & set(self.handled())

        eventually(recovered, seconds - (time.monotonic() - since), "a message through the mount again")
        return time.monotonic() - since

    def is_felt(self, since):
        """Has a publisher been told of the fault, or does the outbox keep its messages?"""
        return bool(self.outcomes(since=since) - {"ok"}) or self.queue.stats()["outbox"] > 0

    def kept(self):
        """What is still listed in new/, since the broker refused it later than close() could say."""
        return {int(name) for name in self.queue.names("new") if name.isdigit()}

    def settle(self, forgiven=frozenset(), refusals=False, seconds=40):
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
        held = [line for line in looks if line.kind == "ls" and line.what.endswith(HELD)]
        # One after the other: the publisher's and the worker's.
        assert all(line.seconds < 2 * RENAME_SECONDS + 0.5 for line in held), held
        slow = [line for line in looks if line.seconds > look_seconds and line not in held]
        # A broker that is busy starting on a busy machine answers late now and then; a fault is there all the time.
        assert len(slow) < made / 100, f"{len(slow)} of {made} looks were slow: {slow[:20]}"
        assert all(line.seconds < 1.2 for line in slow), slow
        limits = {"close": publish_seconds + RENAME_SECONDS, "look": 1, "forward": RENAME_SECONDS,
                  "rename": 2 * RENAME_SECONDS, "replay": 2 * RENAME_SECONDS}
        late = [line for name in ("publisher", "worker") for line in self.lines(name)
                if line.seconds > limits.get(line.kind, 0.5) + 0.5]
        assert not late, f"outlasted the deadline: {late[:5]}"

    def kinds(self):
        """What succeeded at least once."""
        return {line.kind for name in ("publisher", "worker") for line in self.lines(name) if line.outcome == "ok"}

    def tell(self):
        """The last of what everybody did, for the message of a failure."""
        for name in ("publisher", "worker", "observer"):
            print(f"{name}:", *self.lines(name)[-12:], sep="\n  ")

    def outcomes(self, name="publisher", since=0.0, until=float("inf")):
        return {line.outcome for line in self.lines(name) if since <= line.began < until}


def dies_at_once(process, seconds=2.0):
    """kill -9, and it is gone."""
    began = time.monotonic()
    process.kill()
    process.wait(10)
    assert time.monotonic() - began < seconds, "it could not be killed while it waited"
