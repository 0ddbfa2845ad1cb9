# SPDX-License-Identifier: MIT
"""Running other programs without ever hanging, and waiting for what they do."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import time

SHELLS = {
    "bash": ("bash", "--norc", "-c"),
    "dash": ("dash", "-c"),
    "busybox": ("busybox", "sh", "-c"),
}


@dataclasses.dataclass
class Result:
    """How a program ended. A signal shows as a negative status."""

    status: int
    out: str
    err: str


class TimedOut(AssertionError):
    """A program ran longer than it was given."""


def kill_group(process):
    """Ends a process of ours, started in a session of its own, with its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def spawn(words, **options):
    """Popen in a session of its own, so that kill_group finds the children too."""
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([os.fspath(word) for word in words], start_new_session=True, **options)


def run(words, *, timeout=20, stdin=None, **options):
    """Runs a program to its end, at most timeout seconds."""
    options["stdin"] = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    process = spawn(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    try:
        out, err = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        kill_group(process)
        try:
            out, err = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            out, err = b"", b"(could not even be killed)"
        raise TimedOut(f"{words!r} ran longer than {timeout} s\n{out!r}\n{err!r}") from None
    return Result(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def shell(script, *, cwd, kind="bash", **options):
    """Runs a snippet under one of SHELLS."""
    return run([*SHELLS[kind], script], cwd=cwd, **options)


@contextlib.contextmanager
def background(words, **options):
    """A program that runs beside the test and is gone after it."""
    process = spawn(words, **options)
    try:
        yield process
    finally:
        kill_group(process)
        process.wait(10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


def wait_exit(process, seconds=10):
    """Its exit status; a failure when it does not end in time."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise TimedOut(f"{process.args!r} did not end within {seconds} s") from None


def eventually(question, seconds=10, what="it"):
    """Asks until the answer is true, and gives it."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s (last answer: {answer!r})"
        time.sleep(0.02)


def stays(question, seconds, what="it"):
    """Asks for that long; the answer must be true each time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = question()
        assert answer, f"{what} did not stay so (last answer: {answer!r})"
        time.sleep(0.05)


def is_blocked(process):
    """Does the process sleep in the kernel? (Polling instead of hoping that it got there.)"""
    try:
        with open(f"/proc/{process.pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in ("S", "D")
    except FileNotFoundError:
        return False
