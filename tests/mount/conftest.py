# SPDX-License-Identifier: MIT
"""Fixtures of the tests through real mounts. Every one is bounded: see watchdog."""

import faulthandler
import itertools
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
from backends import Rabbit, Sqlite  # noqa: E402
from mounted import Mounts, daemon_path  # noqa: E402
from rabbit import Broker  # noqa: E402

BACKENDS = ("sqlite", "rabbitmq")
# The groups run beside each other (tests/run), and the backend of each.
BACKEND_OF = {"sqlite": "sqlite", "rabbitmq": "rabbitmq", "brokers": "rabbitmq"}
GROUPS = tuple(BACKEND_OF)
OWN_BROKERS = {"own_broker", "faulty_broker", "cluster", "far_broker"}
DEADLINE_SECONDS = 60
COUNTER = itertools.count(1)
# A rename that publishes gives up after 1 s (P2), which a busy disk under a busy machine may need.
PATIENT = {"rename_timeout": "10s"}


def pytest_sessionstart(session):
    if not session.config.option.collectonly and not os.access(daemon_path(), os.X_OK):
        pytest.exit(f"no daemon at {daemon_path()}: build it, or set MQFS_BIN", returncode=2)


def pytest_addoption(parser):
    parser.addoption("--group", choices=[*GROUPS, "all"], default="all", help="only the tests that run together")
    parser.addoption("--backend", choices=BACKENDS, help="only one backend's tests (those of neither go with sqlite)")


def pytest_collection_modifyitems(config, items):
    def is_wanted(item):
        group = group_of(item)
        return config.option.group in (group, "all") and config.option.backend in (BACKEND_OF[group], None)

    config.hook.pytest_deselected(items=[item for item in items if not is_wanted(item)])
    items[:] = [item for item in items if is_wanted(item)]


def group_of(item):
    """Those that have a broker of their own wait for it most of the time; what needs no broker goes with SQLite."""
    if OWN_BROKERS & set(item.fixturenames):
        return "brokers"
    if "backend_name" in item.fixturenames:
        return item.callspec.params["backend_name"]
    return "rabbitmq" if "broker" in item.fixturenames else "sqlite"


def pytest_configure():
    """SIGTERM unwinds like Ctrl-C, through the fixtures: no broker and no mount stays behind."""
    def leave(_number, _frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)


def pytest_generate_tests(metafunc):
    """Every test that needs a backend runs on both, unless it is marked only("…")."""
    if "backend_name" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("only")
        wanted = mark.args if mark else BACKENDS
        metafunc.parametrize("backend_name", [name for name in BACKENDS if name in wanted], scope="session")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows what the daemons and the broker said beside a failure."""
    report = (yield).get_result()
    if not report.failed:
        return
    for name, value in item.funcargs.items():
        if name in ("mounts", "shared_mount") and value is not None:
            report.sections += [(f"log of {where}", log) for where, log in value.logs()]


# -- brokers ----------------------------------------------------------------

@pytest.fixture(scope="session")
def broker():
    """One broker for the whole run; a test has a vhost of its own."""
    with Broker() as running:
        yield running


@pytest.fixture(scope="session")
def faulty_broker():
    with Broker(resend_seconds=10) as running:
        yield running


class OwnBroker:
    """The broker of tests that stop, pause or kill it: one for all of them, a vhost for each."""

    def __init__(self, broker, vhost):
        self._broker = broker
        self.vhost = vhost

    def __getattr__(self, name):
        return getattr(self._broker, name)

    def url(self, user=None, password=None):
        return self._broker.url(self.vhost, user, password)


@pytest.fixture
def own_broker(faulty_broker):
    if faulty_broker.process is None or faulty_broker.process.poll() is not None:
        faulty_broker.start()
    faulty_broker.resume()
    vhost = f"own{next(COUNTER)}"
    faulty_broker.add_vhost(vhost)
    return OwnBroker(faulty_broker, vhost)


# -- what is mounted --------------------------------------------------------

class Watchdog:
    """Ends what a stuck test waits for.

    A system call into a mount can't be interrupted from within, but it ends as soon as the mount's
    daemon is killed. So a timer does just that, and the test fails by the error it then gets."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.waited_for = []
        self.fired = False
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True

    def start(self):
        self._timer.start()

    def stop(self):
        self._timer.cancel()

    def _fire(self):
        self.fired = True
        with open(2, "w", closefd=False) as errors:
            faulthandler.dump_traceback(errors)
        for one in self.waited_for:
            one.abort()


@pytest.fixture
def watchdog(request):
    mark = request.node.get_closest_marker("deadline")
    dog = Watchdog(mark.args[0] if mark else DEADLINE_SECONDS)
    dog.start()
    yield dog
    dog.stop()
    assert not dog.fired, f"the test was stuck: its mounts were aborted after {dog.seconds} s"


@pytest.fixture
def room():
    """A short-named directory of the test's own (tmp_path would outlive the run)."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mqfs-test-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def make_backend(name, request, directory):
    if name == "sqlite":
        return Sqlite(directory)
    return Rabbit(request.getfixturevalue("broker"), f"t{next(COUNTER)}")


@pytest.fixture
def backend(backend_name, request, room, watchdog):
    made = make_backend(backend_name, request, room)
    watchdog.waited_for.append(made)
    yield made
    made.close()


@pytest.fixture
def mounts(room, watchdog):
    """The mounts of this test; ended, checked and never left behind."""
    made = Mounts(room)
    watchdog.waited_for.append(made)
    yield made
    made.close()


@pytest.fixture
def mount(backend, mounts):
    """mount(prefetch=4, backoff_base="1s") mounts the test's backend; every call is another mount."""
    def make(**options):
        return mounts.add(backend.url, {**PATIENT, **options})
    return make


@pytest.fixture
def jobs(mount):
    """A queue "jobs" on a mount with the default settings."""
    return mount().make("jobs")


# -- a mount that is shared, for the many small tests -----------------------

class SharedMounts:
    """One mount with default settings for each backend, replaced when a test broke it."""

    def __init__(self, request):
        self.request = request
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="mqfs-shared-"))
        self.backends = {}
        self.mounts = {}

    def backend(self, name):
        if name not in self.backends:
            self.backends[name] = make_backend(name, self.request, self.directory)
        return self.backends[name]

    def get(self, name):
        mounts = self.mounts.get(name)
        if mounts is None or not mounts.all[-1].alive:
            mounts = Mounts(self.directory / f"{name}{next(COUNTER)}")
            mounts.directory.mkdir()
            mounts.add(self.backend(name).url, PATIENT)
            self.mounts[name] = mounts
        return mounts

    def close(self):
        problems = []
        for mounts in self.mounts.values():
            try:
                mounts.close()
            except AssertionError as error:
                problems.append(str(error))
        for backend in self.backends.values():
            backend.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not problems, "\n".join(problems)


@pytest.fixture(scope="session")
def shared_mounts(request):
    shared = SharedMounts(request)
    yield shared
    shared.close()


@pytest.fixture
def shared_mount(shared_mounts, backend_name, watchdog):
    mounts = shared_mounts.get(backend_name)
    watchdog.waited_for += [mounts, shared_mounts.backend(backend_name)]
    return mounts


@pytest.fixture
def queue(shared_mount):
    """A fresh queue on the shared mount."""
    return shared_mount.all[-1].make(f"q{next(COUNTER)}")


@pytest.fixture
def shared_backend(shared_mounts, shared_mount, backend_name):  # pylint: disable=unused-argument
    return shared_mounts.backend(backend_name)
