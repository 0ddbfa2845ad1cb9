# SPDX-License-Identifier: MIT
"""Sixteen processes on two mounts want the same messages: each is taken exactly once (C3, C4, C7)."""

import contextlib
import os
import subprocess
import sys
import time

import pytest

from processes import SHELLS, background, eventually, spawn, wait_exit

COUNT = 320
PROCESSES = 16


def fill(queue, count=COUNT):
    """Numbered messages, published by eight names at a time."""
    for number in range(count):
        (queue.new / "job").write_bytes(b"%d\n" % number)


def race(mount, make_words, log, count=COUNT, processes=PROCESSES):
    """Runs programs on two mounts until every message was handled and logged; gives the queues."""
    mounts = [mount(backoff_base="60s"), mount(backoff_base="60s")]
    queues = [mounts[0].make("jobs"), mounts[1].queue("jobs")]
    fill(queues[0], count)
    log.touch()
    with contextlib.ExitStack() as stack:
        for number in range(processes):
            queue = queues[number % 2]
            stack.enter_context(background(make_words(queue), cwd=queue.path, stderr=subprocess.DEVNULL,
                                           env={**os.environ, "LOG": str(log)}))
        eventually(lambda: len(log.read_text().split()) >= count, 100, f"the end of the work ({log})")
        # Whatever was handled twice shows soon after the last one.
        time.sleep(0.3)
    handled = log.read_text().split()
    assert sorted(map(int, handled)) == list(range(count)), "each exactly once"
    for queue in queues:
        eventually(lambda queue=queue: (queue.names("pending"), queue.names("claimed")) == ([], []), 20, "an empty window")
        assert queue.names("retry") == [] and queue.names("dead") == []
    eventually(lambda: sum(queue.stats()["acked"] for queue in queues) == count, what="all acknowledged")


# The body is known before rm, and logged only once rm succeeded: a second settlement would show as
# a second line, a stolen one as a missing line.
LOOP = '''
while :; do
    for f in pending/*; do
        body=$(cat 2>/dev/null <"$f") && rm "$f" && echo "$body" >>"$LOG" || mv "$f" retry/ 2>/dev/null
    done
done
'''


# Sixteen shells that fork for every try keep two cores busy: all sixteen with one kind, a few of the others.
@pytest.mark.deadline(150)
@pytest.mark.parametrize("kind, count, processes", [("dash", COUNT, PROCESSES), ("bash", 60, 6), ("busybox", 60, 6)])
def test_c4_loop_by_many(mount, room, kind, count, processes):
    """C4: the loop is right, run by many at once, on two mounts, with globs gone stale."""
    race(mount, lambda queue: [*SHELLS[kind], LOOP], room / "handled", count, processes)


@pytest.mark.deadline(120)
def test_c7_claim_by_many(mount, room):
    """C7: the same for `claim`."""
    script = 'while read -r n <claim; do body=$(cat "claimed/$n") && rm "claimed/$n" && echo "$body" >>"$LOG"; done'
    race(mount, lambda queue: ["dash", "-c", script], room / "handled")


@pytest.mark.deadline(120)
def test_c7_next_by_many(mount, room):
    """C7: the same for `next`."""
    script = 'while body=$(cat next); do echo "$body" >>"$LOG"; done'
    race(mount, lambda queue: ["dash", "-c", script], room / "handled")


RENAME = """
import os
import subprocess
log = os.open(os.environ["LOG"], os.O_WRONLY | os.O_APPEND)
while True:
    for name in os.listdir("pending"):
        try:
            os.rename(f"pending/{name}", f"claimed/{name}")
        except OSError:
            continue
        body = open(f"claimed/{name}", "rb").read()
        os.unlink(f"claimed/{name}")
        os.write(log, body)
"""


@pytest.mark.deadline(120)
def test_c3_rename_by_many(mount, room):
    """C3: the same with os.rename into claimed/: one succeeds, the loser gets ENOENT or EBUSY."""
    race(mount, lambda queue: [sys.executable, "-c", RENAME], room / "handled")


@pytest.mark.deadline(150)
@pytest.mark.parametrize("mover, count, processes", [("busybox mv", COUNT, PROCESSES), ("mv", 60, 6), ("mv -n", 60, 6)])
def test_c3_mv_by_many(mount, room, mover, count, processes):
    """C3: the same with mv, whatever tool or flags it uses."""
    # `mv -n` exits 0 when the target exists: who won is told by the message being there and rm succeeding.
    script = f'''
        while :; do
            for f in pending/*; do
                n=${{f#pending/}}
                {mover} "$f" claimed/ 2>/dev/null || continue
                body=$(cat "claimed/$n" 2>/dev/null) && rm "claimed/$n" 2>/dev/null && echo "$body" >>"$LOG"
            done
        done'''
    race(mount, lambda queue: ["dash", "-c", script], room / "handled", count, processes)


@pytest.mark.deadline(120)
def test_c4_some_always_fail(mount, room):
    """C4, R1: with handlers that fail now and then, nobody settles another's: all end where they belong."""
    mounts = [mount(backoff_base="1s", backoff_factor="1", max_attempts=2) for _ in range(2)]
    queues = [mounts[0].make("jobs"), mounts[1].queue("jobs")]
    fill(queues[0], 120)
    log = room / "handled"
    log.touch()
    script = LOOP.replace("rm", 'case $body in *7) false;; *) true;; esac && rm', 1)
    with contextlib.ExitStack() as stack:
        for number in range(8):
            queue = queues[number % 2]
            stack.enter_context(background(["dash", "-c", script], cwd=queue.path, stderr=subprocess.DEVNULL,
                                           env={**os.environ, "LOG": str(log)}))
        eventually(lambda: queues[0].stats()["dead"] == 12, 60, "twelve dead ones")
        eventually(lambda: len(log.read_text().split()) >= 108, 60, "the others handled")
    assert sorted(map(int, log.read_text().split())) == [number for number in range(120) if number % 10 != 7]
    names = eventually(lambda: (lambda found: found if len(found) == 12 else None)(queues[0].names("dead")), 20, "dead/")
    assert {queues[0].meta("dead", name)["attempts"] for name in names} == {2}
    assert sorted(int((queues[0].dead / name / "body").read_bytes()) for name in names) == list(range(7, 120, 10))


def test_p1_many_writers_and_readers_at_once(mount):
    """P1, C7: writers and readers at once, on two mounts: all that is written is read, once."""
    writer, reader = mount(), mount()
    queue = writer.make("jobs")
    script = 'i=0; while [ $i -lt 50 ]; do echo "$$-$i" >jobs/new/job; i=$((i+1)); done'
    writers = [spawn(["dash", "-c", script], cwd=writer.path) for _ in range(4)]
    out = writer.home / "out"
    with open(out, "ab") as file:
        readers = [spawn(["dash", "-c", "i=0; while [ $i -lt 50 ]; do cat jobs/next; i=$((i+1)); done"],
                         cwd=reader.path, stdout=file) for _ in range(4)]
    for process in writers + readers:
        assert wait_exit(process, 40) == 0
    expected = sorted(f"{process.pid}-{number}" for process in writers for number in range(50))
    assert sorted(out.read_text().split()) == expected
    assert queue.names("pending") == []
