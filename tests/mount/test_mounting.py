# SPDX-License-Identifier: MIT
"""Mounting, unmounting, and what refuses to be mounted (M1, M3)."""

import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import time

import pytest

from mounted import daemon_path, detach, is_mounted
from processes import eventually, run
from rabbit import free_ports
from test_drafts import errno_of


def try_mount(room, url, *options, directory=None, timeout=20, **environment):
    """A mount that ought to fail: its result, in the foreground."""
    directory = directory or room / "mnt"
    directory.mkdir(exist_ok=True)
    try:
        return run([daemon_path(), "mount", "-f", *options, *([url] if url else []), directory], timeout=timeout,
                   cwd=room, env={**os.environ, "HOME": str(room), "XDG_STATE_HOME": str(room / "state"), **environment})
    finally:
        if is_mounted(directory) and errno_of(os.listdir, directory):  # killed: nobody answers any more
            detach(directory)


def refused(result, *words):
    """It said why, and failed."""
    assert result.status > 0, result
    assert len(result.err.strip().splitlines()) >= 1
    text = result.err.lower()
    assert not words or any(word in text for word in words), result.err
    assert "sanitizer" not in text and "assert" not in text


def test_m1_sigterm_unmounts(mount):
    """M1: SIGTERM unmounts, and the exit status is 0."""
    target = mount()
    target.make("jobs").publish(b"x")
    assert target.terminate() == 0
    assert not is_mounted(target.path)
    assert os.listdir(target.path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_m1_other_ends(mount, number):
    """M1: Ctrl-C and a hangup end it as cleanly."""
    target = mount()
    target.process.send_signal(number)
    assert target.wait() == 0
    assert not is_mounted(target.path)


def test_m1_sigterm_gives_back(mount):
    """M1: what was pending goes back for others; nothing is counted."""
    target = mount()
    queue = target.make("jobs")
    for number in range(5):
        queue.publish(b"%d" % number)
    queue.wait_names("pending", 5)
    assert target.terminate() == 0
    again = mount().queue("jobs")
    names = again.wait_names("pending", 5)
    assert {again.xattr("pending", name, "attempts") for name in names} == {"0"}
    assert again.consume(5) == [b"0", b"1", b"2", b"3", b"4"]


def test_m1_umount_ends_it(mount):
    """M1: `fusermount3 -u` or umount ends the daemon, with status 0."""
    target = mount()
    words = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    assert run([*words, target.path]).status == 0
    assert target.wait() == 0


def test_m1_sigterm_with_open_files(mount):
    """M1: SIGTERM ends it in time though files are open and a reader waits in `next`."""
    target = mount()
    queue = target.make("jobs")
    waiting = subprocess.Popen(["cat", queue.path / "next"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    descriptor = os.open(queue.path / "stats", os.O_RDONLY)
    time.sleep(0.2)  # whether the reader got there or not, the end must come
    assert target.terminate() == 0
    waiting.communicate(timeout=10)
    errno_of(os.close, descriptor)
    assert not is_mounted(target.path)


@pytest.mark.parametrize("spelling", ["{}/{}", "{}//./{}/", "{}/{}/."])
def test_m1_stale_mount_is_cleared(mount, spelling):
    """M1: a stale mount of its own is cleaned up at start, however it is spelled."""
    target = mount()
    target.make("jobs").publish(b"x")
    target.kill()
    assert errno_of(os.listdir, target.path) == errno.ENOTCONN
    target.spelling = spelling.format(target.path.parent, target.path.name)
    target.start()
    assert target.queue("jobs").consume(1) == [b"x"]


def test_m1_directory_that_is_not_empty(room, mounts, backend):
    """M1: a directory that isn't empty is refused, and stays as it was."""
    directory = room / "full"
    directory.mkdir()
    (directory / "precious").write_text("mine")
    refused(try_mount(room, backend.url, directory=directory), "empty")
    assert (directory / "precious").read_text() == "mine"
    assert not is_mounted(directory)
    assert mounts.all == []


def test_m1_mounted_twice(mount, backend, room):
    """M1: a living mount is no stale one: a second start on it is refused, and harms it not."""
    target = mount()
    queue = target.make("jobs")
    refused(try_mount(room, backend.url, directory=target.path))
    queue.publish(b"x")
    assert queue.consume(1) == [b"x"]


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["mount"], ["mount", "--nonsense", "x"], ["mount", "a", "b", "c"]],
                         ids=range(5))
def test_m1_usage(room, arguments):
    """M1: a wrong command line is told so, with a status that is not 0."""
    refused(run([daemon_path(), *arguments], cwd=room, env={**os.environ, "HOME": str(room)}))


def test_m1_help_and_version(room):
    """M1: --help and --version."""
    for option in ("--help", "--version"):
        result = run([daemon_path(), option], cwd=room)
        assert result.status == 0 and "mqfs" in result.out


def test_m1_no_such_directory(room):
    """M1: a directory that is not there, or no directory."""
    (room / "file").write_text("x")
    for name in ("absent", "file"):
        result = run([daemon_path(), "mount", "-f", f"sqlite:{room}/store.db", room / name], cwd=room,
                     env={**os.environ, "HOME": str(room)})
        refused(result, name)
    assert not (room / "store.db").exists() or not is_mounted(room / "absent")


@pytest.mark.parametrize("url", ["http://localhost/", "amqp://", "amqp://host:port/", "nonsense", "amqp://127.0.0.1:99999/",
                                 "amqp://%zz@127.0.0.1/", "sqlite:"])
def test_m1_bad_urls(room, url):
    """M1: a URL that is none is refused at once."""
    start = time.monotonic()
    refused(try_mount(room, url))
    assert time.monotonic() - start < 15


def test_m1_embedded_store_without_url(mounts, room):
    """M1: without a URL, the embedded store in the state directory; it is still there after a restart."""
    target = mounts.add(None)
    target.make("jobs").publish(b"kept")
    assert target.terminate() == 0
    stores = [path for path in target.home.rglob("*") if path.is_file() and path.read_bytes()[:15] == b"SQLite format 3"]
    assert sorted(path.suffix for path in stores) == [".db", ".state"]
    assert not any(path.stat().st_mode & 0o077 for path in stores), "the store is its owner's"
    target.start()
    assert target.queue("jobs").consume(1) == [b"kept"]
    assert room.exists()


def test_m1_daemonises(backend, room):
    """M1: without -f it goes to the background when it is mounted; its exit status tells whether it is."""
    directory = room / "mnt"
    directory.mkdir()
    environment = {**os.environ, "HOME": str(room), "XDG_STATE_HOME": str(room / "state")}
    try:
        # Through pipes: whoever reads them to their end, as $(…) and ssh do, must not wait for the daemon.
        result = run([daemon_path(), "mount", backend.url, directory], env=environment)
        assert result.status == 0, result.err
        assert is_mounted(directory)
        os.mkdir(directory / "jobs")
        (directory / "jobs" / "new" / "job").write_bytes(b"x")
        assert (directory / "jobs" / "next").read_bytes() == b"x"
    finally:
        run(["umount", directory] if os.geteuid() == 0 else ["fusermount3", "-u", directory])
        if is_mounted(directory):
            detach(directory)
    eventually(lambda: not is_mounted(directory), what="the unmount")


def test_m1_relative_paths(room):
    """M1: a relative path of the store and of the state directory is one of the directory where mqfs was started, also
    in the background; and one that SQLite would understand otherwise is a file's name."""
    directory = room / "mnt"
    directory.mkdir()
    environment = {**os.environ, "HOME": str(room), "XDG_STATE_HOME": str(room / "elsewhere")}
    for url, store in (("sqlite:store.db", "store.db"), ("sqlite::memory:", ":memory:"),
                       ("sqlite:file:other.db?mode=rwc", "file:other.db?mode=rwc"), (None, "state/queues.db")):
        try:
            result = run([daemon_path(), "mount", "-o", "state-dir=state", *([url] if url else []), "mnt"], cwd=room,
                         env=environment)
            assert result.status == 0, result.err
            os.mkdir(directory / "jobs")
            assert (room / store).read_bytes()[:15] == b"SQLite format 3"
        finally:
            run(["umount", directory] if os.geteuid() == 0 else ["fusermount3", "-u", directory])
            if is_mounted(directory):
                detach(directory)
        eventually(lambda: not is_mounted(directory), what="the unmount")
    assert not (room / "elsewhere").exists() and not (room / "other.db").exists()


@pytest.mark.parametrize("words", [["{url}", "{dir}", "-t", "fuse.mqfs"], ["mqfs#{url}", "{dir}"]], ids=["type", "prefix"])
def test_m1_fstab(backend, room, words):
    """M1: `mount -t fuse.mqfs URL DIR`, as fstab(5) has it: with the options that no filesystem sees."""
    helper = shutil.which("mount.fuse3", path="/sbin:/usr/sbin:/usr/bin")
    if not helper or os.geteuid() != 0:
        pytest.skip("mount.fuse3 is root's, or not there")
    directory, programs = room / "mnt", room / "bin"
    for made in (directory, programs):
        made.mkdir()
    (programs / "mqfs").symlink_to(os.path.abspath(daemon_path()))
    environment = {**os.environ, "XDG_STATE_HOME": str(room / "state"), "PATH": f"{programs}:{os.environ['PATH']}"}
    options = "rw,noatime,_netdev,nofail,noauto,user,exec,x-systemd.automount,prefetch=7"
    try:
        result = run([helper, *(word.format(url=backend.url, dir=directory) for word in words), "-o", options],
                     env=environment, timeout=30)
        assert result.status == 0, result.err
        os.mkdir(directory / "jobs")
        assert (directory / "jobs" / "config" / "prefetch").read_text().strip() == "7"
    finally:
        run(["umount", directory])
        if is_mounted(directory):
            detach(directory)
    eventually(lambda: not is_mounted(directory), what="the unmount")


def test_m1_background_failure_is_told(room):
    """M1: in the background, too, a mount that fails says so by its status."""
    directory = room / "mnt"
    directory.mkdir()
    (port,) = free_ports(1)
    result = run([daemon_path(), "mount", f"amqp://guest:guest@127.0.0.1:{port}/", directory], timeout=20,
                 env={**os.environ, "HOME": str(room), "XDG_STATE_HOME": str(room)})
    assert result.status > 0 and result.err.strip()
    assert not is_mounted(directory)


def test_m2_always_nosuid(mount):
    """M2: always nosuid, nodev, noexec."""
    target = mount()
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        (line,) = [line for line in file if line.split()[4] == str(target.path)]
    assert {"nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))


# -- brokers that do not serve ----------------------------------------------

def test_m1_broker_that_is_not_there(room):
    """Bad input: a broker that isn't there: a clear message within 15 s, status not 0."""
    (port,) = free_ports(1)
    start = time.monotonic()
    refused(try_mount(room, f"amqp://guest:guest@127.0.0.1:{port}/"), "refused", "nobody listens", "reach")
    assert time.monotonic() - start < 15


def test_m1_broker_that_does_not_answer(room):
    """Bad input: a port that accepts and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        url = f"amqp://guest:guest@127.0.0.1:{silent.getsockname()[1]}/"
        refused(try_mount(room, url, "-o", "connect-timeout=1s"), "time", "answer")
        assert time.monotonic() - start < 15


def test_m1_unknown_host(room):
    """Bad input: a name that nobody has."""
    start = time.monotonic()
    refused(try_mount(room, "amqp://broker.invalid/"), "broker.invalid")
    assert time.monotonic() - start < 15


def test_m1_something_else_listens(broker, room):
    """Bad input: a server that speaks another protocol."""
    start = time.monotonic()
    refused(try_mount(room, f"amqp://guest:guest@127.0.0.1:{broker.management_port}/"))
    assert time.monotonic() - start < 15


@pytest.mark.only("rabbitmq")
def test_m1_wrong_credentials(backend, room):
    """Bad input: wrong credentials; M3: the password shows in no message."""
    start = time.monotonic()
    result = try_mount(room, backend.url.replace("guest:guest", "guest"), MQFS_PASSWORD="wrong-sekret")
    assert time.monotonic() - start < 15
    assert "wrong-sekret" not in result.err
    refused(result, "password", "refused", "login", "access")
    refused(try_mount(room, backend.url.replace("guest:guest", "nobody-known"), MQFS_PASSWORD="x"))
    # M3: and on the command line only the loopback's guest may have one.
    result = try_mount(room, backend.url.replace("guest:guest", "guest:wrong-sekret"))
    refused(result, "password")
    assert "wrong-sekret" not in result.err
    # Nor may half of one pass for a host.
    result = try_mount(room, backend.url.replace("guest:guest", "guest@wrong:sekret"))
    refused(result, "%40")
    assert "sekret" not in result.err


@pytest.mark.only("rabbitmq")
def test_m1_wrong_vhost(backend, room):
    """Bad input: a vhost that does not exist, or is not ours."""
    refused(try_mount(room, backend.broker.url("no-such-vhost")), "vhost", "no-such-vhost", "not allowed", "not_allowed")


@pytest.mark.only("rabbitmq")
def test_m1_default_vhost(broker, mounts, backend):
    """M1: amqp://host/ and amqp://host mean the default vhost."""
    for url in (broker.url(), broker.url().rstrip("/"), broker.url() + "%2F"):
        target = mounts.add(url)
        queue = target.make(f"default-{backend.vhost}-{len(mounts.all)}")
        queue.publish(b"x")
        assert queue.consume(1) == [b"x"]
        eventually(lambda queue=queue: errno_of(os.rmdir, queue.path) == 0, what="rmdir")


@pytest.mark.only("rabbitmq")
def test_m3_password_is_nowhere(mount, mounts, backend):
    """M3: credentials never show in ps, /proc/mounts, `config` or logs."""
    backend.broker.add_user("secretive", "pass-sekret")
    backend.broker.set_permissions(backend.vhost, "secretive")
    target = mounts.add(backend.broker.url(backend.vhost, "secretive", "pass-sekret"))
    target.make("jobs").publish(b"x")
    assert "sekret" not in pathlib.Path("/proc/mounts").read_text(encoding="utf-8")
    for path in (target.path / ".mqfs").rglob("*"):
        if path.is_file():
            assert b"sekret" not in path.read_bytes(), path
    assert "sekret" not in target.log()
    assert mount is not None


@pytest.mark.only("rabbitmq")
def test_r1_helpers_refused(backend, mounts):
    """R1: if the helpers are refused, mv into retry/ and dead/ fails at once with EACCES, and nothing is lost."""
    backend.broker.add_user("plain", "plain")
    backend.broker.set_permissions(backend.vhost, "plain", configure="^$")
    backend.declare("jobs")
    target = mounts.add(backend.broker.url(backend.vhost, "plain", "plain"))
    queue = target.queue("jobs")
    queue.publish(b"x")
    name = queue.take()
    for where in ("retry", "dead"):
        assert errno_of(os.rename, queue.claimed / name, queue.path / where / name) == errno.EACCES
    assert queue.names("claimed") == [name]
    assert errno_of(os.mkdir, target.path / "more") == errno.EACCES
    os.unlink(queue.claimed / name)


@pytest.mark.only("rabbitmq")
def test_p7_no_permission_to_publish(backend, mounts):
    """P7: no permission: EACCES, and the draft stays."""
    backend.broker.add_user("reader", "reader")
    backend.broker.set_permissions(backend.vhost, "reader", write="^$")
    backend.declare("jobs")
    queue = mounts.add(backend.broker.url(backend.vhost, "reader", "reader")).queue("jobs")
    result = run(["cp", "/etc/hostname", queue.new / "job"])
    assert result.status != 0 and "Permission denied" in result.err
    assert queue.names("new") == ["job"]


# -- stores that are none ---------------------------------------------------

def checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def foreign_database(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, precious TEXT)")
        database.execute("INSERT INTO messages (precious) VALUES ('mine')")
    database.close()


def pages_of(path):
    """The pages in use: the file itself may be larger."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
        return database.execute("PRAGMA page_count").fetchone()[0]


def newer_database(path):
    """A store of a version to come must not be touched either."""
    with sqlite3.connect(path) as database:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        database.execute("PRAGMA user_version = 9999")
    database.close()
    return application


STORES = {
    "text": lambda path: path.write_text("this is no database\n" * 100),
    "short": lambda path: path.write_bytes(b"SQLite format 3\0"),
    "foreign": foreign_database,
    "zeroes": lambda path: path.write_bytes(bytes(8192)),
    "header-only": lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 32),
}


@pytest.mark.parametrize("kind", STORES)
def test_sqlite_foreign_file_is_refused(room, kind):
    """A foreign file is refused with a clear message and left untouched."""
    path = room / "store.db"
    STORES[kind](path)
    before = checksum(path)
    refused(try_mount(room, f"sqlite:{path}"), "store.db")
    assert checksum(path) == before
    assert sorted(entry.name for entry in room.iterdir() if entry.name.startswith("store")) == ["store.db"]


@pytest.mark.parametrize("damage", ["first-page", "middle", "truncated", "newer"])
def test_sqlite_damaged_store_is_refused(mounts, room, damage):
    """A damaged store is refused with a clear message and left untouched."""
    path = room / "store.db"
    target = mounts.add(f"sqlite:{path}")
    queue = target.make("jobs")
    for number in range(20):
        (queue.new / "job").write_bytes(b"%d" % number * 3000)
    assert target.terminate() == 0
    for suffix in ("-wal", "-shm"):
        pathlib.Path(f"{path}{suffix}").unlink(missing_ok=True)
    content = bytearray(path.read_bytes())
    if damage == "first-page":
        content[100:3000] = os.urandom(2900)
    elif damage == "middle":
        start = len(content) // 4096 // 4 * 4096
        content[4096:start * 3] = os.urandom(len(content[4096:start * 3]))
    elif damage == "truncated":
        del content[pages_of(path) // 2 * 4096:]
    path.write_bytes(content)
    if damage == "newer":
        newer_database(path)
    before = checksum(path)
    refused(try_mount(room, f"sqlite:{path}"), "store.db")
    assert checksum(path) == before


def test_sqlite_directory_or_unreadable(room):
    """A path that can't be a store: a directory, or in one that is not there."""
    (room / "store.db").mkdir()
    refused(try_mount(room, f"sqlite:{room}/store.db"), "store.db")
    assert os.listdir(room / "store.db") == []


def test_sqlite_store_is_the_owners(mounts, room):
    """The store holds other people's messages: only its owner may read it."""
    path = room / "store.db"
    mounts.add(f"sqlite:{path}").make("jobs").publish(b"x")
    for entry in room.glob("store.db*"):
        assert not entry.stat().st_mode & 0o077, entry


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_sqlite_full_disk(mounts, room):
    """A full disk is ENOSPC; the draft stays, and when there is room it can be sent."""
    disk = room / "disk"
    disk.mkdir()
    assert run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk]).status == 0
    try:
        target = mounts.add(f"sqlite:{disk}/store.db")
        queue = target.make("jobs")
        (disk / "ballast").write_bytes(bytes(6000000))
        sent = 0
        while (refusal := errno_of((queue.new / "job").write_bytes, b"%d" % sent * 200000)) == 0 and sent < 200:
            sent += 1
        assert refusal == errno.ENOSPC and sent > 0
        assert queue.names("new") == ["job"]
        (disk / "ballast").unlink()
        os.rename(queue.new / "job", queue.new / "again")
        assert len(queue.consume(sent + 1)) == sent + 1
        target.close()
    finally:
        run(["umount", "-l", disk])
