# SPDX-License-Identifier: MIT
"""Settings: -o key=value and the files of config/ (M7)."""

import errno
import os

import pytest

from processes import SHELLS, eventually, run
from test_drafts import errno_of

# name, a good value, what reads back.
GOOD = [
    ("prefetch", "4", "4"), ("priority", "7", "7"), ("max-attempts", "3", "3"), ("backoff-factor", "1.5", "1.5"),
    ("ack-on", "read", "read"), ("take-on", "move", "move"), ("look-max", "50", "50"),
]
DURATIONS = ["backoff-base", "backoff-max", "claim-timeout", "pending-timeout", "idle-release"]
BAD = [
    ("prefetch", "0"), ("prefetch", "65536"), ("prefetch", "many"), ("prefetch", "-1"), ("prefetch", ""),
    ("priority", "256"), ("max-attempts", "0"), ("max-attempts", "1001"), ("backoff-base", "soon"),
    ("backoff-base", "5 parsecs"), ("backoff-factor", "x"), ("claim-timeout", "-5s"), ("ack-on", "never"),
    ("take-on", "sight"), ("max-body", "huge"), ("look-max", "0"), ("prefetch", "99999999999999999999"),
    ("prefetch", "4 4"), ("prefetch", "4\0"), ("idle-release", "1e999s"),
]


def read(queue, name):
    return (queue.path / "config" / name).read_text().strip()


def test_m7_every_setting_has_a_file(queue):
    """M7: what can change at run time is a file in config/."""
    names = set(os.listdir(queue.path / "config"))
    assert {name for name, _, _ in GOOD} | set(DURATIONS) | {"max-body"} <= names
    for name in names:
        text = (queue.path / "config" / name).read_text()
        assert text.endswith("\n") and len(text.splitlines()) == 1, name


@pytest.mark.parametrize("name, value, shown", GOOD)
def test_m7_write_and_read(queue, name, value, shown):
    """M7: writing a file of config/ changes the setting."""
    (queue.path / "config" / name).write_text(f"{value}\n")
    assert read(queue, name) == shown


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("same", [("1500ms", "1.5s"), ("90s", "90"), ("2min", "120s"), ("1h", "60min"), ("90s", " 90s\n")],
                         ids=range(5))
def test_m7_durations(queue, name, same):
    """M7: times take ms, s, min, h; a bare number is seconds; what is read can be written."""
    shown = []
    for text in same:
        (queue.path / "config" / name).write_text(text)
        shown.append(read(queue, name))
    assert shown[0] == shown[1]
    (queue.path / "config" / name).write_text(shown[0])
    assert read(queue, name) == shown[0]


@pytest.mark.parametrize("name, value", BAD)
def test_m7_bad_values(queue, name, value):
    """M7: a bad value gets EINVAL and changes nothing."""
    before = read(queue, name)
    descriptor = os.open(queue.path / "config" / name, os.O_WRONLY | os.O_TRUNC)
    refusal = errno_of(os.write, descriptor, value.encode()) if value else errno.EINVAL
    closing = errno_of(os.close, descriptor)
    assert errno.EINVAL in (refusal, closing)
    assert read(queue, name) == before


@pytest.mark.parametrize("kind", SHELLS)
def test_m7_shells_see_the_refusal(queue, kind):
    """M7: `echo bad > config/prefetch` fails as in sysfs, and a good value does not."""
    assert queue.mount.sh(f"echo 9 > {queue.name}/config/prefetch", kind).status == 0
    result = queue.mount.sh(f"echo bad > {queue.name}/config/prefetch", kind)
    assert result.status != 0 and result.err
    assert read(queue, "prefetch") == "9"


def test_m7_queues_have_their_own(queue):
    """M7: config/ is the queue's."""
    other = queue.mount.make(f"{queue.name}-other")
    (queue.path / "config" / "prefetch").write_text("3")
    assert (read(queue, "prefetch"), read(other, "prefetch")) == ("3", "16")


def test_m7_takes_effect(mount):
    """M7: max-body, priority and max-attempts work from the next message on."""
    queue = mount(backoff_base="60s").make("jobs")
    config = queue.path / "config"
    (config / "max-body").write_text("4K")
    assert errno_of((queue.new / "job").write_bytes, b"x" * 5000) == errno.EFBIG
    (config / "max-body").write_text("8K")
    (config / "priority").write_text("6")
    (queue.new / "job").write_bytes(b"x" * 5000)
    (name,) = queue.wait_names("pending", 1)
    assert queue.xattr("pending", name, "priority") == "6"
    (config / "max-attempts").write_text("1")
    queue.fail_to("retry")
    queue.wait_names("dead", 1)


def test_m7_only_settings_are_there(queue):
    """M7: nothing else can be made, removed or renamed there."""
    config = queue.path / "config"
    assert errno_of((config / "nonsense").write_text, "1") != 0
    assert errno_of(os.unlink, config / "prefetch") != 0
    assert errno_of(os.rename, config / "prefetch", config / "postfetch") not in (0, errno.EXDEV)
    assert errno_of(os.mkdir, config / "sub") != 0
    assert read(queue, "prefetch")


def test_m7_options(mount):
    """M7: -o key=value."""
    queue = mount(prefetch=4, backoff_base="1500ms", ack_on="read", max_attempts=3, claim_timeout="2h").make("jobs")
    assert [read(queue, name) for name in ("prefetch", "ack-on", "max-attempts")] == ["4", "read", "3"]
    (queue.path / "config" / "backoff-max").write_text("1500ms")
    assert read(queue, "backoff-base") == read(queue, "backoff-max")


@pytest.mark.only("sqlite")
@pytest.mark.parametrize("options", ["nonsense=1", "prefetch=0", "prefetch=x", "backoff-base=soon", "ack-on=never",
                                     "prefetch", "max-body=-1"])
def test_m7_bad_options(backend, room, options):
    """M7: an unknown setting or a bad value is refused by name, before anything is mounted."""
    from mounted import daemon_path, is_mounted  # pylint: disable=import-outside-toplevel
    directory = room / "mnt"
    directory.mkdir()
    result = run([daemon_path(), "mount", "-f", "-o", options, backend.url, directory],
                 env={**os.environ, "HOME": str(room), "XDG_STATE_HOME": str(room)})
    assert result.status > 0
    assert options.split("=", maxsplit=1)[0] in result.err
    assert not is_mounted(directory)


def test_m7_written_in_pieces_and_read_twice(queue):
    """M7: one write is one value; a file may be read at any offset and while it is open for writing."""
    path = queue.path / "config" / "prefetch"
    with open(path, "r+b", buffering=0) as file:
        assert file.read(1) == b"1" and file.read() == b"6\n"
        file.seek(0)
        file.write(b"12")
    assert run(["sh", "-c", "cat config/*"], cwd=queue.path).status == 0
    eventually(lambda: read(queue, "prefetch") == "12", what="the value")
