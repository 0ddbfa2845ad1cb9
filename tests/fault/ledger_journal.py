# SPDX-License-Identifier: MIT
"""What a producer or worker of the ledger did, a line each, in a file that nobody but it appends to:

    MICROSECONDS EVENT ID TOOK [MORE]

MICROSECONDS since 1970 when it was over, ID `-` if it concerns no message, TOOK how long it took in
microseconds. The shell programs write the same with printf."""

import os
import time


def now():
    return time.time_ns() // 1000


class Journal:
    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, event, task="-", started=None, more="", ended=None):
        time_us = ended or now()
        took = time_us - started if started else 0
        text = " ".join(str(more).split())
        os.write(self._file, f"{time_us} {event} {task} {took} {text}\n".encode(errors="replace"))

    def attempt(self, good, bad, task, action, *arguments):
        """Does it and notes how that went: the errno, 0 if well."""
        started = now()
        try:
            action(*arguments)
        except OSError as error:
            self.note(bad, task, started, os.strerror(error.errno))
            return error.errno
        self.note(good, task, started)
        return 0
