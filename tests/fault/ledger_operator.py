#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The operator of the ledger, who replays what lies in dead/ and hurries what waits in retry/:
ledger_operator.py NAME QUEUE JOURNAL MARKS"""

import os
import sys
import time

from ledger_journal import Journal

PAUSE_SECONDS = 10
AT_ONCE = 20


def listed(journal, path):
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        journal.note("trouble", more=error)
        return []


def task_of(name):
    """Names there are PRODUCER-NUMBER.KIND behind a stamp, perhaps with ~2 for a twin."""
    return name.partition("-")[2].removesuffix(".again").partition("~")[0]


def main():
    _, queue, journal_path, marks = sys.argv[1:]
    journal = Journal(journal_path)
    while True:
        time.sleep(PAUSE_SECONDS)
        for name in [name for name in listed(journal, f"{queue}/dead") if ".replay" in name][:AT_ONCE]:
            task = task_of(name)
            os.close(os.open(f"{marks}/{task}", os.O_CREAT | os.O_WRONLY, 0o600))
            journal.attempt("replayed", "not-replayed", task, os.rename, f"{queue}/dead/{name}", f"{queue}/new/{task}")
        for name in listed(journal, f"{queue}/retry")[:1]:
            journal.attempt("hurried", "not-hurried", task_of(name), os.rename,
                            f"{queue}/retry/{name}", f"{queue}/pending/{name}")


if __name__ == "__main__":
    main()
