# SPDX-License-Identifier: MIT
"""Every way of writing a file that the contract knows: each must become exactly one whole message.

A writer is called with (source, target): it writes the bytes of the file source to the file target and
fails like a person's command would, by a status that is not 0. `reports` tells that it reports what
close() said; `keeps` that it leaves the refused file where it was (mv and rsync clean up)."""

import concurrent.futures
import contextlib
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys

from processes import SHELLS, run

# Several short lines and one longer than a pipe's buffer: a writer that needs one write() for the
# whole file would pass with less.
CONTENT = b"".join(b"line %d\n" % number for number in range(200)) + b"x" * 70000 + b"\nthe end\n"


@dataclasses.dataclass(frozen=True)
class Writer:
    write: object
    reports: bool = True
    keeps: bool = True


def check(result):
    if result.status:
        raise OSError(f"status {result.status}: {result.err}")


def snippet(script, kind):
    """Runs a shell snippet that uses $src, $dst and $dir (where dst is)."""
    def write(source, target):
        environment = {**os.environ, "src": str(source), "dst": str(target), "dir": str(target.parent)}
        check(run([*SHELLS[kind], script], env=environment, cwd=source.parent))
    return write


# Where the shell opened the file its redirection ends in dup2(), which throws the error of close() away:
# False. dash and busybox open it themselves even for other programs, bash does so in the program's
# process: None means "in bash".
SHELL_SNIPPETS = {
    "cat": ('cat "$src" > "$dst"', None),
    "append": ('cat "$src" >> "$dst"', None),
    "builtin-echo": ('echo "$(cat "$src")" > "$dst"', False),
    "builtin": ('read -r l < "$src"; c=$(cat "$src"); printf "%s\\n" "$c" > "$dst"', False),
    "group": ('{ head -n 1 "$src"; echo warning >&2; tail -n +2 "$src"; } > "$dst"', False),
    "subshell": ('(head -n 1 "$src"; tail -n +2 "$src") > "$dst"', None),
    "while": ('while read -r l; do printf "%s\\n" "$l"; done < "$src" > "$dst"', False),
    "exec": ('exec 3> "$dst"; head -n 1 "$src" >&3; tail -n +2 "$src" >&3; exec 3>&-', None),
    "exec-no-close": ('exec 3> "$dst"; head -n 1 "$src" >&3; tail -n +2 "$src" >&3', None),
    "exec-twice": ('exec 3> "$dst" 4>&3; head -n 1 "$src" >&3; exec 3>&-; tail -n +2 "$src" >&4; exec 4>&-', None),
    "exec-stdout": ('exec > "$dst"; head -n 1 "$src"; tail -n +2 "$src"', None),
    "background": ('{ head -n 1 "$src" & wait; tail -n +2 "$src"; } > "$dst"', None),
    "function": ('f() { head -n 1 "$src"; tail -n +2 "$src"; }; f > "$dst"', None),
    "pipeline": ('cat "$src" | cat > "$dst"', True),
    "hidden-mv": ('cat "$src" > "$dir/.draft" && mv "$dir/.draft" "$dst"', True),
    "here-document": ('c=$(cat "$src"); cat > "$dst" <<EOF\n$c\nEOF', None),
}

