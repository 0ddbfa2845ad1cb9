# SPDX-License-Identifier: MIT
"""The tasks of the ledger: what a body says, and what a worker is to do with it.

A body's first line is the task's name, PRODUCER-NUMBER.KIND, which is the name of its file too; the
rest is padding that ends in the word `end`, so that half a body shows."""

# How many of a hundred:
KINDS = {
    "once": 5,      # fails the first time
    "slow": 4,      # takes up to a second
    "forward": 3,   # is moved on to another queue
    "back": 2,      # is given back the first time
    "poison": 2,    # fails each time: must end in dead/
    "bury": 1,      # is moved to dead/ at once
    "replay": 1,    # is moved to dead/, and done after the operator had it published afresh
}
END = b"end\n"


def draw_kind(chance):
    number = chance.randrange(100)
    for kind, share in KINDS.items():
        if number < share:
            return kind
        number -= share
    return "ok"


def draw_body(chance, task):
    padding = 70000 if chance.random() < 0.01 else chance.randrange(2000)
    return task.encode() + b"\n" + b"x" * padding + b"\n" + END


def kind_of(task):
    return task.rpartition(".")[2]


def read_task(body):
    """The task's name, None when the body isn't whole."""
    first, newline, _ = body.partition(b"\n")
    return first.decode(errors="replace") if newline and body.endswith(END) else None
