# SPDX-License-Identifier: MIT
"""The producers, workers and onlookers of the ledger: started, killed and started anew."""

import contextlib
import os
import pathlib
import signal
import subprocess

from rabbit import die_with_parent

HERE = pathlib.Path(__file__).resolve().parent


def start(words, path):
    with open(path, "ab") as errors:
        return subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                                start_new_session=True, preexec_fn=die_with_parent)


class Member:
    """One program; each life of it has a journal of its own, NAME@MOUNT.LIFE."""

    def __init__(self, crew, program, name, mount, arguments):
        self.crew = crew
        self.program = program
        self.name = name
        self.mount = mount
        self.arguments = arguments
        self.life = 0
        self.process = None

    def start(self):
        self.life += 1
        journal = self.crew.directory / f"{self.name}@{self.mount}.{self.life}"
        words = ["/usr/bin/python3", "-B"] if self.program.endswith(".py") else []
        self.process = start([*words, HERE / self.program, self.name, self.crew.paths[self.mount] / self.queue, journal,
                              *self.arguments], self.crew.directory.parent / "crew.log")

    @property
    def queue(self):
        return "" if self.program == "ledger_probe.py" else "jobs"

    def kill(self, whole_family):
        """SIGKILL, to it alone or also to what it runs just now."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if whole_family else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process:
            self.kill(True)


class Crew:
    """Everybody. `paths` are the mounts by name, `directory` is where the journals are."""

    def __init__(self, paths, directory, seed, rate):
        self.paths = paths
        self.directory = directory
        self.marks = directory.parent / "marks"
        directory.mkdir()
        self.marks.mkdir()
        self.producers = self._producers(seed, rate)
        self.workers = self._workers()
        self.onlookers = [Member(self, "ledger_probe.py", f"probe{mount}", mount, []) for mount in paths]
        self.onlookers.append(Member(self, "ledger_operator.py", "operator", min(paths), [self.marks]))

    def _producers(self, seed, rate):
        programs = [("ledger_producer", ["mv"]), ("ledger_producer.py", []), ("ledger_producer", ["printf"]),
                    ("ledger_producer.py", []), ("ledger_producer", ["builtin"])]
        each = max(1, round(rate / len(programs)))
        return [Member(self, program, f"p{number}", sorted(self.paths)[number % len(self.paths)],
                       [(seed + number) % 32768, each, *more]) for number, (program, more) in enumerate(programs, 1)]

    def _workers(self):
        programs = ["ledger_worker", "ledger_worker.py", "ledger_worker.py"]
        return [Member(self, program, f"w{number}{mount}", mount, [self.marks])
                for number, program in enumerate(programs, 1) for mount in self.paths]

    def start(self):
        for member in self.workers + self.producers + self.onlookers:
            member.start()

    def revive(self):
        """Starts workers that died, whoever killed them."""
        for worker in self.workers:
            if worker.process.poll() is not None:
                worker.start()

    def broken(self):
        """Producers and onlookers are killed by nobody: one that ended has an error of its own."""
        return [member.name for member in self.producers + self.onlookers if member.process.poll() is not None]

    def stop(self, members=None):
        for member in members if members is not None else self.producers + self.workers + self.onlookers:
            member.stop()