COMMANDS = {
    "cp": "cp $src $dst",
    "cp-p": "cp -p $src $dst",
    "cp-a": "cp -a $src $dst",
    "busybox-cp": "busybox cp $src $dst",
    "busybox-cp-p": "busybox cp -p $src $dst",
    "install": "install $src $dst",
    "install-modes": "install -p -m 640 $src $dst",
    "dd": "dd if=$src of=$dst bs=1000 status=none",
    "dd-one-write": "dd if=$src of=$dst bs=1M status=none",
    "dd-fsync": "dd if=$src of=$dst bs=8k conv=fsync status=none",
    "dd-notrunc": "dd if=$src of=$dst bs=8k conv=notrunc status=none",
    "busybox-dd": "busybox dd if=$src of=$dst bs=4096",
    "tee": "sh -c 'tee $dst < $src > /dev/null'",
    "tee-append": "sh -c 'tee -a $dst < $src > /dev/null'",
    "busybox-tee": "sh -c 'busybox tee $dst < $src > /dev/null'",
    "awk": "sh -c \"awk '{ print > out }' out=$dst $src\"",
    "perl": "perl -MFile::Copy -e 'copy(@ARGV) or die $!' $src $dst",
    "perl-print": "perl -e 'open F, qq(<), shift; open G, qq(>), shift or die; print G <F>; close G or die' $src $dst",
    "rsync-inplace": "rsync --inplace $src $dst",
    "rsync-a-inplace": "rsync -a --inplace $src $dst",
    "rsync-inplace-whole": "rsync --inplace --whole-file --no-times $src $dst",
    "vim": "vim.tiny -u NONE -es -c 'set nofixeol' -c 'w $dst' -c 'q!' $src",
    "vim-edit": "vim.tiny -u NONE -es -c 'r $src' -c 'wq' $dst",
    "ex": "sh -c \"printf 'r $src\\nwq\\n' | vim.tiny -e -s -u NONE $dst\"",
}

# These make a file of their own beside the target and rename it, or take the target away again
# when it failed.
CLEANING_COMMANDS = {
    "rsync": "rsync $src $dst",
    "rsync-a": "rsync -a $src $dst",
    "mv": "sh -c 'cp -p $src $src.moved && mv $src.moved $dst'",
    "busybox-mv": "sh -c 'cp -p $src $src.moved && busybox mv $src.moved $dst'",
    "tar": "sh -c 'tar -C $srcdir -cf - --transform=s/.*/$name/ $srcname | tar -C $dir -xf -'",
    "busybox-tar": "sh -c 'ln -sf $srcname $srcdir/$name && tar -C $srcdir -chf - $name | busybox tar -C $dir -xf -'",
    "gunzip": "sh -c 'gzip -c $src | gunzip -c > $dst'",
}


# These do not look at what close() says.
CARELESS = ("busybox-tee", "busybox-tar")


def command(line):
    def write(source, target):
        names = {"src": source, "dst": target, "dir": target.parent, "name": target.name,
                 "srcdir": source.parent, "srcname": source.name}
        words = shlex.split(line)
        for name in sorted(names, key=len, reverse=True):
            words = [word.replace(f"${name}", str(names[name])) for word in words]
        check(run(words, cwd=source.parent))
    return write


# -- Python -----------------------------------------------------------------

@contextlib.contextmanager
def opened(target, flags=os.O_WRONLY | os.O_CREAT):
    """os.open; close() reports unless something else already went wrong."""
    descriptor = os.open(target, flags, 0o600)
    try:
        yield descriptor
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
    os.close(descriptor)


def python_with(source, target):
    with open(target, "wb") as file:
        file.write(source.read_bytes())


def python_many_writes(source, target):
    with open(target, "wb", buffering=0) as file:
        for line in source.read_bytes().splitlines(keepends=True):
            file.write(line)


def python_exclusive(source, target):
    with open(target, "xb") as file:
        file.write(source.read_bytes())


