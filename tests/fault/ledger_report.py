# SPDX-License-Identifier: MIT
"""What the ledger says at its end."""

import collections

from ledger_books import PUBLISHING, SECOND, stopped

# What an operation may take, in seconds, with a margin for a busy machine. A publishing close() has publish-timeout
# and a second for its parked request; a rename holds its directories for rename-timeout, and several wait in turn.
PUBLISH_SECONDS = 5 + 1 + 3
RENAME_SECONDS = 4 * 1 + 3
LOOK_SECONDS = 1
STATS_SECONDS = 0.5 + 1
PROMPT_SECONDS = 0.2
LATE_SHARE = 0.1
RENAMES = "looking at what renames hold"
STATS = "reading stats"  # asks the backend for half a second at most
LOOKS = {"ls-new": RENAMES, "ls-pending": RENAMES, "ls-claimed": RENAMES, "stats": STATS}
TIMELINES = 3
LOG_US = 10 * SECOND


def kind_of(entry):
    """The kind of operation that an entry tells of, None when it waits on purpose or on nobody."""
    if entry.event == "looked":
        return LOOKS.get(entry.task, "ls, stat and df")
    if entry.event in PUBLISHING:
        return "publishing"
    return "settling" if entry.took and entry.who[0] == "w" else None


LIMITS = {"publishing": PUBLISH_SECONDS, "settling": RENAME_SECONDS, "ls, stat and df": LOOK_SECONDS,
          STATS: STATS_SECONDS, RENAMES: RENAME_SECONDS}


NO_FAULT = "NO FAULT"
SENT_AGAIN = "sent again when the outcome was unknown"


def cause_of(duplicate):
    if duplicate.resent:
        return SENT_AGAIN + (f", {duplicate.cause.name}" if duplicate.cause else "")
    return duplicate.cause.name if duplicate.cause else NO_FAULT


