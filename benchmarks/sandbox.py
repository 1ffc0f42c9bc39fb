"""Runs a command in a forked process of its own, with limits, and judges what it did: to tests of damaged input.

It needs Linux. What a process may do is not prevented, but noticed; only connections are refused.
"""

import faulthandler
import io
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ADDRESSES = 8000
"""Megabytes of addresses that a process may take beside those it has, so that none can take the machine down."""
SECRET = "5ec7e1-of-another-folder"
"""What stands in a file outside of what a command is given. It must not turn up elsewhere."""

Command = Callable[[list[str]], int]
Listing = dict[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is run.

    Attributes:
        command: takes arguments, and returns an exit code.
        words: the arguments.
        damage: what was done to its input.
        may_connect: whether it may try to connect, because its input names an address. Even so no connection is made.
    """

    command: Command
    words: tuple[str, ...]
    damage: str
    may_connect: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a process may take.

    Attributes:
        seconds: of time.
        megabytes: of memory, beside what it has when it is forked.
    """

    seconds: float
    megabytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The folders of a worker. All that a command may see as its home, its cache, and so on.

    Attributes:
        path: the folder of all of them.
        seeds: the folder of the good files, which all workers share.
    """

    path: Path
    seeds: Path

    @property
    def case(self) -> Path:
        """The folder of a case; the command is given what lies in it."""
        return self.path / "case"

    @property
    def outside(self) -> Path:
        """A folder beside it, with a secret."""
        return self.path / "outside"

    def make(self) -> "Box":
        """Makes the folders, and returns the box."""
        for name in ("case", "outside", "home", "cache", "tmp", "cwd"):
            (self.path / name).mkdir(parents=True)
        (self.outside / "secret.txt").write_text(f"{SECRET}\n")
        (self.outside / "config.json").write_text(f'{{"model_type": "bert", "secret": "{SECRET}"}}')
        return self

    def listing(self, *names: str) -> Listing:
        """Returns mode, size, time of change and target of all that lies in these folders of the box.

        Without names it is all but the input, and the good files. A folder's time is left out, because a command may
        make something in it and remove that again.
        """
        found: Listing = {}
        folders = [self.path / name for name in names or ("outside", "home", "cache", "tmp", "cwd")]
        folders += [] if names else [self.seeds]
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    stat = entry.stat(follow_symlinks=False)
                    folder = entry.is_dir(follow_symlinks=False)
                    facts = () if folder else (stat.st_size, stat.st_mtime_ns, stat.st_ino)
                    found[entry.path] = (stat.st_mode, *facts, entry.is_symlink() and os.readlink(entry.path))
                    if folder:
                        folders.append(Path(entry.path))
        return found

    def empty(self) -> None:
        """Removes what a case has left behind."""
        folders = [self.path / name for name in ("case", "home", "cache", "tmp", "cwd")]
        # Python's own rmtree gives up where folders lie some hundred levels deep.
        subprocess.run(["rm", "-rf", *folders], check=True)
        for folder in folders:
            folder.mkdir()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process has ended.

    Attributes:
        code: its exit code; minus the number of the signal that ended it.
        seconds: how long it took.
        megabytes: the most memory that it had, beside what it had when it was forked.
        out: what it printed.
        err: what it printed on stderr.
        touched: what it did that no command may do, as the audit hook saw it.
        stopped: why it was ended; "" if it ended by itself.
    """

    code: int
    seconds: float
    megabytes: float
    out: bytes
    err: bytes
    touched: tuple[str, ...]
    stopped: str = ""


def run_judged(order: Order, box: Box, before: Listing, limits: Limits) -> tuple[Ended, str, str]:
    """Runs a command on what lies in the box, and returns how it ended, its outcome, and the rule that it broke.

    Args:
        order: the command, with its arguments.
        box: the folders of the process.
        before: what lay in the box before the input was made.
        limits: what the process may take.
    """
    given = box.listing("case")
    ended = run_forked(order, box, limits)
    return ended, *judge(ended, order, box, before, given, limits)


def judge(ended: Ended, order: Order, box: Box, before: Listing, given: Listing, limits: Limits) -> tuple[str, str]:
    """Returns the outcome of a case, and the rule that it broke.

    A command must end by itself, in time and within its memory, with code 0 or 2. It prints no control characters; with
    code 2 stderr is one line that begins with "error: ". It neither connects, nor starts a program, nor unpickles a
    class, nor writes outside of its folders. It leaves everything as it was, but for the new folder of --out, which has
    no links. What stands in files outside of the input is not shown and not copied.

    Args:
        ended: how the process ended.
        order: the command, with its arguments.
        box: the folders of the process.
        before: what lay in the box before the case, beside the input.
        given: the input of the case.
        limits: what the process was allowed to take.
    """
    text = ended.out + ended.err
    if ended.stopped:
        return "failed", ended.stopped
    if ended.code < 0:
        return "failed", f"ended by {signal.Signals(-ended.code).name}"
    if ended.code not in (0, 2):
        fault = re.sub(rb"\(run again with.*|[^\x20-\x7e]", b"", ended.err)[:120].decode()
        return "failed", f"exit code {ended.code}: {fault}"
    if ended.megabytes > limits.megabytes:
        return "failed", "took too much memory"
    if b"llocate memory" in text or b"MemoryError" in text:
        return "failed", "asked for too much memory"
    if ended.touched:
        return "failed", ended.touched[0].replace(str(box.path), "BOX")
    if (control := _control(text)) is not None:
        return "failed", f"printed {control}"
    if SECRET.encode() in text:
        return "failed", "printed what stands in another file"
    if ended.code == 2 and not re.fullmatch(rb"error: [^\n]+\n", ended.err):
        return "failed", "stderr is not one line of an error"
    if changed := _changes(before, box.listing()):
        return "failed", f"left behind {changed}"
    after = box.listing("case")
    out = str(box.case / "out")
    made = {path: value for path, value in after.items() if "--out" in order.words and f"{path}/".startswith(f"{out}/")}
    if changed := _changes(given, {path: value for path, value in after.items() if path not in made}):
        return "failed", f"changed its input: {changed}"
    if made and ended.code == 2:
        return "failed", "left a folder of --out and an error"
    for path, (mode, *_) in made.items():
        if mode & 0o170000 not in (0o040000, 0o100000):
            return "failed", "copied what is neither a file nor a folder"
        if mode & 0o170000 == 0o100000 and SECRET.encode() in Path(path).read_bytes():
            return "failed", "copied what stands in another file"
    return ("accepted" if ended.code == 0 else "refused"), ""


def _control(text: bytes) -> str | None:
    """Returns the first character of a text that may do something to a terminal, and what is around it."""
    try:
        shown = text.decode()
    except UnicodeDecodeError:
        return "bytes that are no UTF-8"
    found = re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", shown)
    if found is None:
        return None
    around = shown[max(0, found.start() - 30) : found.end() + 30]
    return f"a control character, {found[0]!a} in {around!a}"


def _changes(before: Listing, after: Listing) -> str:
    changed = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
    return ", ".join(map(ascii, changed[:3]))


def run_forked(order: Order, box: Box, limits: Limits) -> Ended:
    """Runs a command in a forked process with limits, and returns how it ended."""
    files = {name: (box.path / name).open("w+b") for name in ("stdout", "stderr", "touched")}
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        _become(order, box, files)
    handle = os.pidfd_open(process)
    stopped, idle = "", _megabytes(os.getpid())
    watched = select.poll()
    watched.register(handle, select.POLLIN)
    while not watched.poll(20 if not stopped else 1000):
        if stopped:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        elif time.monotonic() - started > limits.seconds:
            stopped = "took too long"
        elif _megabytes(process) - idle > limits.megabytes:
            stopped = "took too much memory"
        if stopped:
            signal.pidfd_send_signal(handle, signal.SIGABRT)  # faulthandler prints where it is
    os.close(handle)
    _, status, usage = os.wait4(process, 0)
    seconds = time.monotonic() - started
    contents = {}
    for name, file in files.items():
        file.seek(0)
        contents[name] = file.read()
        file.close()
        (box.path / name).unlink()
    at_first, *touched = contents["touched"].decode(errors="backslashreplace").splitlines() or ["0"]
    return Ended(
        code=os.waitstatus_to_exitcode(status),
        seconds=seconds,
        megabytes=max(0.0, usage.ru_maxrss / 1024 - float(at_first)),
        out=contents["stdout"],
        err=contents["stderr"],
        touched=tuple(touched),
        stopped=stopped,
    )


def _megabytes(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / (1 << 20)


def _become(order: Order, box: Box, files: dict[str, Any]) -> NoReturn:
    """Turns a forked process into that of a case, and ends it."""
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(files["stdout"].fileno(), 1)
        os.dup2(files["stderr"].fileno(), 2)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
        told = io.FileIO(2, "w", closefd=False)
        sys.stderr = io.TextIOWrapper(told, encoding="utf-8", errors="backslashreplace", write_through=True)
        faulthandler.enable(file=2, all_threads=False)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (ADDRESSES << 20),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ |= {"HOME": str(box.path / "home"), "TRBERT_CACHE": str(box.path / "cache")}
        os.environ |= {"TMPDIR": str(box.path / "tmp"), "RAY_TMPDIR": str(box.path / "tmp")}
        os.environ.pop("RAY_ADDRESS", None)
        tempfile.tempdir = None
        os.chdir(box.path / "cwd")
        watched = os.dup(files["touched"].fileno())
        os.write(watched, f"{_megabytes(os.getpid())}\n".encode())
        _watch(box, watched, quiet=order.may_connect)
        code = order.command(list(order.words))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGED: dict[str, tuple[int, ...]] = {
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.link": (1,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.truncate": (0,),
    "os.utime": (0,),
}
"""Python's audit events that change a path, and which of their arguments it is."""
_STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pickle.find_class")
_SENT = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind", "socket.gethostbyname")


def _watch(box: Box, file: int, quiet: bool) -> None:
    """Lets Python tell of all that this process does outside of its box; connections are refused.

    Args:
        box: where it may do anything; what lies there is compared afterwards.
        file: where a line is written for each.
        quiet: whether a connection that was refused is not told.
    """
    inside = os.path.realpath(box.path)

    def tell(line: str) -> None:
        os.write(file, f"{line}\n".encode(errors="backslashreplace"))

    def check(path: Any, event: str) -> None:
        if not isinstance(path, str | bytes):
            return
        name = os.path.abspath(os.fsdecode(path))
        where = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        probe = "/.trbert." in where  # made to see whether a folder can be written, and removed again
        if where != os.devnull and not where.startswith(f"{inside}/") and not probe:
            tell(f"{event} outside its folders: {where}")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & _WRITES:
                check(path, "open")
        elif event in _CHANGED:
            for place in _CHANGED[event]:
                check(arguments[place], event)
        elif event in _STARTED:
            tell(f"{event} {str(arguments)[:100]}")
        elif event in _SENT:
            if not quiet:
                tell(f"{event} {str(arguments[1:])[:100]}")
            raise ConnectionRefusedError(111, "no network is reached from here")

    sys.addaudithook(hook)