def python_backwards(source, target):
    content = source.read_bytes()
    with opened(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as descriptor:
        for start in reversed(range(0, len(content), 10000)):
            os.pwrite(descriptor, content[start:start + 10000], start)


def python_patched(source, target):
    """A writer that comes back to its first bytes, as zip and media muxers do."""
    content = source.read_bytes()
    with open(target, "w+b") as file:
        file.write(b"?" * 100 + content[100:])
        file.seek(0)
        file.write(content[:100])
        file.seek(0)
        assert file.read() == content


def python_truncated(source, target):
    with open(target, "wb") as file:
        file.write(source.read_bytes() + b"too much")
        file.truncate(source.stat().st_size)


def python_writev(source, target):
    content = source.read_bytes()
    with opened(target) as descriptor:
        if os.writev(descriptor, [content[:5], content[5:1000], content[1000:]]) != len(content):
            raise OSError("a short write")


def python_dup(source, target):
    """The first descriptor is closed in the middle."""
    content = source.read_bytes()
    first = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
    with contextlib.closing(os.fdopen(os.dup(first), "wb", buffering=0)) as second:
        os.write(first, content[:1000])
        os.close(first)
        view = memoryview(content)[1000:]
        while view:
            view = view[second.write(view):]


def python_fork(source, target):
    """The child writes and exits first; the parent writes on."""
    content = source.read_bytes()
    script = """
import os, sys
content = open(sys.argv[1], "rb").read()
file = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT, 0o600)
child = os.fork()
if child == 0:
    os.write(file, content[:1000])
    os._exit(0)
os.waitpid(child, 0)
os.write(file, content[1000:])
os.close(file)
"""
    assert content
    check(run([sys.executable, "-c", script, source, target]))


def python_popen(source, target):
    """The parent closes first; the child, which got the descriptor, writes it all."""
    with open(target, "wb") as file:
        child = subprocess.Popen(["cat", source], stdout=file)
    if child.wait(20):
        raise OSError("cat failed")


def python_popen_middle(source, target):
    """The parent closes while the child, which has written a part, is not done."""
    script = """
import os, sys
content = open(sys.argv[1], "rb").read()
os.write(1, content[:1000])
os.write(2, b"!")
sys.stdin.read()
os.write(1, content[1000:])
"""
    with open(target, "wb") as file:
        child = subprocess.Popen([sys.executable, "-c", script, source], stdin=subprocess.PIPE, stdout=file,
                                 stderr=subprocess.PIPE)
        child.stderr.read(1)
    child.communicate(timeout=20)
    if child.returncode:
        raise OSError("the child failed")


def python_popen_run(source, target):
    with open(target, "wb") as file:
        subprocess.run(["cat", source], stdout=file, check=True, timeout=20)


def python_threads(source, target):
    content = source.read_bytes()
    parts = [(start, content[start:start + 20000]) for start in range(0, len(content), 20000)]
    with opened(target) as descriptor, concurrent.futures.ThreadPoolExecutor(4) as pool:
        for written in [pool.submit(os.pwrite, descriptor, part, start) for start, part in parts]:
            written.result()


def python_other_thread_closes(source, target):
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            os.write(descriptor, source.read_bytes())
        finally:
            closed = pool.submit(os.close, descriptor)
        closed.result()


def python_replace(source, target):
    draft = target.with_name(f".{target.name}.tmp")
    draft.write_bytes(source.read_bytes())
    os.replace(draft, target)


def python_move(source, target):
    copy = source.with_name("moved")
    shutil.copyfile(source, copy)
    shutil.move(copy, target)


PYTHON = {
    "with": Writer(python_with),
    "many-writes": Writer(python_many_writes),
    "exclusive": Writer(python_exclusive),
    "backwards": Writer(python_backwards),
    "patched": Writer(python_patched),
    "truncated": Writer(python_truncated),
    "writev": Writer(python_writev),
    "dup": Writer(python_dup),
    "fork": Writer(python_fork),
    "popen": Writer(python_popen, reports=False),
    "popen-middle": Writer(python_popen_middle, reports=False),
    "popen-run": Writer(python_popen_run),
    "threads": Writer(python_threads),
    "other-thread-closes": Writer(python_other_thread_closes),
    "copyfile": Writer(shutil.copyfile),
    "copy": Writer(shutil.copy),
    "copy2": Writer(shutil.copy2),
    "move": Writer(python_move),
    "replace": Writer(python_replace, keeps=False),
}

WRITERS = {f"python-{name}": writer for name, writer in PYTHON.items()}
WRITERS.update({name: Writer(command(line), name not in CARELESS) for name, line in COMMANDS.items()})
WRITERS.update({name: Writer(command(line), name not in CARELESS, keeps=False)
                for name, line in CLEANING_COMMANDS.items()})


def reports(can_report, shell, name):
    return bool(can_report) or (can_report is None and shell == "bash" and name in ("cat", "append", "here-document"))


for shell_name in SHELLS:
    for snippet_name, (text, can_report) in SHELL_SNIPPETS.items():
        WRITERS[f"{shell_name}-{snippet_name}"] = Writer(
            snippet(text, shell_name), reports(can_report, shell_name, snippet_name), snippet_name != "hidden-mv")
