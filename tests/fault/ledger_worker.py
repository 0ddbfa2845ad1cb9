#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A worker of the ledger that waits at `claim`: ledger_worker.py NAME QUEUE JOURNAL MARKS"""

import os
import random
import sys
import time

from ledger_journal import Journal, now
from ledger_tasks import kind_of, read_task

TROUBLE_SECONDS = 0.2
MOVES = {"back": ("returned", "pending"), "bury": ("buried", "dead"), "replay": ("buried", "dead"),
         "forward": ("forwarded", "../archive/new")}


class Worker:
    def __init__(self, queue, journal, marks):
        self.queue = queue
        self.journal = journal
        self.marks = marks

    def read(self, name):
        with open(f"{self.queue}/{name}", "rb", buffering=0) as file:
            return file.read()

    def first_time(self, task):
        path = f"{self.marks}/{task}"
        if os.path.exists(path):
            return False
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        return True

    def one(self):
        name = self.read("claim").decode().rstrip("\n")
        if not name:
            return
        started = now()
        body = self.read(f"claimed/{name}")
        task = read_task(body)
        message_id = os.getxattr(f"{self.queue}/claimed/{name}", "user.mqfs.message-id").decode()
        self.journal.note("taken", task or "-", started, f"{name} {message_id}")
        if task is None:
            self.journal.note("torn", body[:40].split(b"\n")[0].decode(errors="replace") or "-")
        self.settle(name, task or "-")

    def settle(self, name, task):
        kind = kind_of(task)
        claimed = f"{self.queue}/claimed/{name}"
        if kind == "slow":
            time.sleep(random.random())
        if task == "-" or kind == "poison" or (kind == "once" and self.first_time(task)):
            self.fail(claimed, name, task)
        elif kind in ("bury", "forward") or (kind == "back" and self.first_time(task)) or (
                kind == "replay" and not os.path.exists(f"{self.marks}/{task}")):
            event, where = MOVES[kind]
            target = f"{self.queue}/{where}/{name}"
            self.journal.attempt(event, f"not-{event}", task, os.rename, claimed, target)
        else:
            self.journal.note("done", task)
            self.journal.attempt("acked", "not-acked", task, os.unlink, claimed)

    def fail(self, claimed, name, task):
        try:
            with open(f"{claimed}.error", "w", encoding="ascii") as file:
                file.write("it is one of those that fail\n")
        except OSError as error:
            self.journal.note("no-reason", task, more=os.strerror(error.errno))
        self.journal.attempt("failed", "not-failed", task, os.rename, claimed, f"{self.queue}/retry/{name}")


def main():
    _, queue, journal_path, marks = sys.argv[1:]
    worker = Worker(queue, Journal(journal_path), marks)
    while True:
        try:
            worker.one()
        except OSError as error:
            worker.journal.note("trouble", more=error)
            time.sleep(TROUBLE_SECONDS)


if __name__ == "__main__":
    main()
