#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Random operations on ordinary files, done twice: in a directory under test and in one of the local filesystem.
Whatever one says, the other must say: results, errno, content, size, names.

    file_ops.py DIRECTORY MODEL SEED COUNT PREFIX

Files are called PREFIX and a letter; what else is in the directories is left alone, so several may run at once in
one directory. The files stay. On the first difference it prints the latest operations and ends with 1."""

import collections
import ctypes
import dataclasses
import errno
import fcntl
import mmap
import os
import random
import stat
import sys
import time

LETTERS = "abcdef"
DESCRIPTORS = 8
BOUND = 1 << 20  # max-body: nothing here goes beyond
CHUNK = 70000
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
KEEP_SIZE, PUNCH_HOLE = 1, 2
# What a filesystem need not have. The model then does not do it either.
OPTIONAL = {errno.EOPNOTSUPP, errno.ENODEV, errno.ENOSYS}
XATTRS = ("user.mqfs.header.one", "user.mqfs.header.two", "user.mqfs.app-id")


@dataclasses.dataclass
class Open:
    """One descriptor on each side."""

    test: int
    model: int
    flags: int


class Difference(Exception):
    """The two sides disagree."""


def outcome(action, *arguments):
    """What a call gives, or its errno."""
    try:
        return action(*arguments)
    except OSError as error:
        return OSError, errno.errorcode.get(error.errno, error.errno)


def digest(result):
    text = repr(result)
    return text if len(text) < 100 else f"{text[:80]}… ({len(text)})"


class Pair:
    """The two directories, and the operations."""

    def __init__(self, test, model, prefix, chance):
        self.test = test
        self.model = model
        self.prefix = prefix
        self.chance = chance
        self.descriptors = []
        self.history = collections.deque(maxlen=60)
        self.xattrs = {}  # inode in the model -> {name: value}: not every local filesystem has them
        self.known = set()

    # -- doing it twice ----------------------------------------------------

    def compare(self, what, test, model):
        self.history.append(f"{what}: {digest(test)}")
        if test != model:
            raise Difference(f"{what}: {digest(test)}, the model says {digest(model)}")
        return test

    def both(self, what, action, *pairs):
        """Calls action with the test's half of each pair, then with the model's."""
        test = outcome(action, *(pair[0] if isinstance(pair, tuple) else pair for pair in pairs))
        if isinstance(test, tuple) and test[:1] == (OSError,) and getattr(errno, test[1]) in OPTIONAL:
            self.history.append(f"{what}: {test[1]}")
            return test
        model = outcome(action, *(pair[1] if isinstance(pair, tuple) else pair for pair in pairs))
        return self.compare(what, test, model)

    def paths(self, name):
        return f"{self.test}/{name}", f"{self.model}/{name}"

    def some_name(self):
        return self.prefix + self.chance.choice(LETTERS)

    def some_descriptor(self):
        if not self.descriptors:
            self.open()
        return self.chance.choice(self.descriptors) if self.descriptors else None

    def some_data(self):
        size = self.chance.choice((0, 1, 10, 511, 4096, 5000, CHUNK))
        return self.chance.randbytes(16) * (self.chance.randrange(size + 1) // 16 + 1) if size else b""

    def some_offset(self, room=CHUNK + 16):
        return self.chance.choice((0, 1, 4095, 4096, self.chance.randrange(20000), self.chance.randrange(BOUND - room)))

    # -- opening and closing ----------------------------------------------

    def open(self):
        name = self.some_name()
        flags = self.chance.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
        more = ((os.O_CREAT, 0.7), (os.O_EXCL, 0.1), (os.O_TRUNC, 0.15), (os.O_APPEND, 0.2))
        flags |= sum(flag for flag, share in more if self.chance.random() < share)
        if flags & os.O_EXCL and not flags & os.O_CREAT:
            flags &= ~os.O_EXCL
        if flags & os.O_ACCMODE == os.O_RDONLY:
            flags &= ~os.O_TRUNC  # unspecified
        if len(self.descriptors) >= DESCRIPTORS:
            self.close()
        new = not os.path.lexists(f"{self.model}/{name}")
        test, model = (outcome(os.open, path, flags, 0o640) for path in self.paths(name))
        self.compare(f"open {name} {flags:#o}", isinstance(test, int) or test, isinstance(model, int) or model)
        if isinstance(test, int):
            self.descriptors.append(Open(test, model, flags))
            if new:
                self.xattrs.pop(os.fstat(model).st_ino, None)

    def dup(self):
        one = self.some_descriptor()
        if one and len(self.descriptors) < DESCRIPTORS:
            self.history.append("dup")
            self.descriptors.append(Open(os.dup(one.test), os.dup(one.model), one.flags))

    def close(self):
        if self.descriptors:
            one = self.descriptors.pop(self.chance.randrange(len(self.descriptors)))
            self.both("close", os.close, (one.test, one.model))

    # -- content -----------------------------------------------------------

    def on_descriptor(self, what, action, *arguments):
        one = self.some_descriptor()
        return self.both(f"{what} {digest(arguments)}", action, (one.test, one.model), *arguments) if one else None

    def pwrite(self):
        """On Linux pwrite() to a descriptor with O_APPEND appends: as on the model."""
        data, offset = self.some_data(), self.some_offset()
        one = self.some_descriptor()
        if one and os.fstat(one.model).st_size + len(data) <= BOUND:
            self.both(f"pwrite {len(data)} at {offset}", os.pwrite, (one.test, one.model), data, offset)

    def write(self):
        """Where the descriptor is, or at the end."""
        data = self.some_data()
        one = self.some_descriptor()
        if one and max(os.lseek(one.model, 0, os.SEEK_CUR), os.fstat(one.model).st_size) + len(data) <= BOUND:
            self.both(f"write {len(data)}", os.write, (one.test, one.model), data)

    def writev(self):
        parts = [self.some_data() for _ in range(3)]
        offset = self.some_offset(3 * CHUNK + 48)
        one = self.some_descriptor()
        if one and os.fstat(one.model).st_size + sum(map(len, parts)) <= BOUND:
            sizes = [len(part) for part in parts]
            self.both(f"pwritev {sizes} at {offset}", os.pwritev, (one.test, one.model), parts, offset)

    def pread(self):
        self.on_descriptor("pread", os.pread, self.chance.choice((0, 1, 4096, CHUNK, BOUND)), self.some_offset())

    def read(self):
        self.on_descriptor("read", os.read, self.chance.choice((0, 1, 4096, CHUNK)))

    def seek(self):
        how = self.chance.choice((os.SEEK_SET, os.SEEK_CUR, os.SEEK_END))
        self.on_descriptor("lseek", os.lseek, self.chance.choice((0, 5, 5000, -1, -3000)), how)

    def ftruncate(self):
        self.on_descriptor("ftruncate", os.ftruncate, self.some_offset())

    def truncate(self):
        name = self.some_name()
        self.both(f"truncate {name}", os.truncate, self.paths(name), self.some_offset())

    def fsync(self):
        self.on_descriptor("fsync", self.chance.choice((os.fsync, os.fdatasync)))

    def posix_fallocate(self):
        """The C library reads and writes where the filesystem has no fallocate: it needs a descriptor for both."""
        one = self.some_descriptor()
        offset, size = self.some_offset(), self.chance.randrange(1, 9000)
        if one and one.flags & os.O_ACCMODE == os.O_RDWR and not one.flags & os.O_APPEND:
            self.both(f"posix_fallocate {size} at {offset}", os.posix_fallocate, (one.test, one.model), offset, size)

    def fallocate(self):
        mode = self.chance.choice((0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE))

        def call(descriptor, offset, size):
            if LIBC.fallocate(descriptor, mode, offset, size):
                raise OSError(ctypes.get_errno(), "fallocate")

        self.on_descriptor(f"fallocate {mode}", call, self.some_offset(), self.chance.randrange(1, 9000))

    def copy_range(self):
        """Within the filesystem, from one file to another."""
        source, target = self.some_descriptor(), self.some_descriptor()
        if not source or not target or target.flags & os.O_APPEND:
            return
        if os.path.samestat(os.fstat(source.model), os.fstat(target.model)):
            return  # ranges that overlap
        size, start, to = self.chance.randrange(CHUNK), self.some_offset(), self.some_offset()
        self.both(f"copy_file_range {size} from {start} to {to}", os.copy_file_range, (source.test, source.model),
                  (target.test, target.model), size, start, to)

    def mmap_private(self):
        one = self.some_descriptor()
        if not one or one.flags & os.O_ACCMODE == os.O_WRONLY:
            return
        size = os.fstat(one.model).st_size

        def content(descriptor):
            with mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ) as view:
                return view[:]

        if size:
            self.both("mmap private", content, (one.test, one.model))

    def mmap_shared(self):
        """Where it is refused, it is so always."""
        one = self.some_descriptor()
        if not one or one.flags & os.O_ACCMODE != os.O_RDWR or not os.fstat(one.model).st_size:
            return

        def patch(descriptor):
            with mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as view:
                view[0] = 0x21

        self.both("mmap shared", patch, (one.test, one.model))

    def lock(self):
        kind = self.chance.choice((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN)) | fcntl.LOCK_NB
        self.on_descriptor("flock", fcntl.flock, kind)

    # -- names -------------------------------------------------------------

    def rename(self):
        source, target = self.some_name(), self.some_name()
        sources, targets = self.paths(source), self.paths(target)
        self.both(f"rename {source} {target}", os.rename, sources, targets)

    def unlink(self):
        name = self.some_name()
        self.both(f"unlink {name}", os.unlink, self.paths(name))

    def names(self):
        def listed(directory):
            return sorted(name for name in os.listdir(directory) if name.startswith(self.prefix))

        self.both("readdir", listed, (self.test, self.model))

    # -- attributes --------------------------------------------------------

    @staticmethod
    def attributes(st):
        return stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), st.st_size, st.st_nlink, st.st_uid, st.st_gid

    def stat(self):
        name = self.some_name()
        self.both(f"stat {name}", lambda path: self.attributes(os.stat(path)), self.paths(name))

    def fstat(self):
        self.on_descriptor("fstat", lambda descriptor: self.attributes(os.fstat(descriptor)))

    def same_file(self):
        """Two descriptors are of one file, or of two, on both sides."""
        one, other = self.some_descriptor(), self.some_descriptor()
        if one and other:
            self.both("same file", lambda a, b: os.path.samestat(os.fstat(a), os.fstat(b)),
                      (one.test, one.model), (other.test, other.model))

    def chmod(self):
        mode = self.chance.choice((0o600, 0o644, 0o755, 0o400))
        name = self.some_name()
        self.both(f"chmod {name}", os.chmod, self.paths(name), mode)

    def times(self):
        """What utimens sets, stat shows; a change of the content sets it to now."""
        name = self.some_name()
        seconds = self.chance.randrange(10**9)
        stamp = seconds * 10**9 + self.chance.randrange(10**6) * 1000
        self.both(f"utimens {name}", lambda path: os.utime(path, ns=(stamp + 7 * 10**9, stamp)), self.paths(name))
        self.both(f"times of {name}", lambda path: (os.stat(path).st_mtime_ns, os.stat(path).st_atime_ns),
                  self.paths(name))

    def touched(self):
        one = self.some_descriptor()
        size = os.fstat(one.model).st_size if one else 0
        if not one or one.flags & os.O_ACCMODE == os.O_RDONLY or size >= BOUND:
            return
        change = self.chance.choice((lambda descriptor: os.pwrite(descriptor, b"x", 0),
                                     lambda descriptor: os.ftruncate(descriptor, size // 2 + 1), os.utime))

        def recent(descriptor):
            os.utime(descriptor, ns=(10**9, 10**9))
            change(descriptor)
            return abs(os.fstat(descriptor).st_mtime - time.time()) < 60

        self.both("a change sets mtime", recent, (one.test, one.model))

    def setxattr(self):
        """Against a table of its own: not every local filesystem keeps them."""
        one = self.some_descriptor()
        if not one:
            return
        table = self.xattrs.setdefault(os.fstat(one.model).st_ino, {})
        name = self.chance.choice(XATTRS)
        value = b"%d" % self.chance.randrange(1000)
        flags = self.chance.choice((0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))
        expected = None
        if flags == os.XATTR_CREATE and name in table:
            expected = OSError, "EEXIST"
        elif flags == os.XATTR_REPLACE and name not in table:
            expected = OSError, "ENODATA"
        else:
            table[name] = value
        self.compare(f"setxattr {name} {flags}", outcome(os.setxattr, one.test, name, value, flags), expected)

    def getxattr(self):
        one = self.some_descriptor()
        if not one:
            return
        table = self.xattrs.get(os.fstat(one.model).st_ino, {})
        name = self.chance.choice(XATTRS)
        self.compare(f"getxattr {name}", outcome(os.getxattr, one.test, name), table.get(name, (OSError, "ENODATA")))
        listed = outcome(os.listxattr, one.test)
        if isinstance(listed, list):
            listed = sorted(set(listed) & set(XATTRS))
        self.compare("listxattr", listed, sorted(table))

    def removexattr(self):
        one = self.some_descriptor()
        if not one:
            return
        table = self.xattrs.get(os.fstat(one.model).st_ino, {})
        name = self.chance.choice(XATTRS)
        expected = None if table.pop(name, None) is not None else (OSError, "ENODATA")
        self.compare(f"removexattr {name}", outcome(os.removexattr, one.test, name), expected)

    # -- all of it ---------------------------------------------------------

    WEIGHTS = {
        "open": 10, "dup": 2, "close": 6, "pwrite": 10, "write": 8, "writev": 3, "pread": 8, "read": 6, "seek": 6,
        "ftruncate": 6, "truncate": 4, "fsync": 2, "posix_fallocate": 1, "fallocate": 2, "copy_range": 3,
        "mmap_private": 3, "mmap_shared": 1, "lock": 1, "rename": 6, "unlink": 3, "names": 3, "stat": 4, "fstat": 4,
        "same_file": 2, "chmod": 2, "times": 2, "touched": 2, "setxattr": 3, "getxattr": 3, "removexattr": 1,
    }

    def step(self):
        name, = self.chance.choices(list(self.WEIGHTS), self.WEIGHTS.values())
        getattr(self, name)()

    def whole_content(self):
        for letter in LETTERS:
            name = self.prefix + letter
            self.both(f"content of {name}", lambda path: open(path, "rb").read(), self.paths(name))

    def end(self):
        while self.descriptors:
            self.close()
        self.whole_content()
        self.names()


def main():
    test, model, seed, count, prefix = sys.argv[1:]
    pair = Pair(test, model, prefix, random.Random(f"{seed} {prefix}"))
    try:
        for number in range(int(count)):
            pair.step()
            if number % 500 == 499:
                pair.whole_content()
        pair.end()
    except Difference as difference:
        print("\n".join([*pair.history, f"seed {seed}, prefix {prefix}: {difference}"]))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
