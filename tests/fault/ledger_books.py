# SPDX-License-Identifier: MIT
"""The books of the ledger: every line of every journal, and what follows from them."""

import collections
import dataclasses

SECOND = 1000000

# A producer was told that it is safe; `unheard`: a shell that can't be told otherwise by close().
PROMISES = ("accepted", "unheard")
# The outcome of these is unknown to the writer too: the message may have arrived. All others say that it did not.
UNKNOWN = ("Connection timed out", "Software caused connection abort", "Transport endpoint is not connected",
           "Input/output error", "sent meanwhile")
PUBLISHING = ("accepted", "unheard", "refused", "replayed", "not-replayed")
WITHOUT_PLACE = "-"
# How long after a fault its consequences may show: what the broker or a lease gives back.
AFTERMATH_US = 15 * SECOND
BEFORE_US = SECOND


@dataclasses.dataclass(slots=True)
class Entry:
    """A line of a journal."""

    time: int
    who: str
    mount: str
    event: str
    task: str
    took: int
    more: str

    @property
    def started(self):
        return self.time - self.took

    def __str__(self):
        return f"{self.who:12} {self.event} {self.task} ({self.took / SECOND:.3f} s) {self.more}".rstrip()


@dataclasses.dataclass(slots=True)
class Duplicate:
    """`cause` is the Window that explains it; `resent`: its producer was told that nobody knows, and sent it again."""

    task: str
    entries: list
    resent: bool
    cause: object


class Books:
    """Reads journals as they grow."""

    def __init__(self, directory):
        self.directory = directory
        self.entries = []
        self.by_task = collections.defaultdict(list)
        self.count = collections.Counter()
        self.latest = {}  # (event, mount) -> time
        self.stock = collections.defaultdict(list)  # task -> places it was found in at the end
        self._read = {}

    # -- taking down --------------------------------------------------------

    def read(self):
        for path in sorted(self.directory.iterdir()):
            name, _, life = path.name.partition("@")
            mount, _, life = life.partition(".")
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    self._take_down(f"{name}.{life}", mount, line.decode(errors="replace"))

    def _take_down(self, who, mount, line):
        time, event, task, took, *more = line.split(maxsplit=4)
        self.add(Entry(int(time), who, mount, event, task, int(took), more[0].strip() if more else ""))

    def add(self, entry):
        self.entries.append(entry)
        self.count[entry.event] += 1
        key = entry.event, entry.mount
        self.latest[key] = max(self.latest.get(key, 0), entry.started)
        if entry.task != WITHOUT_PLACE:
            self.by_task[entry.task].append(entry)

    def found(self, place, task):
        self.stock[task].append(place)

    def delivered(self, task):
        """Where it was found, but for drafts: those are nobody's message yet."""
        return [place for place in self.stock.get(task, []) if not place.startswith("new/")]

    # -- what became of a message ------------------------------------------

    def promised(self):
        return [task for task, entries in self.by_task.items() if any(entry.event in PROMISES for entry in entries)]

    def accounted(self, task):
        return bool(self.stock.get(task) or self.acknowledged(task) or self._interrupted(task))

    def acknowledged(self, task):
        return sum(1 for entry in self.by_task[task] if entry.event == "acked")

    def _interrupted(self, task):
        """A worker that was killed between deciding on rm and noting how that went."""
        last = {}
        for entry in self.by_task[task]:
            last[entry.who] = entry
        return any(entry.event == "done" for entry in last.values())

    def lost(self):
        return [task for task in self.promised() if not self.accounted(task)]

    def unreported(self, task, windows):
        """A shell's redirection swallowed that mqfs was killed before its close() was answered."""
        entries = self.by_task[task]
        sent = next((entry.time for entry in entries if entry.event == "sent"), None)
        heard = [entry for entry in entries if entry.event in PROMISES]
        return all(entry.event == "unheard" for entry in heard) and any(
            window.name in ("mqfs-kill", "mqfs-term") and entry.mount in window.mounts and
            window.overlap((sent or entry.started) - BEFORE_US // 10, entry.time + 1)
            for entry in heard for window in windows)

    def duplicates(self, windows):
        found = []
        for task, entries in self.by_task.items():
            entries = sorted(entries, key=lambda entry: entry.time)
            acked = [entry.time for entry in entries if entry.event == "acked"]
            again = [entry for entry in entries if acked and entry.event == "taken" and entry.started > acked[0]]
            if len(acked) + len(self.delivered(task)) > 1 or again:
                found.append(Duplicate(task, entries, resent(entries), explain(entries, windows)))
        return found

    def denied(self):
        """Tasks that were refused for certain each time, and yet arrived."""
        return [task for task, entries in self.by_task.items()
                if any(entry.event == "refused" for entry in entries) and
                not any(entry.event in PROMISES for entry in entries) and
                not any(entry.event == "refused" and entry.more in UNKNOWN for entry in entries) and
                (self.delivered(task) or any(entry.event == "taken" for entry in entries))]

    def two_ids(self):
        """Tasks that came with different message-ids, unless they were published afresh."""
        found = []
        for task, entries in self.by_task.items():
            ids = {entry.more.split()[1] for entry in entries if entry.event == "taken" and " " in entry.more}
            if len(ids) > 1 and not any(entry.event == "replayed" for entry in entries):
                found.append(task)
        return found

    # -- how long things took ----------------------------------------------

    def longest(self, wanted, windows):
        """The entry that took longest, without the time in which its mount was stopped; (microseconds, entry)."""
        best = (0, None)
        for entry in self.entries:
            if wanted(entry) and entry.took > best[0]:
                took = entry.took - stopped(entry, windows)
                if took > best[0]:
                    best = (took, entry)
        return best


def stopped(entry, windows):
    return sum(window.overlap(entry.started, entry.time) for window in windows
               if window.stopped and entry.mount in window.mounts)


def resent(entries):
    return any(entry.event == "refused" and entry.more in UNKNOWN for entry in entries) and any(
        entry.event in PROMISES for entry in entries)


def explain(entries, windows):
    """The fault that hit the message: the last one that was there when something was done with it. (The end of a
    worker settles nothing, so it explains nothing.)"""
    cause = None
    for window in windows:
        if window.name == "worker-kill":
            continue
        reach = (window.end or entries[-1].time) + AFTERMATH_US
        if any(entry.time > window.begin - BEFORE_US and entry.started < reach for entry in entries):
            cause = window
    return cause
