#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A producer of the ledger that looks at what close() says.

    ledger_producer.py NAME QUEUE JOURNAL SEED RATE

What was refused it sends again by `mv new/x new/y` (P7), and takes back when that does not help."""

import itertools
import os
import random
import sys
import time

from ledger_journal import Journal
from ledger_tasks import draw_kind, draw_body

RESENDS = 20
RESEND_SECONDS = 0.5


def write(path, body):
    with open(path, "wb", buffering=0) as file:
        file.write(body)


def send_again(journal, queue, task):
    """True once it was accepted, or is gone (its mount may have died)."""
    source, target = f"{queue}/new/{task}", f"{queue}/new/{task}.again"
    if not os.path.lexists(source):
        source, target = target, source
    if not os.path.lexists(source):
        return True
    return journal.attempt("accepted", "refused", task, os.rename, source, target) == 0


def give_up(journal, queue, task):
    for name in (task, f"{task}.again"):
        path = f"{queue}/new/{name}"
        if os.path.lexists(path):
            journal.attempt("withdrawn", "not-withdrawn", task, os.unlink, path)


def produce(journal, queue, task, body):
    journal.note("sent", task)
    if journal.attempt("accepted", "refused", task, write, f"{queue}/new/{task}", body) == 0:
        return
    for _ in range(RESENDS):
        time.sleep(RESEND_SECONDS)
        if send_again(journal, queue, task):
            return
    give_up(journal, queue, task)


def main():
    name, queue, journal_path, seed, rate = sys.argv[1:]
    chance = random.Random(seed)
    journal = Journal(journal_path)
    for number in itertools.count(1):
        kind = draw_kind(chance)
        task = f"{name}-{number:06d}.{kind}"
        produce(journal, queue, task, draw_body(chance, task))
        time.sleep(chance.uniform(0.5, 1.5) / float(rate))


if __name__ == "__main__":
    main()
