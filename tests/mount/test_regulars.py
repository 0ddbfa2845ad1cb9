# SPDX-License-Identifier: MIT
"""A process that calls again and again is answered as one that calls for the first time (P8, C3, C4)."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading

from processes import eventually

OFTEN = 12  # what mqfs keeps of a process it keeps after some calls

WRITER = """
import os, signal, subprocess, sys, threading, time
new = sys.argv[1]
for i in range(%d):
    with open(f"{new}/warm{i}", "wb") as file:
        file.write(b"warm %%d" %% i)
""" % OFTEN


def written(queue, script, *arguments):
    """Runs a writer that has written often before: its exit status."""
    return subprocess.run([sys.executable, "-c", WRITER + script, queue.new, *arguments], check=False,
                          timeout=30).returncode


def bodies(backend, queue, count):
    """Those of the messages, without the writer's first ones."""
    messages = backend.expect(queue, OFTEN + count)
    return sorted(message.body for message in messages if not message.body.startswith(b"warm"))


def test_p8_killed_regular_completes_nothing(queue, shared_backend):
    """P8: killed in the middle, it publishes nothing more."""
    script = """
fd = os.open(f"{new}/half", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert written(queue, script) == -signal.SIGKILL
    eventually(lambda: queue.names("new") == ["half"])
    assert bodies(shared_backend, queue, 0) == []


def test_p8_dup_of_a_regular(queue, shared_backend):
    """P8: with two descriptors, the last close() completes the file."""
    script = """
fd = os.open(f"{new}/two", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"one")
other = os.dup(fd)
os.close(fd)
os.write(other, b" and two")
os.close(other)
"""
    assert written(queue, script) == 0
    assert bodies(shared_backend, queue, 1) == [b"one and two"]


def test_p8_child_of_a_regular_writes_on(queue, shared_backend):
    """P8: a descriptor handed on to a child that has not written yet: its end is the file's."""
    script = """
file = open(f"{new}/handed", "wb", buffering=0)
file.write(b"parent")
child = subprocess.Popen(["sh", "-c", "sleep 0.5; printf ' and child'"], stdout=file)
file.close()
child.wait()
"""
    assert written(queue, script) == 0
    assert bodies(shared_backend, queue, 1) == [b"parent and child"]


def test_p8_child_of_a_regulars_thread_writes_on(queue, shared_backend):
    """P8: the same when one of several threads has the child."""
    script = """
file = open(f"{new}/handed", "wb", buffering=0)
file.write(b"parent")
handed_on, closed = threading.Event(), threading.Event()
def hand_on():
    global child
    child = subprocess.Popen(["sh", "-c", "sleep 0.5; printf ' and child'"], stdout=file)
    handed_on.set()
    closed.wait()
thread = threading.Thread(target=hand_on)
thread.start()
handed_on.wait()
file.close()
closed.set()
thread.join()
child.wait()
"""
    assert written(queue, script) == 0
    assert bodies(shared_backend, queue, 1) == [b"parent and child"]


def test_p8_orphan_writes_on(queue, shared_backend):
    """P8: a descriptor handed on to a process whose parent has gone, so that it is nobody's child."""
    script = """
file = open(f"{new}/handed", "wb", buffering=0)
file.write(b"parent")
subprocess.run(["sh", "-c", "(read line; printf ' and orphan') <$0 &", sys.argv[2]], stdout=file, check=True)
file.close()
open(sys.argv[2], "w").write("go\\n")
"""
    with tempfile.TemporaryDirectory() as directory:
        fifo = os.path.join(directory, "fifo")
        os.mkfifo(fifo)
        assert written(queue, script, fifo) == 0
        assert bodies(shared_backend, queue, 1) == [b"parent and orphan"]


def test_p8_killed_thread_completes_nothing(queue, shared_backend):
    """P8: what a thread has written of a process that is killed is known to be that process's."""
    script = """
half = "import os, signal, threading; t = threading.Thread(target=os.write, args=(1, b'half')); t.start(); t.join();" \\
       "os.kill(os.getpid(), signal.SIGKILL)"
subprocess.run([sys.executable, "-c", half], stdout=open(f"{new}/half", "wb"))
"""
    assert written(queue, script) == 0
    eventually(lambda: queue.names("new") == ["half"])
    assert bodies(shared_backend, queue, 0) == []