class Report:
    def __init__(self, run):
        self.run = run
        self.books = run.books
        self.windows = run.faults.windows
        self.problems = list(run.problems)

    def at(self, time_us):
        return f"{(time_us - self.run.begin) / SECOND:.1f}"

    def messages(self):
        promised = self.books.promised()
        count = self.books.count
        seconds = max(1, (max(entry.time for entry in self.books.entries) - self.run.begin) / SECOND)
        print(f"messages {len(promised)} ({len(promised) / seconds:.0f}/s), refused {count['refused']}, "
              f"acknowledged {count['acked']}, failed {count['failed']}, forwarded {count['forwarded']}, "
              f"replayed {count['replayed']}")
        places = collections.Counter(place for found in self.books.stock.values() for place in found)
        print("left    ", ", ".join(f"{count} in {place}" for place, count in sorted(places.items())) or "nothing")
        if not promised or not count["acked"]:
            self.problems.append("there was no traffic")

    def faults(self):
        names = collections.Counter(window.name for window in self.windows)
        print(f"faults   {len(self.windows)}:", ", ".join(f"{name} {count}" for name, count in sorted(names.items())))

    def lost(self):
        lost = self.books.lost()
        unreported = [task for task in lost if self.books.unreported(task, self.windows)]
        lost = [task for task in lost if task not in set(unreported)]
        print(f"lost     {len(lost)}" + (f" (and {len(unreported)} whose shell could not be told that mqfs was killed)"
                                         if unreported else ""))
        if lost:
            self.problems.append(f"{len(lost)} messages were lost: {' '.join(lost[:50])}")
        for task in lost[:TIMELINES]:
            self.timeline(task)

    def duplicates(self):
        duplicates = self.books.duplicates(self.windows)
        causes = collections.Counter(cause_of(one) for one in duplicates)
        print(f"duplicates {len(duplicates)}" + (": " if causes else "") +
              ", ".join(f"{name} {count}" for name, count in sorted(causes.items())))
        for one in duplicates:
            moment = f" at {self.at(one.cause.begin)}" if one.cause else ""
            print(f"    {one.task}: {cause_of(one)}{moment}; {self.summary(one)}")
        unexplained = [one.task for one in duplicates if cause_of(one) == NO_FAULT]
        if unexplained:
            self.problems.append(f"{len(unexplained)} duplicates without a fault: {' '.join(unexplained)}")
        for task in [one.task for one in duplicates] if self.run.options.verbose else unexplained[:TIMELINES]:
            self.timeline(task)

    def summary(self, duplicate):
        acked = [f"{entry.who}@{entry.mount} {self.at(entry.time)}" for entry in duplicate.entries
                 if entry.event == "acked"]
        return " and ".join([*(f"acknowledged by {one}" for one in acked),
                             *(f"left in {place}" for place in self.books.stock.get(duplicate.task, []))])

    def misplaced(self):
        """What always fails is dead in the end; what is torn should not have been sent."""
        promised = self.books.promised()
        alive = [task for task in promised if task.endswith(".poison") and self.books.acknowledged(task)]
        torn = [entry for entry in self.books.entries if entry.event == "torn"]
        for tasks, text in ((alive, "always failed, and yet acknowledged"), (self.books.two_ids(), "two message-ids"),
                            (self.books.denied(), "refused for certain, and yet there")):
            if tasks:
                self.problems.append(f"{text}: {' '.join(tasks[:20])}")
            for task in tasks[:TIMELINES]:
                self.timeline(task)
        if torn:
            self.problems.append(f"not whole: {' '.join(entry.task for entry in torn[:20])}")

    def stalls(self):
        for kind, limit in LIMITS.items():
            took, entry = self.books.longest(lambda entry, kind=kind: kind_of(entry) == kind, self.windows)
            if not entry:
                continue
            print(f"longest  {took / SECOND:.3f} s {kind}: {entry} on {entry.mount} at {self.at(entry.started)}"
                  f"{self.meanwhile(entry)}")
            if took > limit * SECOND:
                self.problems.append(f"{kind} took {took / SECOND:.1f} s: {entry} at {self.at(entry.started)}")
        looks = [entry for entry in self.books.entries if kind_of(entry) == "ls, stat and df"]
        all_looks = collections.Counter(entry.task for entry in looks)
        late = collections.Counter(entry.task for entry in looks
                                   if entry.took - stopped(entry, self.windows) > PROMPT_SECONDS * SECOND)
        counts = ", ".join(f"{name} {count}" for name, count in sorted(late.items()))
        print(f"         over {PROMPT_SECONDS} s: {counts or 'none'}")
        for name, count in late.items():
            # A busy machine holds up some; what waits for the broker does so for as long as a fault lasts.
            if count > LATE_SHARE * all_looks[name]:
                self.problems.append(f"{name} took over {PROMPT_SECONDS} s {count} times of {all_looks[name]}")

    def meanwhile(self, entry):
        names = [window.name for window in self.windows if window.overlap(entry.started, entry.time)]
        return f" during {', '.join(names)}" if names else ""

    def recovery(self):
        if self.run.recoveries:
            took, window = max(self.run.recoveries, key=lambda pair: pair[0])
            print(f"recovery {took:.1f} s at most, after {window.name} at {self.at(window.begin)}")

    def timeline(self, task):
        print(f"  -- {task}")
        entries = self.books.by_task[task]
        begin, end = min(entry.started for entry in entries) - LOG_US, max(entry.time for entry in entries) + LOG_US
        lines = [(entry.time, str(entry) + f" @{entry.mount}") for entry in entries]
        lines += [(entry.time, f"mqfs of {entry.mount}: {entry.more}") for entry in self.books.entries
                  if entry.event == "says" and begin < entry.time < end]
        for window in self.windows:
            if window.overlap(begin, end):
                lines += [(window.begin, f"{window.name} of {', '.join(window.mounts)} begins")]
                lines += [(window.end, f"{window.name} of {', '.join(window.mounts)} ends")]
        for time_us, line in sorted(lines):
            print(f"     {self.at(time_us)} {line}")

    def all(self):
        self.messages()
        self.faults()
        self.lost()
        self.duplicates()
        self.misplaced()
        self.stalls()
        self.recovery()
        for problem in self.problems:
            print(f"PROBLEM  {problem}")
        print(f"ledger: {'FAILED' if self.problems else 'passed'}, seed {self.run.options.seed}", flush=True)
        return 1 if self.problems else 0


def report(run):
    return Report(run).all()
