# SPDX-License-Identifier: MIT
"""stress-ng's filesystem stressors on dot-files, where they apply (P2).

Those that need directories (dir, dirdeep, dirmany, inotify), links (link, symlink), devices (mknod), extents
(fiemap), fallocate (fallocate, fpunch, fsize), shared writable mappings (msync, mmapfork), attributes by any name
(xattr) or files beyond what a message may have (copy-file) find in new/ what the rules say: none. access, filename
and utime make system calls of their own, past dot_names.c. io syncs every mount of the host, also those of tests beside
this one, which may have stopped them."""

import os
import re
import subprocess

import pytest

from processes import run

STRESSORS = ("aio", "chmod", "chown", "dup", "fcntl", "flock", "fstat", "getdent", "handle", "hdd", "iomix",
             "lease", "locka", "lockf", "lockofd", "open", "readahead", "rename", "seek", "sendfile", "splice",
             "sync-file", "touch")
SIZES = ("--hdd-bytes=1m", "--iomix-bytes=1m", "--readahead-bytes=1m", "--sync-file-bytes=1m", "--splice-bytes=64k",
         "--seek-size=1m", "--sendfile-size=1m")
SECONDS = 8


@pytest.fixture
def shim(room):
    """See dot_names.c."""
    source = os.path.join(os.path.dirname(__file__), "dot_names.c")
    library = room / "dot_names.so"
    subprocess.run(["cc", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return library


def metrics(text):
    """{stressor: operations}"""
    line = re.compile(r"metrc: \[\d+\] (\S+) +(\d+) +[\d.]+ +[\d.]+ +[\d.]+ ")
    return {name: int(count) for name, count in line.findall(text)}


@pytest.mark.deadline(200)
@pytest.mark.only("sqlite")  # drafts are the mount's own until they are published
def test_p2_stress_ng(mount, room, shim):
    """P2: all at once, each verifying what it reads; then the mount is as it was."""
    queue = mount(max_body="64M").make("jobs")
    left = STRESSORS
    for _ in range(3):  # on a busy machine not each of them comes to its turn
        words = ["stress-ng", *(f"--{name}=1" for name in left), *SIZES, f"--timeout={SECONDS}", "--verify",
                 "--metrics", "--temp-path", queue.new]
        result = run(words, timeout=90, env={**os.environ, "LD_PRELOAD": str(shim)}, cwd=room)
        text = result.out + result.err
        assert result.status == 0, text
        did = metrics(text)
        left = [name for name in left if not did.get(name)]
        if not left:
            break
    assert not left, text
    queue.publish(b"after")
    assert queue.consume(1) == [b"after"]
