#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Somebody who looks at a mount all the time, as `ls`, `stat` and `df` do: ledger_probe.py NAME MOUNT JOURNAL

Notes the longest of each kind every second."""

import os
import sys
import time

from ledger_journal import Journal, now

PAUSE_SECONDS = 0.1
ROUNDS = 10


def read(path):
    with open(path, "rb", buffering=0) as file:
        return file.read()


def main():
    _, mount, journal_path = sys.argv[1:]
    journal = Journal(journal_path)
    queue = f"{mount}/jobs"
    looks = {"df": (os.statvfs, mount), "ls-root": (os.listdir, mount), "ls-queue": (os.listdir, queue),
             "stat": (os.stat, f"{queue}/pending"), "stats": (read, f"{queue}/stats"),
             "ls-new": (os.listdir, f"{queue}/new"), "ls-pending": (os.listdir, f"{queue}/pending"),
             "ls-claimed": (os.listdir, f"{queue}/claimed")}
    while True:
        longest = {}
        for _ in range(ROUNDS):
            for name, (look, path) in looks.items():
                started = now()
                try:
                    look(path)
                except OSError:  # nothing is mounted just now
                    continue
                ended = now()
                longest[name] = max(longest.get(name, (0, 0, 0)), (ended - started, started, ended))
            time.sleep(PAUSE_SECONDS)
        for name, (_, started, ended) in longest.items():
            journal.note("looked", name, started, ended=ended)


if __name__ == "__main__":
    main()