def test_p8_one_killed_of_many_completes_nothing(queue, shared_backend):
    """P8: however many have written before it."""
    script = """
with open(f"{new}/half", "wb", buffering=0) as file:
    for i in range(20):
        end = "kill -9 $$" if i == 19 else ":"
        subprocess.run(["sh", "-c", "printf x; " + end], stdout=file)
"""
    assert written(queue, script) == 1, "its close() says so"
    eventually(lambda: queue.names("new") == ["half"])
    assert bodies(shared_backend, queue, 0) == []


def test_p8_threads_of_a_regular(queue, shared_backend):
    """P8: opened by one thread and closed by another, both calling often."""
    script = """
def work(number):
    for i in range(10):
        fd = os.open(f"{new}/t{number}-{i}", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"%d-%d" % (number, i))
        closer = threading.Thread(target=os.close, args=(fd,))
        closer.start()
        closer.join()
        assert not os.path.exists(f"{new}/.t") and f"t{number}-{i}" not in os.listdir(new)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    assert written(queue, script) == 0
    assert len(bodies(shared_backend, queue, 40)) == 40


def test_c3_killed_regular_gives_back(queue):
    """C3: a worker that has taken often is killed with the file open: the message is given back, one attempt counted."""
    for i in range(OFTEN):
        (queue.new / f"job{i:02}").write_bytes(b"job")
    worker = """
import os, signal, sys
pending = sys.argv[1]
names = sorted(os.listdir(pending))
for name in names[:-1]:
    with open(f"{pending}/{name}", "rb") as file:
        file.read()
    os.unlink(f"{pending}/{name}")
fd = os.open(f"{pending}/{names[-1]}", os.O_RDONLY)
os.kill(os.getpid(), signal.SIGKILL)
"""
    eventually(lambda: len(queue.names("pending")) == OFTEN)
    assert subprocess.run([sys.executable, "-c", worker, queue.pending], check=False).returncode == -signal.SIGKILL
    (taken,) = queue.names("claimed")
    eventually(lambda: queue.names("claimed") == [] and len(queue.names("pending")) == 1, 20)
    (back,) = queue.names("pending")
    assert os.getxattr(queue.pending / back, "user.mqfs.attempts") == b"1", taken


def test_c4_stranger_to_a_regular(queue):
    """C4: what a regular has taken is not another regular's to settle, by the name in pending/."""
    for i in range(2 * OFTEN):
        (queue.new / f"job{i:02}").write_bytes(b"job")
    eventually(lambda: len(queue.names("pending")) >= OFTEN)
    answers, turn = [], threading.Barrier(2)

    def work(first):
        script = """
import os, sys
pending = sys.argv[1]
def settle(name):
    try:
        os.unlink(f"{pending}/{name}")
        print("settled", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
for line in sys.stdin:
    verb, name = line.split()
    if verb == "take":
        open(f"{pending}/{name}", "rb").read()
    else:
        settle(name)
"""
        process = subprocess.Popen([sys.executable, "-c", script, queue.pending], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)

        def ask(verb, name):
            process.stdin.write(f"{verb} {name}\n")
            process.stdin.flush()
            return process.stdout.readline().strip() if verb == "settle" else None

        mine = queue.names("pending")[first:OFTEN:2]
        turn.wait()
        for name in mine:
            ask("take", name)
            answers.append(ask("settle", name))
        return process, ask

    workers = []
    threads = [threading.Thread(target=lambda n=n: workers.append(work(n))) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == ["settled"] * OFTEN
    name = eventually(lambda: queue.names("pending"))[0]
    (_, one), (_, other) = workers
    one("take", name)
    eventually(lambda: name in queue.names("claimed"))
    assert other("settle", name) == str(errno.EBUSY)
    assert one("settle", name) == "settled"
    for process, _ in workers:
        process.stdin.close()
        process.wait(10)
